/** Oracle: ONNX Runtime runs the layer with its float weights and with what their codes stand for; the outputs' means differ by the correction. */
import { describe, expect, it } from 'vitest';
import { intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { biasCorrection } from '../../../../src/quant/transform/bias-correction.ts';
import { dequantizeWeight } from '../../../../src/quant/transform/weights.ts';
import { asFloats, normals, run } from '../prepare/graphs.ts';
import { feedsOf, type Layer, layerOf, nearest, statisticsOf } from './layers.ts';

const count = (dims: number[]) => dims.reduce((a, b) => a * b, 1);
const LAYERS: (Layer & { name: string })[] = [
  { name: 'Conv', opType: 'Conv', input: [2, 6, 7, 9], weight: [5, 6, 3, 2] },
  { name: 'Conv strided', opType: 'Conv', input: [1, 6, 9, 9], weight: [5, 6, 3, 3], attributes: [intsAttr('strides', [2, 2])] },
  { name: 'Conv 1-D', opType: 'Conv', input: [1, 4, 20], weight: [5, 4, 3] },
  { name: 'Conv grouped', opType: 'Conv', input: [1, 6, 7, 7], weight: [9, 2, 3, 3], attributes: [intAttr('group', 3)] },
  { name: 'Conv depthwise', opType: 'Conv', input: [1, 6, 7, 7], weight: [6, 1, 3, 3], attributes: [intAttr('group', 6)] },
  {
    name: 'Conv depthwise, two outputs a channel',
    opType: 'Conv',
    input: [1, 6, 7, 7],
    weight: [12, 1, 3, 3],
    attributes: [intAttr('group', 6)],
  },
  { name: 'Gemm', opType: 'Gemm', input: [3, 7], weight: [7, 5] },
  { name: 'Gemm square', opType: 'Gemm', input: [3, 6], weight: [6, 6] },
  { name: 'Gemm transB', opType: 'Gemm', input: [3, 7], weight: [5, 7], attributes: [intAttr('transB', 1)] },
  { name: 'Gemm transB square', opType: 'Gemm', input: [3, 6], weight: [6, 6], attributes: [intAttr('transB', 1)] },
  { name: 'MatMul', opType: 'MatMul', input: [3, 7], weight: [7, 5] },
  { name: 'MatMul 3-D', opType: 'MatMul', input: [2, 3, 7], weight: [7, 5] },
];

/** Runs whose channels are constant over the image, so that their means hold at every position of a kernel. */
function runsOf(layer: Layer, runs: number): Float32Array[] {
  if (layer.opType !== 'Conv') return Array.from({ length: runs }, (_, i) => normals(count(layer.input), 70 + i, 1, 0.7));
  const [batch, channels, ...space] = layer.input as [number, number, ...number[]];
  return Array.from({ length: runs }, (_, i) => {
    const level = normals(batch * channels, 70 + i, 1, 0.7);
    return Float32Array.from({ length: count(layer.input) }, (_, at) => level[Math.floor(at / count(space))]!);
  });
}

/** Mean of each output channel. */
async function means(model: Parameters<typeof run>[0], layer: Layer, feeds: ReturnType<typeof feedsOf>): Promise<number[]> {
  let sums: number[] = [];
  let n = 0;
  for (const feed of feeds) {
    const { y } = await run(model, feed, 'disable');
    const axis = layer.opType === 'Conv' ? 1 : y!.dims.length - 1;
    const [channels, inner] = [y!.dims[axis]!, count(y!.dims.slice(axis + 1))];
    if (!sums.length) sums = new Array(channels).fill(0);
    asFloats(y!).forEach((v, i) => {
      sums[Math.floor(i / inner) % channels]! += v;
    });
    n += asFloats(y!).length / channels;
  }
  return sums.map((s) => s / n);
}

describe('bias correction', () => {
  it.each(LAYERS.map((l) => [l.name, l] as const))('%s: restores the mean of the output', async (_, layer) => {
    const { unit, model, withWeights } = layerOf(layer, normals(count(layer.weight), 17, 0.4, 0.1));
    const feeds = feedsOf(layer, runsOf(layer, 4));
    const quantized = nearest(unit);
    // Coarser than 8 bits, so that there is something to correct.
    quantized.data = quantized.data.map((code) => 16 * Math.round(code / 16)) as Int8Array;
    const statistics = await statisticsOf(model, feeds, layer.opType === 'Conv' ? 1 : -1);
    const correction = biasCorrection(unit, quantized, statistics)!;
    const [float, rounded] = [await means(model, layer, feeds), await means(withWeights(dequantizeWeight(quantized)), layer, feeds)];
    const shift = rounded.map((v, c) => v - float[c]!);
    expect(Math.max(...shift.map(Math.abs))).toBeGreaterThan(0.01);
    expect([...correction]).toEqual(shift.map((v) => expect.closeTo(-v, 4)));
  });
  it('is nothing where rounding changed nothing', async () => {
    const layer = LAYERS[0]!;
    const { unit, model } = layerOf(
      layer,
      Float32Array.from({ length: count(layer.weight) }, (_, i) => (i % 3) - 1),
    );
    const statistics = await statisticsOf(model, feedsOf(layer, runsOf(layer, 2)), 1);
    expect([...biasCorrection(unit, nearest(unit), statistics)!].every((v) => Math.abs(v) < 1e-6)).toBe(true);
  });
  it('is not made up where the means are unknown, or are another axis’s', async () => {
    const layer = LAYERS[0]!;
    const { unit, model } = layerOf(layer, normals(count(layer.weight), 3));
    const feeds = feedsOf(layer, runsOf(layer, 2));
    expect(biasCorrection(unit, nearest(unit), await statisticsOf(model, feeds, null))).toBeNull();
    expect(biasCorrection(unit, nearest(unit), await statisticsOf(model, feeds, -1))).toBeNull();
    const gemm = LAYERS.find((l) => l.name === 'Gemm')!;
    const other = layerOf(gemm, normals(35, 3));
    expect(biasCorrection(other.unit, nearest(other.unit), await statisticsOf(other.model, feedsOf(gemm, runsOf(gemm, 2)), 0))).toBeNull();
  });
});
