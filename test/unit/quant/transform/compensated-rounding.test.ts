/** Oracles: sums over patches cut out by hand; the layer's output error in ONNX Runtime, which compensation must lower. */
import { describe, expect, it } from 'vitest';
import { intAttr, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import type { Unit } from '../../../../src/quant/plan/units.ts';
import { compensatedCodes, secondMoments } from '../../../../src/quant/transform/compensated-rounding.ts';
import { dequantizeWeight, type QuantizedWeight, roundWeight, SEVEN_BITS, unitWeight } from '../../../../src/quant/transform/weights.ts';
import { inFolder } from '../emit/quantize.ts';
import { asFloats, normals, run, runner } from '../prepare/graphs.ts';
import { feedsOf, type Layer, layerOf, nearest } from './layers.ts';

const count = (dims: number[]) => dims.reduce((a, b) => a * b, 1);
const momentsOf = (layer: Layer, weights: Float32Array, runs: Float32Array[]) => {
  const { unit, model } = layerOf(layer, weights);
  return inFolder((workDir) => secondMoments(runner, model, [unit], feedsOf(layer, runs), { workDir, threads: 1, seconds: 10 }));
};
/** Inputs whose neighbours are alike, as images’ and embeddings’ are: what compensation lives on. */
const correlated = (layer: Layer, seed: number): Float32Array => {
  const x = normals(count(layer.input), seed, 0.3);
  for (let i = 1; i < x.length; i++) x[i] = 0.9 * x[i - 1]! + x[i]! + 0.1;
  return x;
};

/** Σ x_i x_j over all output positions, by the definition of a convolution. */
function byHand(layer: Layer & { strides: number[]; pads: number[]; dilations: number[]; group: number }, x: Float32Array): number[][] {
  const [, channels, height, width] = layer.input as [number, number, number, number];
  const [, perGroup, kh, kw] = layer.weight as [number, number, number, number];
  const k = perGroup * kh * kw;
  const grams = Array.from({ length: layer.group }, () => new Array<number>(k * k).fill(0));
  const [sh, sw] = layer.strides as [number, number];
  const [dh, dw] = layer.dilations as [number, number];
  const [top, left, bottom, right] = layer.pads as [number, number, number, number];
  for (let oy = 0; oy * sh + dh * (kh - 1) < height + top + bottom; oy++) {
    for (let ox = 0; ox * sw + dw * (kw - 1) < width + left + right; ox++) {
      for (let g = 0; g < channels / perGroup; g++) {
        const patch: number[] = [];
        for (let c = 0; c < perGroup; c++) {
          for (let ky = 0; ky < kh; ky++) {
            for (let kx = 0; kx < kw; kx++) {
              const [y, z] = [oy * sh - top + ky * dh, ox * sw - left + kx * dw];
              patch.push(y >= 0 && y < height && z >= 0 && z < width ? x[((g * perGroup + c) * height + y) * width + z]! : 0);
            }
          }
        }
        for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) grams[g]![i * k + j]! += patch[i]! * patch[j]!;
      }
    }
  }
  return grams;
}

describe('secondMoments', () => {
  it.each([
    { strides: [1, 1], pads: [0, 0, 0, 0], dilations: [1, 1], group: 1, weight: [4, 6, 3, 2] },
    { strides: [2, 1], pads: [1, 0, 2, 1], dilations: [1, 2], group: 1, weight: [4, 6, 3, 2] },
    { strides: [1, 1], pads: [1, 1, 1, 1], dilations: [1, 1], group: 3, weight: [6, 2, 3, 3] },
    { strides: [2, 2], pads: [1, 1, 1, 1], dilations: [1, 1], group: 6, weight: [6, 1, 3, 3] },
  ])('of a convolution are XᵀX of its patches: $strides $pads $dilations $group', async (form) => {
    const attributes = [
      intsAttr('strides', form.strides),
      intsAttr('pads', form.pads),
      intsAttr('dilations', form.dilations),
      intAttr('group', form.group),
    ];
    const layer = { opType: 'Conv' as const, input: [1, 6, 8, 9], attributes, ...form };
    const runs = [correlated(layer, 1), correlated(layer, 2)];
    const moments = (await momentsOf(layer, normals(count(layer.weight), 3), runs)).get(0)!;
    const want = runs.map((x) => byHand(layer, x).flat()).reduce((a, b) => a.map((v, i) => v + b[i]!));
    expect(moments.length).toBe(want.length);
    const scale = Math.max(...want.map(Math.abs));
    expect(Math.max(...want.map((v, i) => Math.abs(v - moments[i]!)))).toBeLessThan(1e-5 * scale);
  });
  it.each([
    { opType: 'Gemm', input: [5, 6], weight: [6, 4] },
    { opType: 'Gemm', input: [5, 6], weight: [4, 6], attributes: [intAttr('transB', 1)] },
    { opType: 'MatMul', input: [2, 5, 6], weight: [6, 4] },
  ] as Layer[])('of $opType $weight are XᵀX of its rows', async (layer) => {
    const runs = [correlated(layer, 1), correlated(layer, 2)];
    const moments = (await momentsOf(layer, normals(24, 3), runs)).get(0)!;
    for (let i = 0; i < 6; i++) {
      for (let j = 0; j < 6; j++) {
        let want = 0;
        for (const x of runs) for (let row = 0; row < x.length; row += 6) want += x[row + i]! * x[row + j]!;
        expect(moments[i * 6 + j]).toBeCloseTo(want, 4);
      }
    }
  });
  it('are of a sample where a layer has many positions', async () => {
    const layer: Layer = { opType: 'Conv', input: [1, 2, 40, 40], weight: [3, 2, 1, 1] };
    const moments = (await momentsOf(layer, normals(6, 3), [new Float32Array(count(layer.input)).fill(1)])).get(0)!;
    expect(moments[0]).toBe(256);
  });
  it('say nothing of a layer that is too wide, is padded by name, or for which no time is left', async () => {
    const wide: Layer = { opType: 'MatMul', input: [1, 1200], weight: [1200, 2] };
    expect((await momentsOf(wide, normals(2400, 3), [normals(1200, 1)])).size).toBe(0);
    const named: Layer = { opType: 'Conv', input: [1, 2, 8, 8], weight: [3, 2, 3, 3], attributes: [stringAttr('auto_pad', 'SAME_UPPER')] };
    expect((await momentsOf(named, normals(54, 3), [normals(128, 1)])).size).toBe(0);
    const layer: Layer = { opType: 'MatMul', input: [4, 600], weight: [600, 2] };
    const { unit, model } = layerOf(layer, normals(1200, 3));
    const options = (workDir: string, seconds: number) => ({ workDir, threads: 1, seconds });
    const feeds = feedsOf(layer, [normals(2400, 1)]);
    expect((await inFolder((dir) => secondMoments(runner, model, [unit], feeds, options(dir, 1e-6)))).size).toBe(0);
    expect((await inFolder((dir) => secondMoments(runner, model, [unit], feeds, options(dir, 10)))).size).toBe(1);
  });
});

