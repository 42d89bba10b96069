/** Oracle: countSaturation, which counts pairs as x86's 16-bit kernels add them (and is itself tested against those kernels). */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ConvGeometry, countSaturation, quantizeLinearSync } from '../../../../native/index.ts';
import { type Recipe, resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { ObservedStatistics } from '../../../../src/domain/runner.ts';
import { type Attribute, attrInt, attrInts, intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { type Grid, gridOf, type Range } from '../../../../src/quant/plan/ranges.ts';
import { type Choice, quantizationUnder } from '../../../../src/quant/transform/candidate.ts';
import { compensatedCodes, secondMoments } from '../../../../src/quant/transform/compensated-rounding.ts';
import { saturatingChannels } from '../../../../src/quant/transform/saturation.ts';
import { type QuantizedWeight, SEVEN_BITS } from '../../../../src/quant/transform/weights.ts';
import { inFolder, profile } from '../emit/quantize.ts';
import { normals, randomSource, runner } from '../prepare/graphs.ts';
import { feedsOf, type Layer, layerOf, nearest, statisticsOf } from './layers.ts';

const count = (dims: number[]) => dims.reduce((a, b) => a * b, 1);
const LAYERS: (Layer & { name: string })[] = [
  { name: 'Conv', opType: 'Conv', input: [1, 6, 7, 8], weight: [8, 6, 3, 3], attributes: [intsAttr('pads', [1, 0, 1, 2])] },
  { name: 'Conv of odd depth', opType: 'Conv', input: [1, 3, 7, 8], weight: [8, 3, 3, 3], attributes: [intsAttr('strides', [2, 2])] },
  { name: 'Conv 1×1', opType: 'Conv', input: [1, 6, 7, 8], weight: [8, 6, 1, 1] },
  { name: 'Conv 1-D', opType: 'Conv', input: [1, 4, 20], weight: [8, 4, 3], attributes: [intsAttr('dilations', [2])] },
  { name: 'Conv grouped', opType: 'Conv', input: [1, 6, 7, 8], weight: [6, 3, 2, 3], attributes: [intAttr('group', 2)] },
  { name: 'depthwise multiplier', opType: 'Conv', input: [1, 4, 7, 8], weight: [8, 1, 3, 3], attributes: [intAttr('group', 4)] },
  { name: 'Gemm', opType: 'Gemm', input: [5, 7], weight: [7, 8] },
  { name: 'Gemm transB', opType: 'Gemm', input: [5, 8], weight: [8, 8], attributes: [intAttr('transB', 1)] },
  { name: 'MatMul', opType: 'MatMul', input: [5, 8], weight: [8, 8] },
];

/** Codes of a run, and the pairs of each output channel that leave 16 bits on it. */
async function counted(layer: Layer, weight: QuantizedWeight, grid: Grid, x: Float32Array): Promise<Float64Array> {
  const codes = new Uint8Array(x.length);
  quantizeLinearSync(x, codes, Float32Array.of(grid.scale), Int32Array.of(grid.zeroPoint), 1, x.length);
  const node = { attributes: new Map((layer.attributes ?? []).map((a: Attribute) => [a.name, a])) } as Parameters<typeof attrInt>[0];
  if (layer.opType === 'Conv') {
    const geometry: ConvGeometry = {
      kind: 'conv',
      inputShape: layer.input.slice(1),
      weightShape: layer.weight,
      group: attrInt(node, 'group', 1),
      zeroPoint: grid.zeroPoint,
    };
    for (const name of ['pads', 'strides', 'dilations'] as const) {
      const given = attrInts(node, name);
      if (given) geometry[name] = given;
    }
    return countSaturation(codes, weight.data as Int8Array, geometry);
  }
  const [rows, columns] = attrInt(node, 'transB', 0) ? [layer.weight[1]!, layer.weight[0]!] : [layer.weight[0]!, layer.weight[1]!];
  const w = attrInt(node, 'transB', 0)
    ? Int8Array.from({ length: weight.data.length }, (_, i) => weight.data[(i % columns) * rows + Math.floor(i / columns)]!)
    : (weight.data as Int8Array);
  return countSaturation(codes, w, { kind: 'matmul', inputShape: layer.input, weightShape: [rows, columns] });
}
const exact = (layer: Layer, runs: Float32Array[], perChannel = true) => {
  const axis = layer.opType === 'Conv' ? 1 : layer.input.length - 1;
  const [length, inner] = [layer.input[axis]!, count(layer.input.slice(axis + 1))];
  const max = new Float64Array(length).fill(-Infinity);
  const all = { min: Infinity, max: -Infinity };
  for (const x of runs) {
    x.forEach((v, i) => {
      const c = Math.floor(i / inner) % length;
      max[c] = Math.max(max[c]!, v);
      all.min = Math.min(all.min, v);
      all.max = Math.max(all.max, v);
    });
  }
  const channels = perChannel ? { min: max, max, mean: max } : null;
  return {
    count: 1,
    nans: 0,
    infs: 0,
    ...all,
    meanMin: 0,
    meanMax: 0,
    sum: 0,
    sumSquares: 0,
    histogram: null,
    channels,
  } satisfies ObservedStatistics;
};

/** Weights as trouble: large neighbours of one sign, of both, single large ones, small ones. */
const adversarial = (n: number, seed: number): Float32Array => {
  const random = randomSource(seed);
  return Float32Array.from({ length: n }, () => {
    const kind = random();
    if (kind < 0.3) return 1;
    if (kind < 0.5) return -1;
    if (kind < 0.7) return (random() > 0.5 ? 1 : -1) * (0.49 + 0.04 * random());
    return 0.2 * (random() - 0.5);
  });
};
const activations = (n: number, seed: number, positive: boolean): Float32Array => {
  const random = randomSource(seed);
  return Float32Array.from({ length: n }, () => {
    const v = random() < 0.2 ? 1 : random();
    return positive ? v : 2 * v - 1;
  });
};

describe('saturatingChannels', () => {
  it.each(LAYERS.map((l) => [l.name, l] as const))(
    '%s: names every channel that saturates on the data, and none does with 7 bits',
    async (_, layer) => {
      let [saturating, named, channels] = [0, 0, 0];
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 0, max: 1e6 }),
          fc.boolean(),
          fc.boolean(),
          fc.boolean(),
          async (seed, positive, wild, perChannel) => {
            const weights = wild ? adversarial(count(layer.weight), seed) : normals(count(layer.weight), seed);
            const { unit } = layerOf(layer, weights);
            const runs = [0, 1].map((i) => activations(count(layer.input), seed + i, positive));
            const statistics = exact(layer, runs, perChannel);
            const grid = gridOf(statistics, 'uint8', false);
            const quantized = nearest(unit);
            const found = saturatingChannels(unit, quantized, grid, new Map([['x', statistics]]));
            const narrow = nearest(unit, found);
            for (const x of runs) {
              const pairs = await counted(layer, quantized, grid, x);
              pairs.forEach((n, channel) => {
                if (n > 0) expect(found.has(channel)).toBe(true);
                if (n > 0) saturating++;
              });
              const after = await counted(layer, narrow, grid, x);
              expect([...after].every((n) => n === 0)).toBe(true);
            }
            expect(saturatingChannels(unit, narrow, grid, new Map([['x', statistics]])).size).toBe(0);
            named += found.size;
            channels += quantized.scales.length;
          },
        ),
        { numRuns: 40 },
      );
      // The test would be idle without trouble.
      expect(saturating).toBeGreaterThan(5);
      expect(named).toBeLessThanOrEqual(channels);
    },
  );
  it('names few that do not: a channel whose inputs stay small is left its 8 bits', () => {
    const layer = LAYERS.find((l) => l.name === 'Conv 1×1')!;
    const { unit } = layerOf(layer, new Float32Array(48).fill(1));
    const runs = [Float32Array.from({ length: count(layer.input) }, (_, i) => (Math.floor(i / 56) < 1 ? 1 : 0.01))];
    const statistics = exact(layer, runs);
    const grid = gridOf(statistics, 'uint8', false);
    expect(saturatingChannels(unit, nearest(unit), grid, new Map([['x', statistics]])).size).toBe(0);
    // Without the channels’ own extremes every pair may be large.
    expect(saturatingChannels(unit, nearest(unit), grid, new Map([['x', { ...statistics, channels: null }]])).size).toBe(8);
    // Of another axis: the same as none.
    const other = { ...statistics.channels!, max: Float64Array.of(0.1, 0.1) };
    expect(saturatingChannels(unit, nearest(unit), grid, new Map([['x', { ...statistics, channels: other }]])).size).toBe(8);
  });
  it('depthwise never saturates; nor do uint8 weights or int8 activations', async () => {
    const layer: Layer = { opType: 'Conv', input: [1, 6, 7, 8], weight: [6, 1, 3, 3], attributes: [intAttr('group', 6)] };
    const { unit } = layerOf(layer, new Float32Array(54).fill(1));
    const runs = [new Float32Array(count(layer.input)).fill(1)];
    const [statistics, quantized] = [exact(layer, runs), nearest(unit)];
    const grid = gridOf(statistics, 'uint8', false);
    expect(saturatingChannels(unit, quantized, grid, new Map([['x', statistics]])).size).toBe(0);
    expect([...(await counted(layer, quantized, grid, runs[0]!))].every((n) => n === 0)).toBe(true);
    const dense = layerOf(LAYERS[0]!, new Float32Array(count(LAYERS[0]!.weight)).fill(1));
    const codes = nearest(dense.unit);
    const seen = new Map([['x', exact(LAYERS[0]!, [new Float32Array(count(LAYERS[0]!.input)).fill(1)])]]);
    expect(saturatingChannels(dense.unit, codes, grid, seen).size).toBe(8);
    expect(saturatingChannels(dense.unit, { ...codes, type: 'uint8' }, grid, seen).size).toBe(0);
    expect(saturatingChannels(dense.unit, codes, { ...grid, type: 'int8' }, seen).size).toBe(0);
  });
  it('statistics that the engine gathers serve as well', async () => {
    const layer = LAYERS[0]!;
    const { unit, model } = layerOf(layer, adversarial(count(layer.weight), 4));
    const runs = [activations(count(layer.input), 8, true), activations(count(layer.input), 9, true)];
    const statistics = await statisticsOf(model, feedsOf(layer, runs), 1);
    const grid = gridOf(statistics, 'uint8', false);
    const found = saturatingChannels(unit, nearest(unit), grid, new Map([['x', statistics]]));
    expect(found).toEqual(saturatingChannels(unit, nearest(unit), grid, new Map([['x', exact(layer, runs)]])));
  });
});

