import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { ObservedStatistics } from '../../../../src/domain/runner.ts';
import { GraphView } from '../../../../src/onnx/graph.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { expectedNoise, sensitivities } from '../../../../src/quant/measure/sensitivity.ts';
import { withinNoiseBudget } from '../../../../src/quant/plan/noise-budget.ts';
import { quantizationFor } from '../../../../src/quant/plan/plan.ts';
import { buildUnits } from '../../../../src/quant/plan/units.ts';
import { dequantizeWeight, unitWeight } from '../../../../src/quant/transform/weights.ts';
import { profile } from '../emit/quantize.ts';
import { modelOf, node, weight } from '../prepare/graphs.ts';

const N = 8;
const model = modelOf(
  Array.from({ length: N }, (_, i) => node('MatMul', [`v${i}`, 'w'], [`v${i + 1}`], { name: `layer_${i}` })),
  { v0: [64, 64] },
  [`v${N}`],
  [weight('w', [64, 64])],
);
const types = inferShapes(model);
const units = buildUnits(model, new GraphView(model.graph), types);
const planned = new Set(units.map((u) => u.id));
const sum = (plan: Iterable<number>, own: number[]) => [...plan].reduce((a, id) => a + own[id]!, 0);

/** Noises add up: what the relaxation is about. */
async function budgeted(own: number[], floatUs: number[], integerUs: number[], budget: number) {
  let judged = 0;
  const judge = async (plan: ReadonlySet<number>) => {
    judged++;
    return { noise: sum(plan, own), plan };
  };
  const costs = Object.fromEntries(units.map((u) => [u.name, { floatUs: floatUs[u.id]!, integerUs: integerUs[u.id]! }]));
  const result = await withinNoiseBudget({
    units,
    planned,
    start: { noise: sum(planned, own), plan: planned },
    own: new Map(own.map((n, id) => [id, n])),
    costs,
    types,
    budget,
    judge,
  });
  return { ...result, calls: judged };
}

describe('withinNoiseBudget', () => {
  it('puts the one noisy layer back into float, and leaves the others', async () => {
    const own = [1, 1, 1, 900, 1, 1, 1, 1].map((n) => n * 1e-5);
    const { plan, judged } = await budgeted(own, new Array(N).fill(200), new Array(N).fill(50), 1e-3);
    expect([...plan].sort()).toEqual([0, 1, 2, 4, 5, 6, 7]);
    expect(judged.noise).toBeLessThanOrEqual(1e-3);
  });
  it('gives up the layer that gains least for its noise', async () => {
    const float = [200, 200, 200, 2000, 200, 200, 200, 200];
    const own = [1, 1, 1, 40, 1, 1, 40, 1].map((n) => n * 1e-5);
    const { plan } = await budgeted(
      own,
      float,
      float.map((f) => f / 4),
      50e-5,
    );
    expect(plan.has(3)).toBe(true);
    expect(plan.has(6)).toBe(false);
  });
  it('stays within what was planned, keeps the budget where any price does, and asks seldom', async () => {
    const noises = fc.array(
      fc.double({ min: 0, max: 6, noNaN: true }).map((e) => 10 ** -e),
      { minLength: N, maxLength: N },
    );
    const costs = fc.array(fc.integer({ min: 10, max: 2000 }), { minLength: N, maxLength: N });
    await fc.assert(
      fc.asyncProperty(noises, costs, fc.double({ min: 0, max: 5, noNaN: true }), async (own, float, exponent) => {
        const budget = 10 ** -exponent;
        const { plan, judged, calls } = await budgeted(
          own,
          float,
          float.map((f) => f / 4),
          budget,
        );
        for (const id of plan) expect(planned.has(id)).toBe(true);
        expect(judged.noise).toBe(sum(plan, own));
        expect(calls).toBeLessThanOrEqual(6);
        if (sum(planned, own) > budget && judged.noise > budget) {
          // Missed: then it is the least noisy of all that were asked about, and better than the start or the start itself.
          expect(judged.noise).toBeLessThanOrEqual(sum(planned, own));
        }
        // One layer alone within the budget that pays by far: then the budget must be met.
        const easy = own.some((n, id) => n < budget / 100 && float[id]! > 1000);
        if (easy) expect(judged.noise).toBeLessThanOrEqual(budget);
      }),
      { numRuns: 150 },
    );
  });
  it('a signal ends it', async () => {
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    const input = {
      units,
      planned,
      start: { noise: 1 },
      own: new Map(units.map((u) => [u.id, 1])),
      costs: Object.fromEntries(units.map((u) => [u.name, { floatUs: 100, integerUs: 10 }])),
      types,
      budget: 0.5,
      judge: async () => ({ noise: 1 }),
      signal: controller.signal,
    };
    await expect(withinNoiseBudget(input)).rejects.toThrow('enough');
  });
});

