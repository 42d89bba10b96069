import { describe, expect, it } from 'vitest';
import { intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import type { Model } from '../../../../src/onnx/model.ts';
import { floatData, floatTensor } from '../../../../src/onnx/tensor.ts';
import { equalize } from '../../../../src/quant/prepare/equalize.ts';
import { agreement, asFloats, floats, modelOf, node, normals, run, scalar, weight } from './graphs.ts';

const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });
/** A weight whose output channels differ in size by up to a thousand. */
function uneven(name: string, dims: number[]) {
  const tensor = weight(name, dims);
  const perChannel = dims.slice(1).reduce((a, b) => a * b, 1);
  return floatTensor(
    name,
    floatData(tensor).map((v, i) => v * 10 ** ((Math.floor(i / perChannel) % 4) - 2)),
    dims,
  );
}
const absMax = (values: Iterable<number>) => Math.max(...[...values].map(Math.abs));
/** Largest |weight| of each output channel (axis 0) and of each input channel (axis 1) of a plain Conv. */
function ranges(model: Model, name: string) {
  const { dims } = model.graph.initializers.get(name)!;
  const data = floatData(model.graph.initializers.get(name)!);
  const kernel = dims.slice(2).reduce((a, b) => a * b, 1);
  const out = Array.from({ length: dims[0]! }, (_, o) => absMax(data.subarray(o * dims[1]! * kernel, (o + 1) * dims[1]! * kernel)));
  const into = Array.from({ length: dims[1]! }, (_, i) =>
    absMax(Array.from({ length: dims[0]! }, (_, o) => absMax(data.subarray((o * dims[1]! + i) * kernel, (o * dims[1]! + i + 1) * kernel)))),
  );
  return { out, into };
}
const spread = (values: number[]) => Math.max(...values) / Math.min(...values);

