import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Attribute, GraphView, intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { floatTensor, makeTensor } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { type Grid, gridOf, groupRanges } from '../../../../src/quant/plan/ranges.ts';
import { buildUnits } from '../../../../src/quant/plan/units.ts';
import { asFloats, floats, modelOf, node, run, runner, type Shape, scalar, weight } from '../prepare/graphs.ts';

const low = (grid: Grid) => (grid.type === 'uint8' ? 0 : -128);
const real = (grid: Grid, code: number) => grid.scale * (code - grid.zeroPoint);
const types = fc.constantFrom('uint8' as const, 'int8' as const);
const bound = fc.oneof(
  fc.double({ min: -1e6, max: 1e6, noNaN: true }),
  fc.double({ min: -1, max: 1, noNaN: true }),
  fc.double({ min: -1e-12, max: 1e-12, noNaN: true }),
);
const range = fc.tuple(bound, bound).map(([a, b]) => ({ min: Math.min(a, b), max: Math.max(a, b) }));

describe('gridOf', () => {
  it('has a float32 scale above zero and a zero point among its codes', () => {
    fc.assert(
      fc.property(
        range,
        types,
        fc.boolean(),
        fc.option(fc.double({ min: 0.01, max: 100, noNaN: true }), { nil: undefined }),
        (r, type, symmetric, ceiling) => {
          const grid = gridOf(r, type, symmetric, ceiling);
          expect(grid.type).toBe(type);
          expect(grid.scale).toBe(Math.fround(grid.scale));
          expect(grid.scale).toBeGreaterThan(0);
          expect(Number.isInteger(grid.zeroPoint)).toBe(true);
          expect(grid.zeroPoint).toBeGreaterThanOrEqual(low(grid));
          expect(grid.zeroPoint).toBeLessThanOrEqual(low(grid) + 255);
        },
      ),
    );
  });
  it('is no more than half a step away from any value of its range', () => {
    fc.assert(
      fc.property(range, types, fc.boolean(), fc.double({ min: 0, max: 1, noNaN: true }), (r, type, symmetric, t) => {
        const grid = gridOf(r, type, symmetric);
        const wide = { min: Math.min(0, r.min), max: Math.max(0, r.max) };
        const x = wide.min + t * (wide.max - wide.min);
        const code = Math.min(low(grid) + 255, Math.max(low(grid), Math.round(x / grid.scale) + grid.zeroPoint));
        expect(Math.abs(real(grid, code) - x)).toBeLessThanOrEqual(0.5 * grid.scale * (1 + 1e-4));
      }),
      { numRuns: 1000 },
    );
  });
  it('starts at the lowest code where the range starts at zero, so that a ReLU folds', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1e6, noNaN: true }),
        fc.double({ min: 0, max: 1e6, noNaN: true }),
        types,
        fc.boolean(),
        (a, b, type, symmetric) => {
          const grid = gridOf({ min: Math.min(a, b), max: Math.max(a, b) }, type, symmetric);
          // But where a signed grid has to be symmetric: then its zero point is 0, and half its codes are never used.
          expect(grid.zeroPoint).toBe(type === 'uint8' || symmetric ? 0 : -128);
        },
      ),
    );
  });
  it('symmetric: zero in the middle, both signs reach as far', () => {
    fc.assert(
      fc.property(range, types, (r, type) => {
        fc.pre(r.min < 0);
        const grid = gridOf(r, type, true);
        expect(grid.zeroPoint).toBe(type === 'uint8' ? 128 : 0);
        const reach = Math.max(-r.min, r.max);
        expect(127 * grid.scale).toBeGreaterThanOrEqual(reach * (1 - 1e-6));
        if (reach > 1e-7) expect(127 * grid.scale).toBeLessThanOrEqual(reach * (1 + 1e-6));
      }),
    );
  });
  it('does not pass the bound of a folded Clip, in float32', () => {
    fc.assert(
      fc.property(
        fc.float({ min: Math.fround(1e-3), max: 1e6, noNaN: true }),
        fc.double({ min: 0.5, max: 1.5, noNaN: true }),
        types,
        (ceiling, reach, type) => {
          const grid = gridOf({ min: 0, max: ceiling * reach }, type, false, ceiling);
          expect(grid.scale).toBeLessThanOrEqual(ceiling / 255);
          expect(Math.round(Math.fround(ceiling / grid.scale))).toBeGreaterThanOrEqual(255);
        },
      ),
    );
  });
});

