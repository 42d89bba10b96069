import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { ObservedStatistics } from '../../../../src/domain/runner.ts';
import { type Attribute, GraphView, intAttr } from '../../../../src/onnx/graph.ts';
import type { Node, Tensor } from '../../../../src/onnx/model.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { floatData, floatTensor } from '../../../../src/onnx/tensor.ts';
import { chooseByCost, crossingUs, forbidden, matchesPattern, quantizationFor } from '../../../../src/quant/plan/plan.ts';
import { buildUnits } from '../../../../src/quant/plan/units.ts';
import { dequantizeWeight } from '../../../../src/quant/transform/weights.ts';
import { profile } from '../emit/quantize.ts';
import { modelOf, node, type Shape, scalar, weight } from '../prepare/graphs.ts';

const IMAGE = [1, 4, 8, 8];
const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: output, attributes });
const conv = (from: string, to: string) => op('Conv', [from, `w_${to}`, `b_${to}`], to);
const layers = (...names: string[]): Tensor[] => names.flatMap((n) => [weight(`w_${n}`, [4, 4, 3, 3]), weight(`b_${n}`, [4])]);
function graph(nodes: Node[], constants: Tensor[], outputs = ['y'], more: Shape = {}) {
  const model = modelOf(nodes, { x: IMAGE, ...more }, outputs, constants);
  const types = inferShapes(model);
  const constant = (name: string) => model.graph.initializers.get(name);
  return { model, types, units: buildUnits(model, new GraphView(model.graph), types), constant };
}
const statistics = (of: Partial<ObservedStatistics> = {}): ObservedStatistics => ({
  count: 10,
  nans: 0,
  infs: 0,
  min: -1,
  max: 1,
  meanMin: -1,
  meanMax: 1,
  sum: 0,
  sumSquares: 1,
  histogram: null,
  channels: null,
  ...of,
});

describe('matchesPattern', () => {
  const regex = (pattern: string) =>
    new RegExp(
      `^${pattern
        .split('*')
        .map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
        .join('[^]*')}$`,
    );
  it('is what a regular expression says', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '*', '.', '/'), maxLength: 8 });
    const name = fc.string({ unit: fc.constantFrom('a', 'b', '.', '/'), maxLength: 10 });
    fc.assert(
      fc.property(letters, name, (pattern, n) => {
        expect(matchesPattern(pattern, n)).toBe(regex(pattern).test(n));
      }),
      { numRuns: 5000 },
    );
  });
  it('of any text, also of what means something in regular expressions', () => {
    const text = fc.string({ unit: 'binary', maxLength: 6 });
    fc.assert(
      fc.property(
        fc.array(
          text.map((t) => t.replaceAll('*', '')),
          { minLength: 1, maxLength: 4 },
        ),
        fc.array(text, { maxLength: 3 }),
        (parts, fill) => {
          const name = parts.map((part, i) => part + (i < parts.length - 1 ? (fill[i] ?? '') : '')).join('');
          expect(matchesPattern(parts.join('*'), name)).toBe(true);
        },
      ),
    );
  });
  it('takes no time that grows with the number of ways to match', () => {
    const started = performance.now();
    expect(matchesPattern(`${'a*'.repeat(40)}b`, 'a'.repeat(20_000))).toBe(false);
    expect(performance.now() - started).toBeLessThan(1000);
  });
});

describe('forbidden', () => {
  const { units, constant } = graph(
    [conv('x', 'block1/c'), op('Relu', ['block1/c'], 'r'), op('Add', ['r', 'r'], 's'), op('Tanh', ['s'], 'y')],
    layers('block1/c'),
  );
  const observed = new Map(['x', 'r', 's'].map((v) => [v, statistics()]));
  const reasons = (exclude: object, observations = observed) =>
    units.map((u) => forbidden(u, resolveRecipe({ method: 'static', exclude }), observations, constant)?.reason ?? null);
  it.each([
    [{}, [null, null, 'no-integer-kernel']],
    [{ names: ['block1/c'] }, ['excluded-by-recipe', null, 'no-integer-kernel']],
    [{ names: ['block1', 'R'] }, [null, null, 'no-integer-kernel']],
    [{ patterns: ['block1/*'] }, ['excluded-by-recipe', null, 'no-integer-kernel']],
    [{ patterns: ['*'] }, ['excluded-by-recipe', 'excluded-by-recipe', 'no-integer-kernel']],
    [{ operators: ['Add'] }, [null, 'excluded-by-recipe', 'no-integer-kernel']],
    [{ operators: ['Conv', 'Add'] }, ['excluded-by-recipe', 'excluded-by-recipe', 'no-integer-kernel']],
  ])('exclude %j', (exclude, want) => {
    expect(reasons(exclude)).toEqual(want);
  });
  it('a weight that is not finite, whatever its output is', () => {
    const [tensor] = layers('block1/c');
    const infinite = {
      ...tensor!,
      data: floatTensor(
        tensor!.name,
        Float32Array.from(floatData(tensor!), (v, i) => (i === 3 ? Infinity : v)),
        tensor!.dims,
      ).data,
    };
    const other = graph([conv('x', 'block1/c'), op('Tanh', ['block1/c'], 'y')], [infinite, ...layers('block1/c').slice(1)]);
    const seen = new Map([...observed, ['block1/c', statistics()]]);
    expect(forbidden(other.units[0]!, resolveRecipe({ method: 'static' }), seen, other.constant)?.reason).toBe('not-finite');
  });
  it.each([
    ['NaN at the output', 's', statistics({ nans: 1 }), [null, 'not-finite']],
    ['Inf at an input', 'x', statistics({ infs: 3 }), ['not-finite', null]],
    ['a value between that was empty', 'r', statistics({ count: 0 }), ['not-observed', 'not-observed']],
    ['a value that was not observed', 'r', undefined, ['not-observed', 'not-observed']],
  ])('%s', (_, value, s, want) => {
    const observations = new Map(observed);
    if (s) observations.set(value, s);
    else observations.delete(value);
    expect(reasons({}, observations).slice(0, 2)).toEqual(want);
  });
});