describe('cross-layer equalization', () => {
  it('of two Convs: both ranges become √(r¹·r²), outputs stay', async () => {
    const model = modelOf(
      [node('Conv', ['x', 'w1', 'b1'], ['a']), node('Relu', ['a'], ['r']), node('Conv', ['r', 'w2'], ['y'])],
      { x: ['N', 3, 8, 8] },
      ['y'],
      [uneven('w1', [8, 3, 3, 3]), weight('b1', [8]), weight('w2', [5, 8, 3, 3])],
    );
    const before = { first: ranges(model, 'w1').out, second: ranges(model, 'w2').into };
    const result = equalize(model);
    expect(result.pairs).toBe(1);
    const [first, second] = [ranges(result.model, 'w1').out, ranges(result.model, 'w2').into];
    before.first.forEach((r1, i) => {
      const want = Math.sqrt(r1 * before.second[i]!);
      expect(first[i]! / want).toBeCloseTo(1, 5);
      expect(second[i]! / want).toBeCloseTo(1, 5);
    });
    const feeds = { x: floats(normals(2 * 192, 1), [2, 3, 8, 8]) };
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(100);
    // The model that came in is as it was.
    expect(ranges(model, 'w1').out).toEqual(before.first);
  });

  it('of 1×1 – depthwise – 1×1: activations’ channel ranges come closer, outputs stay', async () => {
    const model = modelOf(
      [
        node('Conv', ['x', 'w1', 'b1'], ['a']),
        node('LeakyRelu', ['a'], ['ra']),
        node('Conv', ['ra', 'w2', 'b2'], ['b'], attributes(intAttr('group', 16), intsAttr('pads', [1, 1, 1, 1]))),
        node('MaxPool', ['b'], ['p'], attributes(intsAttr('kernel_shape', [2, 2]))),
        node('Relu', ['p'], ['rb']),
        node('Conv', ['rb', 'w3'], ['y']),
      ],
      { x: [1, 4, 8, 8] },
      ['y'],
      [
        uneven('w1', [16, 4, 1, 1]),
        weight('b1', [16], { scale: 0.001 }),
        uneven('w2', [16, 1, 3, 3]),
        weight('b2', [16], { scale: 0.001 }),
        weight('w3', [6, 16, 1, 1]),
      ],
    );
    const result = equalize(model);
    expect(result.pairs).toBe(2);
    const feeds = { x: floats(normals(256, 2), [1, 4, 8, 8]) };
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(100);
    const channels = async (m: Model) => {
      m.graph.outputs = [{ name: 'b', type: null }];
      const data = asFloats((await run(m, feeds)).b!);
      return Array.from({ length: 16 }, (_, c) => absMax(data.subarray(c * 64, (c + 1) * 64)));
    };
    expect(spread(await channels(result.model))).toBeLessThan(spread(await channels(model)) / 20);
  });

  it('of grouped Convs and of Gemms', async () => {
    const grouped = modelOf(
      [
        node('Conv', ['x', 'w1'], ['a'], attributes(intAttr('group', 2))),
        node('Relu', ['a'], ['r']),
        node('Conv', ['r', 'w2'], ['y'], attributes(intAttr('group', 4))),
      ],
      { x: [1, 4, 8, 8] },
      ['y'],
      [uneven('w1', [8, 2, 3, 3]), weight('w2', [8, 2, 3, 3])],
    );
    const a = equalize(grouped);
    expect(a.pairs).toBe(1);
    expect(await agreement(grouped, a.model, { x: floats(normals(256, 3), [1, 4, 8, 8]) })).toBeGreaterThan(100);
    const gemms = modelOf(
      [
        node('Gemm', ['x', 'w1', 'b1'], ['a'], attributes(intAttr('transB', 1))),
        node('PRelu', ['a', 'slope'], ['r']),
        node('MatMul', ['r', 'w2'], ['b']),
        node('Relu', ['b'], ['rb']),
        node('Gemm', ['rb', 'w3'], ['y']),
      ],
      { x: ['N', 5] },
      ['y'],
      [uneven('w1', [8, 5]), weight('b1', [8]), weight('slope', [8]), weight('w2', [8, 6]), weight('w3', [6, 3])],
    );
    const b = equalize(gemms);
    expect(b.pairs).toBe(2);
    expect(await agreement(gemms, b.model, { x: floats(normals(15, 4), [3, 5]) })).toBeGreaterThan(100);
  });

  const pairs = (middle: ReturnType<typeof node>[], outputs = ['y'], constants = [scalar('zero', 0), scalar('six', 6)]) =>
    equalize(
      modelOf([node('Conv', ['x', 'w1'], ['a']), ...middle, node('Conv', ['r', 'w2'], ['y'])], { x: [1, 3, 8, 8] }, outputs, [
        weight('w1', [8, 3, 3, 3]),
        weight('w2', [5, 8, 1, 1]),
        ...constants,
      ]),
    ).pairs;
  it('not across functions that scales don’t pass, forks and outputs', () => {
    expect(pairs([node('Relu', ['a'], ['r'])])).toBe(1);
    expect(pairs([node('Clip', ['a', 'zero', 'six'], ['r'])])).toBe(0);
    expect(pairs([node('Sigmoid', ['a'], ['r'])])).toBe(0);
    expect(pairs([node('Relu', ['a'], ['r'])], ['y', 'r'])).toBe(0);
    expect(pairs([node('Relu', ['a'], ['r']), node('Neg', ['r'], ['z'])], ['y', 'z'])).toBe(0);
  });
  it('channels without weights keep their scale', async () => {
    const w1 = weight('w1', [4, 3, 1, 1]);
    new Float32Array((w1.data as { bytes: Uint8Array }).bytes.buffer).fill(0, 3, 6);
    const model = modelOf(
      [node('Conv', ['x', 'w1'], ['a']), node('Conv', ['a', 'w2'], ['y'])],
      { x: [1, 3, 4, 4] },
      ['y'],
      [w1, weight('w2', [2, 4, 1, 1])],
    );
    const result = equalize(model);
    expect(floatData(result.model.graph.initializers.get('w2')!).every(Number.isFinite)).toBe(true);
    expect(await agreement(model, result.model, { x: floats(normals(48, 5), [1, 3, 4, 4]) })).toBeGreaterThan(100);
  });
});