describe('the Clip edge bug (runtime.md, rule 7)', () => {
  const clipped = (grid: Grid, hi: number) =>
    modelOf(
      [
        node('DequantizeLinear', ['q', 'xs', 'xz'], ['x']),
        node('DequantizeLinear', ['wq', 'ws', 'wz'], ['w']),
        node('Conv', ['x', 'w'], ['c']),
        node('Clip', ['c', 'lo', 'hi'], ['d']),
        node('QuantizeLinear', ['d', 's', 'z'], ['e']),
        node('DequantizeLinear', ['e', 's', 'z'], ['y']),
      ],
      { q: [1, 8, 4, 4] },
      ['y'],
      [
        floatTensor('xs', [0.1], []),
        makeTensor('xz', DataType.UINT8, [], Uint8Array.of(128)),
        makeTensor(
          'wq',
          DataType.INT8,
          [8, 8, 1, 1],
          Int8Array.from({ length: 64 }, (_, i) => (i * 37) % 127),
        ),
        floatTensor('ws', [0.05], []),
        makeTensor('wz', DataType.INT8, [], Int8Array.of(0)),
        scalar('lo', 0),
        scalar('hi', hi),
        floatTensor('s', [grid.scale], []),
        makeTensor('z', grid.type === 'uint8' ? DataType.UINT8 : DataType.INT8, [], Uint8Array.of(grid.zeroPoint & 255)),
      ],
      { types: { q: DataType.UINT8 } },
    );
  const opens = async (grid: Grid, hi: number) => {
    const session = await runner.open(serializeModel(clipped(grid, hi)), { threads: 1 }).catch((cause: unknown) => cause as Error);
    if (session instanceof Error) return session.message;
    session.close();
    return 'loads';
  };
  it('is there, without a ceiling', async () => {
    expect(await opens({ type: 'uint8', scale: Math.fround(6 / 254.75), zeroPoint: 0 }, 6)).toMatch(/same node name/);
  });
  it('is avoided for every greatest value near the bound', async () => {
    for (let i = -40; i <= 40; i++) {
      const max = i < 0 ? 6 * (1 + i / 2000) : 6 * (1 + i / 10_000);
      const grid = gridOf({ min: 0, max }, 'uint8', false, 6);
      expect(await opens(grid, 6), `max ${max}`).toBe('loads');
    }
  });
  it('is avoided for bounds whose 255th part rounds up', async () => {
    let roundedUp = 0;
    for (let hi = 1; hi < 8; hi += 0.13) {
      const bound = Math.fround(hi);
      if (Math.fround(bound / 255) > bound / 255) roundedUp++;
      expect(await opens(gridOf({ min: 0, max: bound }, 'uint8', false, bound), bound), `bound ${bound}`).toBe('loads');
    }
    expect(roundedUp).toBeGreaterThan(10);
  });
});

const IMAGE = [1, 4, 8, 8];
const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: output, attributes });
const convs = (...names: string[]): Tensor[] => names.map((n) => weight(`w_${n}`, [4, 4, 1, 1]));
const conv = (from: string, to: string) => op('Conv', [from, `w_${to}`], to);

/** Groups of a graph whose values have these ranges; what has none is in float. */
function grouped(nodes: Node[], constants: Tensor[], ranges: Record<string, [number, number]>, outputs = ['y'], more: Shape = {}) {
  const model = modelOf(nodes, { x: IMAGE, ...more }, outputs, constants);
  const units = buildUnits(model, new GraphView(model.graph), inferShapes(model));
  const quantized = new Set(units.filter((u) => u.row).map((u) => u.id));
  const result = groupRanges(units, quantized, new Map(Object.entries(ranges).map(([k, [min, max]]) => [k, { min, max }])));
  return {
    same: (...values: string[]) => new Set(values.map(result.group)).size === 1,
    range: (value: string) => Object.values(result.range.get(result.group(value))!),
    ceiling: (value: string) => result.ceiling.get(result.group(value)),
  };
}