describe('sensitivities', () => {
  const even = { expected: () => 1, progress: () => {}, atATime: 2 };

  it('are each unit’s own, in the units’ order, however many at a time', async () => {
    for (const atATime of [1, 3, 20]) {
      let [running, most] = [0, 0];
      const progress: number[] = [];
      const own = await sensitivities(
        units,
        async (group) => {
          expect(group).toHaveLength(1);
          most = Math.max(most, ++running);
          await new Promise((resolve) => setTimeout(resolve, (group[0]!.id * 7) % 5));
          running--;
          return group[0]!.id / 10;
        },
        { ...even, most: N, progress: (fraction) => progress.push(fraction), atATime },
      );
      expect([...own]).toEqual(units.map((u) => [u.id, u.id / 10]));
      expect(most).toBe(Math.min(atATime, N));
      expect(progress).toEqual(units.map((_, i) => (i + 1) / N));
    }
  });
  it('are shared out in groups where there are fewer measurements than units: all of the noise, to those that were expected to have it', async () => {
    const positive = fc.double({ min: 1e-9, max: 1, noNaN: true });
    const many = fc.array(fc.tuple(positive, positive), { minLength: N, maxLength: N });
    await fc.assert(
      fc.asyncProperty(many, fc.integer({ min: 2, max: N - 1 }), fc.constantFrom(1, 2, 4), async (pairs, most, atATime) => {
        let asked = 0;
        const noise = async (group: { id: number }[]) => {
          asked++;
          // Neighbours, and never none.
          expect(group.length).toBeGreaterThan(0);
          expect(group.map((u) => u.id)).toEqual(group.map((_, i) => group[0]!.id + i));
          return group.reduce((total, u) => total + pairs[u.id]![0], 0);
        };
        const own = await sensitivities(units, noise, { ...even, most, expected: (u) => pairs[u.id]![1], atATime });
        expect(asked).toBeLessThanOrEqual(most);
        expect([...own.keys()]).toEqual(units.map((u) => u.id));
        const whole = pairs.reduce((total, [n]) => total + n, 0);
        expect([...own.values()].reduce((a, b) => a + b, 0)).toBeCloseTo(whole, 9);
        // A forecast that is right to a factor gives what is right.
        const right = await sensitivities(units, noise, { ...even, most, expected: (u) => 3 * pairs[u.id]![0], atATime });
        for (const unit of units) expect(right.get(unit.id)! / pairs[unit.id]![0]).toBeCloseTo(1, 6);
      }),
      { numRuns: 200 },
    );
  });
  it('find the one noisy unit among many by halving', async () => {
    for (let noisy = 0; noisy < N; noisy++) {
      const own = await sensitivities(units, async (group) => group.reduce((total, u) => total + (u.id === noisy ? 1 : 1e-4), 0), {
        ...even,
        most: N - 1,
      });
      const order = [...own].sort((a, b) => b[1] - a[1]);
      expect(order[0]![0]).toBe(noisy);
      expect(order[0]![1]).toBeGreaterThan(0.9);
    }
  });
  it('end with the first error, after those that had begun', async () => {
    let ended = 0;
    const failing = sensitivities(
      units,
      async ([unit]) => {
        if (unit!.id === 1) throw new Error('not this one');
        await new Promise((resolve) => setTimeout(resolve, 20));
        ended++;
        return 0;
      },
      { ...even, most: N },
    );
    await expect(failing).rejects.toThrow('not this one');
    expect(ended).toBe(1);
  });
});

describe('expectedNoise', () => {
  it('is the noise that rounding really adds, for values spread over their range', async () => {
    const graph = modelOf([node('MatMul', ['a', 'w'], ['b'], { name: 'layer' })], { a: [64, 64] }, ['b'], [weight('w', [64, 64])]);
    const [unit] = buildUnits(graph, new GraphView(graph.graph), inferShapes(graph));
    const draw = (n: number, scale: number) => Float32Array.from({ length: n }, (_, i) => scale * Math.sin(i * 12.9898 + scale));
    const values = new Map([
      ['a', draw(40_000, 3)],
      ['b', draw(40_000, 11)],
    ]);
    const observations = new Map(
      [...values].map(([name, x]) => {
        const sumSquares = x.reduce((total, v) => total + v * v, 0);
        return [name, { count: x.length, sumSquares } as ObservedStatistics];
      }),
    );
    const ranges = new Map([
      ['a', { min: -3, max: 3 }],
      ['b', { min: -11, max: 11 }],
    ]);
    const recipe = resolveRecipe({ method: 'static' });
    const constant = (name: string) => graph.graph.initializers.get(name);
    const quantization = quantizationFor({ units: [unit!], quantized: new Set([0]), ranges, recipe, profile, constant });
    // Brute force: each value to its code and back.
    let noise = 0;
    for (const [name, x] of values) {
      const { scale } = quantization.grid(name);
      const error = x.reduce((total, v) => total + (v - scale * Math.round(v / scale)) ** 2, 0);
      noise += error / observations.get(name)!.sumSquares;
    }
    const w = unitWeight(unit!);
    const rounded = dequantizeWeight(quantization.weights.get(0)!);
    noise += w.reduce((total, v, i) => total + (v - rounded[i]!) ** 2, 0) / w.reduce((total, v) => total + v * v, 0);
    expect(expectedNoise(unit!, quantization, observations) / noise).toBeGreaterThan(0.8);
    expect(expectedNoise(unit!, quantization, observations) / noise).toBeLessThan(1.25);
  });
});