describe('compensatedCodes', () => {
  const LAYERS: (Layer & { name: string })[] = [
    { name: 'Conv', opType: 'Conv', input: [1, 4, 12, 12], weight: [6, 4, 3, 3] },
    { name: 'Conv grouped', opType: 'Conv', input: [1, 4, 12, 12], weight: [6, 2, 3, 3], attributes: [intAttr('group', 2)] },
    { name: 'Conv depthwise', opType: 'Conv', input: [1, 4, 12, 12], weight: [4, 1, 3, 3], attributes: [intAttr('group', 4)] },
    { name: 'Gemm', opType: 'Gemm', input: [40, 16], weight: [16, 5] },
    { name: 'Gemm transB', opType: 'Gemm', input: [40, 16], weight: [5, 16], attributes: [intAttr('transB', 1)] },
    { name: 'MatMul square', opType: 'MatMul', input: [40, 16], weight: [16, 16] },
  ];
  /** To nearest on coarse scales, so that there is an error worth compensating. */
  const coarse = (unit: Unit): QuantizedWeight => {
    const q = nearest(unit);
    const grid = { scales: q.scales.map((s) => s * 24), zeroPoints: q.zeroPoints };
    return roundWeight(unitWeight(unit), q.dims, q.axis, 'int8', grid);
  };
  it.each(LAYERS.map((l) => [l.name, l] as const))(
    '%s: the output is nearer to the float layer’s than with rounding to nearest',
    async (_, layer) => {
      const weights = normals(count(layer.weight), 7);
      const { unit, model, withWeights } = layerOf(layer, weights);
      const runs = [1, 2, 3, 4].map((seed) => correlated(layer, seed));
      const moments = (await momentsOf(layer, weights, runs)).get(0)!;
      const plain = coarse(unit);
      const error = async (q: QuantizedWeight) => {
        const rounded = withWeights(dequantizeWeight(q));
        let sum = 0;
        for (const feed of feedsOf(layer, runs)) {
          const [a, b] = [asFloats((await run(model, feed)).y!), asFloats((await run(rounded, feed)).y!)];
          a.forEach((v, i) => {
            sum += (v - b[i]!) ** 2;
          });
        }
        return sum;
      };
      const compensated = { ...plain, data: await compensatedCodes(unit, plain, moments, undefined, SEVEN_BITS) };
      expect(await error(compensated)).toBeLessThan(0.7 * (await error(plain)));
    },
  );
  it('a weight and its transpose get the same codes', async () => {
    const w = normals(16 * 5, 7);
    const transposed = Float32Array.from({ length: 80 }, (_, i) => w[(i % 16) * 5 + Math.floor(i / 16)]!);
    const [plain, turned] = [LAYERS.find((l) => l.name === 'Gemm')!, LAYERS.find((l) => l.name === 'Gemm transB')!];
    const runs = [correlated(plain, 1)];
    const codes = async (layer: Layer, values: Float32Array) => {
      const { unit } = layerOf(layer, values);
      return compensatedCodes(unit, coarse(unit), (await momentsOf(layer, values, runs)).get(0)!, undefined, SEVEN_BITS);
    };
    const [a, b] = [await codes(plain, w), await codes(turned, transposed)];
    expect([...b]).toEqual(Array.from({ length: 80 }, (_, i) => a[(i % 16) * 5 + Math.floor(i / 16)]!));
  });
  it('rows with a limit keep to it, the others do not mind', async () => {
    const layer = LAYERS[0]!;
    const { unit } = layerOf(layer, normals(count(layer.weight), 7));
    const moments = (await momentsOf(layer, normals(count(layer.weight), 7), [correlated(layer, 1)])).get(0)!;
    const weight = nearest(unit);
    const [free, limited] = [
      await compensatedCodes(unit, weight, moments, undefined, 64),
      await compensatedCodes(unit, weight, moments, new Set([1]), 64),
    ];
    const row = (codes: Int8Array, r: number) => [...codes.subarray(r * 36, (r + 1) * 36)];
    expect(Math.max(...row(free, 1).map(Math.abs))).toBeGreaterThan(64);
    expect(Math.max(...row(limited, 1).map(Math.abs))).toBe(64);
    expect(row(limited, 0)).toEqual(row(free, 0));
  });
});