describe('a whole choice of numbers', () => {
  const shapes = LAYERS.filter((l) => l.name !== 'Conv 1-D');
  const recipes: [string, Recipe][] = [
    ['by channel', { method: 'static' }],
    ['by tensor', { method: 'static', weights: { granularity: 'tensor' } }],
    ['asymmetric', { method: 'static', weights: { symmetric: false } }],
  ];
  it('a pair that fits when rounded to nearest, and not after compensation, is found', async () => {
    // Codes 127 and 1 fit (128 · 255); what rounding leaves of the small one is passed on until it becomes 2.
    const layer = LAYERS.find((l) => l.name === 'Gemm transB')!;
    const weights = Float32Array.from({ length: 64 }, (_, i) => (i % 2 ? 1.45 / 127 : 1));
    const { unit, model } = layerOf(layer, weights);
    const runs = [0, 1, 2].map((i) => activations(count(layer.input), 60 + i, true).map((v) => (v > 0.5 ? 1 : v)));
    const feeds = feedsOf(layer, runs);
    const statistics = await statisticsOf(model, feeds, -1);
    const observations = new Map([
      ['x', statistics],
      ['y', statistics],
    ]);
    const input = { units: [unit], recipe: resolveRecipe({ method: 'static' }), profile, constant: () => undefined, observations };
    const ranges = new Map<string, Range>([
      ['x', statistics],
      ['y', { min: -1, max: 1 }],
    ]);
    const moments = await inFolder((workDir) => secondMoments(runner, model, [unit], feeds, { workDir, threads: 1, seconds: 10 }));
    const grid = gridOf(statistics, 'uint8', false);
    const plain = nearest(unit);
    expect(saturatingChannels(unit, plain, grid, observations).size).toBe(0);
    const codes = await compensatedCodes(unit, plain, moments.get(0)!, undefined, SEVEN_BITS);
    expect(saturatingChannels(unit, { ...plain, data: codes }, grid, observations).size).toBeGreaterThan(0);
    const q = await quantizationUnder(input, new Set([0]), { name: 'minmax', ranges, correctBias: false, moments }, new Map());
    for (const x of runs) expect([...(await counted(layer, q.weights.get(0)!, grid, x))].every((n) => n === 0)).toBe(true);
    expect(saturatingChannels(unit, q.weights.get(0)!, grid, observations).size).toBe(0);
  });
  for (const [name, recipe] of recipes) {
    it.each(shapes.map((l) => [l.name, l] as const))(
      `${name}: no pair of %s saturates on the data, with compensation and without`,
      async (_, layer) => {
        for (let seed = 1; seed <= 6; seed++) {
          const { unit, model } = layerOf(layer, adversarial(count(layer.weight), seed));
          const runs = [activations(count(layer.input), seed + 20, true), activations(count(layer.input), seed + 30, true)];
          const feeds = feedsOf(layer, runs);
          const statistics = await statisticsOf(model, feeds, layer.opType === 'Conv' ? 1 : -1);
          const moments = await inFolder((workDir) => secondMoments(runner, model, [unit], feeds, { workDir, threads: 1, seconds: 10 }));
          const observations = new Map([
            ['x', statistics],
            ['y', statistics],
          ]);
          const input = {
            units: [unit],
            recipe: resolveRecipe(recipe),
            profile,
            constant: (n: string) => model.graph.initializers.get(n),
            observations,
          };
          const choice: Choice = {
            name: 'minmax',
            ranges: new Map<string, Range>([
              ['x', statistics],
              ['y', { min: -1, max: 1 }],
            ]),
            correctBias: true,
            moments: null,
          };
          for (const m of [null, moments]) {
            const q = await quantizationUnder(input, new Set([0]), { ...choice, moments: m }, new Map());
            for (const x of runs) {
              const pairs = await counted(layer, q.weights.get(0)!, q.grid('x'), x);
              expect([...pairs].every((n) => n === 0)).toBe(true);
            }
          }
        }
      },
    );
  }
});