describe('groupRanges', () => {
  it('one grid on both sides of what moves data, all outputs of a Split too, through chains', () => {
    const g = grouped(
      [
        conv('x', 'c'),
        node('Split', ['c'], ['s', 't'], { name: 'split', attributes: [intAttr('axis', 1)] }),
        op('MaxPool', ['s'], 'm', intsAttr('kernel_shape', [2, 2])),
        op('Transpose', ['m'], 'y'),
        op('Sigmoid', ['t'], 'z'),
      ],
      convs('c'),
      { x: [-1, 1], c: [-4, 9], s: [-4, 7], t: [-3, 9], m: [-2, 7], y: [-2, 7], z: [0, 1] },
      ['y', 'z'],
    );
    expect(g.same('c', 's', 't', 'm', 'y')).toBe(true);
    expect(g.range('y')).toEqual([-4, 9]);
    expect(g.same('c', 'x')).toBe(false);
    expect(g.same('t', 'z')).toBe(false);
  });
  it('a float unit that moves data shares nothing', () => {
    const model = modelOf([conv('x', 'c'), op('Transpose', ['c'], 'y')], { x: IMAGE }, ['y'], convs('c'));
    const units = buildUnits(model, new GraphView(model.graph), inferShapes(model));
    const { group } = groupRanges(units, new Set([0]), new Map([['c', { min: -1, max: 1 }]]));
    expect(group('c')).not.toBe(group('y'));
  });
  const concat = [conv('x', 'c'), conv('x', 'd'), op('Concat', ['c', 'd'], 'y', intAttr('axis', 1))];
  it('one grid for a Concat whose inputs are alike', () => {
    const g = grouped(concat, convs('c', 'd'), { x: [-1, 1], c: [-4, 3], d: [-2, 8], y: [-4, 8] });
    expect(g.same('c', 'd', 'y')).toBe(true);
    expect(g.range('c')).toEqual([-4, 8]);
  });
  it('none where one input’s range is a small part of it', () => {
    const g = grouped(concat, convs('c', 'd'), { x: [-1, 1], c: [-0.4, 0.3], d: [-2, 8], y: [-2, 8] });
    expect(g.same('c', 'd')).toBe(false);
    expect(g.range('c')).toEqual([-0.4, 0.3]);
  });
  it('none where a ReLU would lose the zero point by which it folds', () => {
    const g = grouped(
      [conv('x', 'c'), op('Relu', ['c'], 'r'), conv('x', 'd'), op('Concat', ['r', 'd'], 'y', intAttr('axis', 1))],
      convs('c', 'd'),
      { x: [-1, 1], r: [0, 6], d: [-2, 8], y: [-2, 8] },
    );
    expect(g.same('r', 'd')).toBe(false);
    expect(g.range('r')[0]).toBe(0);
  });
  it('one where all inputs are ReLUs, and it starts at zero', () => {
    const g = grouped(
      [conv('x', 'c'), op('Relu', ['c'], 'r'), conv('x', 'd'), op('Relu', ['d'], 's'), op('Concat', ['r', 's'], 'y', intAttr('axis', 1))],
      convs('c', 'd'),
      { x: [-1, 1], r: [0, 6], s: [0, 8], y: [0, 8] },
    );
    expect(g.same('r', 's', 'y')).toBe(true);
    expect(g.range('r')).toEqual([0, 8]);
  });
  it('Clips with one bound share it; a wider input stays apart', () => {
    const nodes = (second: string) => [
      conv('x', 'c'),
      op('Clip', ['c', 'lo', 'hi'], 'r'),
      conv('x', 'd'),
      op('Clip', ['d', 'lo', second], 's'),
      op('Concat', ['r', 's'], 'y', intAttr('axis', 1)),
    ];
    const constants = [...convs('c', 'd'), scalar('lo', 0), scalar('hi', 6), scalar('more', 20)];
    const alike = grouped(nodes('hi'), constants, { x: [-1, 1], r: [0, 6], s: [0, 5], y: [0, 6] });
    expect(alike.same('r', 's', 'y')).toBe(true);
    expect(alike.ceiling('y')).toBe(6);
    const apart = grouped(nodes('more'), constants, { x: [-1, 1], r: [0, 6], s: [0, 15], y: [0, 15] });
    expect(apart.same('r', 's')).toBe(false);
    expect([apart.ceiling('r'), apart.ceiling('s')]).toEqual([6, 20]);
  });
  it('a constant zero range keeps nothing apart', () => {
    const g = grouped(concat, convs('c', 'd'), { x: [-1, 1], c: [0, 0], d: [-2, 8], y: [-2, 8] });
    expect(g.same('c', 'd')).toBe(true);
  });
  it('a ReLU’s range starts at zero even where a range rule says otherwise', () => {
    const g = grouped([conv('x', 'c'), op('Relu', ['c'], 'y')], convs('c'), { x: [-1, 1], y: [-0.001, 5] });
    expect(g.range('y')).toEqual([0, 5]);
  });
});

describe('grids in the runtime', () => {
  it('round as QuantizeLinear does, and give zero back as zero', async () => {
    for (const [min, max] of [
      [-1, 3],
      [-0.2, 0.7],
      [0, 5],
      [-7, 0],
      [-3, 3],
    ] as const) {
      for (const symmetric of [false, true]) {
        const grid = gridOf({ min, max }, 'uint8', symmetric);
        const model = modelOf(
          [node('QuantizeLinear', ['x', 's', 'z'], ['q']), node('DequantizeLinear', ['q', 's', 'z'], ['y'])],
          { x: [5] },
          ['y'],
          [floatTensor('s', [grid.scale], []), makeTensor('z', DataType.UINT8, [], Uint8Array.of(grid.zeroPoint))],
        );
        const x = [0, min, max, (min + max) / 2, min / 3];
        const y = asFloats((await run(model, { x: floats(x, [5]) }, 'disable')).y!);
        expect(y[0]).toBe(0);
        y.forEach((v, i) => {
          expect(Math.abs(v - x[i]!)).toBeLessThanOrEqual(0.5 * grid.scale * (1 + 1e-5));
        });
      }
    }
  });
});