describe('chooseByCost', () => {
  const { units, types } = graph(
    [conv('x', 'a'), op('Tanh', ['a'], 't'), conv('t', 'b'), conv('b', 'c'), op('Add', ['c', 'b'], 'y')],
    layers('a', 'b', 'c'),
  );
  const allowed = new Set(units.filter((u) => u.row).map((u) => u.id));
  const costs = (of: Record<string, [number, number | null]>) => ({
    units: Object.fromEntries(Object.entries(of).map(([k, [floatUs, integerUs]]) => [k, { floatUs, integerUs }])),
  });
  const names = (plan: Set<number>) => units.filter((u) => plan.has(u.id)).map((u) => u.name);
  const fixed = crossingUs('a', types);

  it('costs what the dearest of all choices does not undercut', () => {
    // Brute force over every choice, with a price for each edge between sides.
    const cost = fc.integer({ min: 0, max: 60 });
    fc.assert(
      fc.property(fc.array(fc.tuple(cost, cost), { minLength: 5, maxLength: 5 }), fc.constantFrom(0, 0.4, 1, 2.5), (pairs, factor) => {
        const table = costs(Object.fromEntries(units.map((u, i) => [u.name, [pairs[i]![0], allowed.has(u.id) ? pairs[i]![1] : null]])));
        const priced = (plan: ReadonlySet<number>) => {
          let sum = 0;
          for (const u of units) {
            const own = table.units[u.name]!;
            sum += plan.has(u.id) ? own.integerUs! : own.floatUs;
            for (const value of new Set(u.nodes.flatMap((n) => n.inputs))) {
              const maker = units.find((m) => m.outputs.includes(value));
              if (!maker && value !== 'x') continue;
              if ((maker ? plan.has(maker.id) : false) !== plan.has(u.id)) sum += factor * crossingUs(value, types);
            }
          }
          return sum;
        };
        const ids = [...allowed];
        let best = Infinity;
        for (let mask = 0; mask < 1 << ids.length; mask++) best = Math.min(best, priced(new Set(ids.filter((_, i) => mask & (1 << i)))));
        const plan = chooseByCost(units, allowed, table, types, factor);
        expect(priced(plan)).toBeCloseTo(best, 6);
        for (const id of plan) expect(allowed.has(id)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
  it('takes a fast layer that pays for its conversions, leaves one that does not', () => {
    expect(
      names(chooseByCost(units, allowed, costs({ a: [10 * fixed, 1], t: [1, null], b: [1.5 * fixed, 1], c: [5, 9], y: [5, 9] }), types, 1)),
    ).toEqual(['a']);
  });
  it('takes a losing layer between winning ones rather than convert', () => {
    const table = costs({ a: [1, 9], t: [1, null], b: [90, 1], c: [1, 3], y: [90, 1] });
    expect(names(chooseByCost(units, allowed, table, types, 1))).toEqual(['b', 'c', 'y']);
  });
  it('never takes what is not allowed, however cheap', () => {
    const table = costs({ a: [90, 1], t: [90, null], b: [90, 1], c: [90, 1], y: [90, 1] });
    expect(names(chooseByCost(units, new Set([units[0]!.id]), table, types, 0))).toEqual(['a']);
  });
});

describe('crossingUs', () => {
  it('grows with the elements; an unknown shape counts as small', () => {
    const types = new Map([
      ['small', { elemType: 1 as const, shape: [1, 10] }],
      ['large', { elemType: 1 as const, shape: [1, 100, 100, 100] }],
      ['free', { elemType: 1 as const, shape: ['N', 10] }],
    ]);
    expect(crossingUs('large', types)).toBeGreaterThan(crossingUs('small', types));
    expect(crossingUs('free', types)).toBe(crossingUs('unheard', types));
    expect(Number.isFinite(crossingUs('unheard', types))).toBe(true);
  });
});

describe('quantizationFor', () => {
  const { model, units } = graph(
    [conv('x', 'a'), op('Relu', ['a'], 'r'), op('Mul', ['r', 'k'], 'm'), op('Concat', ['m', 'k2'], 'y', intAttr('axis', 1))],
    [...layers('a'), scalar('k', -0.3), weight('k2', [1, 2, 6, 6], { scale: 4 })],
  );
  const ranges = new Map(
    Object.entries({ x: { min: -2, max: 3 }, r: { min: 0, max: 5 }, m: { min: -1.5, max: 0 }, y: { min: -9, max: 9 } }),
  );
  const plan = (recipe: object = {}, more: object = {}, quantized = new Set(units.map((u) => u.id))) =>
    quantizationFor({
      units,
      quantized,
      ranges,
      recipe: resolveRecipe({ method: 'static', ...recipe }),
      profile,
      constant: (name) => model.graph.initializers.get(name),
      ...more,
    });

  it('gives weights, biases and constants to what is in integers, and to nothing else', () => {
    const all = plan();
    expect([...all.weights.keys()]).toEqual([units[0]!.id]);
    expect([...all.biases.keys()]).toEqual([units[0]!.id]);
    expect([...all.constants.keys()]).toEqual(['k', 'k2']);
    const one = plan({}, {}, new Set([units[1]!.id]));
    expect(one.weights.size + one.biases.size).toBe(0);
    expect([...one.constants.keys()]).toEqual(['k']);
  });
  it('constants lie on grids of their own, within half a step', () => {
    const { constants } = plan();
    for (const [name, q] of constants) {
      const want = floatData(model.graph.initializers.get(name)!);
      dequantizeWeight(q).forEach((v, i) => {
        expect(Math.abs(v - want[i]!)).toBeLessThanOrEqual(0.5 * q.scales[0]! * (1 + 1e-5));
      });
      expect([q.type, q.axis, q.scales.length]).toEqual(['uint8', null, 1]);
    }
  });
  it('a symmetric recipe, or a profile that takes nothing else, puts zero in the middle where there are negative values', () => {
    for (const q of [
      plan({ activations: { symmetric: true } }),
      plan({}, { profile: { ...profile, requireSymmetricActivations: true } }),
    ]) {
      expect(q.grid('x').zeroPoint).toBe(128);
      expect(q.grid('m').zeroPoint).toBe(128);
      expect(q.grid('r').zeroPoint).toBe(0);
    }
  });
  it('corrections are added to the bias before it is rounded', () => {
    const correction = Float64Array.of(0.5, -1, 0, 2);
    const [plain, corrected] = [plan(), plan({}, { corrections: new Map([[units[0]!.id, correction]]) })];
    const real = (q: typeof plain) => [...q.biases.get(units[0]!.id)!.data].map((v, i) => v * q.biases.get(units[0]!.id)!.scales[i]!);
    const before = real(plain);
    expect(real(corrected).map((v, i) => v - before[i]!)).toEqual([...correction].map((v) => expect.closeTo(v, 3)));
  });
  it('a layer without a bias gets one for a correction', () => {
    const bare = graph([op('Conv', ['x', 'w_y'], 'y')], [weight('w_y', [4, 4, 3, 3])]);
    const q = quantizationFor({
      units: bare.units,
      quantized: new Set([0]),
      ranges: new Map([
        ['x', { min: -1, max: 1 }],
        ['y', { min: -1, max: 1 }],
      ]),
      recipe: resolveRecipe({ method: 'static' }),
      profile,
      constant: (name) => bare.model.graph.initializers.get(name),
      corrections: new Map([[0, Float64Array.of(1, 2, 3, 4)]]),
    });
    expect([...q.biases.get(0)!.data].map((v, i) => v * q.biases.get(0)!.scales[i]!)).toEqual(
      [1, 2, 3, 4].map((v) => expect.closeTo(v, 3)),
    );
  });
  it('channels with 7 bits keep to −64 … 64, the others use 8', () => {
    const { weights } = plan({}, { sevenBits: new Map([[units[0]!.id, new Set([1, 3])]]) });
    const { data } = weights.get(units[0]!.id)!;
    const greatest = [0, 1, 2, 3].map((c) => [...data.subarray(c * 36, (c + 1) * 36)].reduce((a, v) => Math.max(a, Math.abs(v)), 0));
    expect(greatest).toEqual([127, 64, 127, 64]);
  });
  it('is the same for the same input', () => {
    const text = (q: ReturnType<typeof plan>) =>
      JSON.stringify([[...q.weights], [...q.biases], [...q.constants], ['x', 'r', 'm', 'y'].map(q.grid)]);
    expect(text(plan())).toBe(text(plan()));
  });
  it('knows no grid of a value that no integer unit touches', () => {
    expect(() => plan().grid('w_a')).toThrow(/no range/);
  });
});
