import { describe, expect, it } from 'vitest';
import { attrInts, cloneModel, floatAttr, intAttr, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import type { Node, Tensor } from '../../../../src/onnx/model.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { canonicalForms } from '../../../../src/quant/prepare/canonical.ts';
import { agreement, applyPass, floats, ints, modelOf, node, normals, operators, scalar, weight } from './graphs.ts';

const X = [2, 3, 6, 6];
const feeds = { x: floats(normals(216, 7, 4), X) };
async function becomes(nodes: Node[], constants: Tensor[], want: string[], options: { opset?: number; least?: number } = {}) {
  const model = modelOf(nodes, { x: ['N', 3, 6, 6] }, ['y'], constants, { opset: options.opset ?? 17 });
  const before = cloneModel(model);
  for (let round = 0; round < 4; round++) if ((await applyPass(canonicalForms, model)).changes === 0) break;
  expect(operators(model)).toEqual(want);
  expect(await agreement(before, model, feeds)).toBeGreaterThanOrEqual(options.least ?? Number.POSITIVE_INFINITY);
  return model;
}
const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });

describe('canonical forms', () => {
  it('a mean over the picture is a GlobalAveragePool', async () => {
    await becomes([node('ReduceMean', ['x'], ['y'], attributes(intsAttr('axes', [-1, 2])))], [], ['GlobalAveragePool'], { least: 120 });
    await becomes([node('ReduceMean', ['x', 'a'], ['y'])], [ints('a', [2, 3])], ['GlobalAveragePool'], { opset: 18, least: 120 });
    await becomes([node('ReduceMean', ['x'], ['y'], attributes(intsAttr('axes', [2, 3]), intAttr('keepdims', 0)))], [], ['ReduceMean']);
    await becomes([node('ReduceMean', ['x'], ['y'], attributes(intsAttr('axes', [1, 2])))], [], ['ReduceMean']);
  });
  it('clips at 0 are Relus', async () => {
    await becomes([node('Clip', ['x', 'zero'], ['y'])], [scalar('zero', 0)], ['Relu']);
    await becomes([node('Clip', ['x', 'zero', 'far'], ['y'])], [scalar('zero', 0), scalar('far', 3.4e38)], ['Relu']);
    await becomes([node('Max', ['zero', 'x'], ['y'])], [scalar('zero', 0)], ['Relu']);
    await becomes([node('Clip', ['x', 'zero', 'six'], ['y'])], [scalar('zero', 0), scalar('six', 6)], ['Clip']);
  });
  it('Relu6 in pieces is one Clip', async () => {
    await becomes([node('Max', ['x', 'zero'], ['a']), node('Min', ['six', 'a'], ['y'])], [scalar('zero', 0), scalar('six', 6)], ['Clip']);
    await becomes([node('Relu', ['x'], ['a']), node('Clip', ['a', 'low', 'six'], ['y'])], [scalar('low', -1), scalar('six', 6)], ['Clip']);
    await becomes([node('Relu', ['x'], ['a']), node('Relu', ['a'], ['y'])], [], ['Relu']);
    // Intervals that don't meet: min(max(x, 3), 1) after clipping to [2, 2.5] is not a clip of x.
    await becomes(
      [node('Clip', ['x', 'a', 'b'], ['c']), node('Clip', ['c', 'd', 'e'], ['y'])],
      [scalar('a', 2), scalar('b', 2.5), scalar('d', -3), scalar('e', 1)],
      ['Clip', 'Clip'],
    );
  });
  it('a Relu that something else sees stays beside the Clip', async () => {
    const model = modelOf([node('Relu', ['x'], ['a']), node('Clip', ['a', '', 'six'], ['y'])], { x: X }, ['y', 'a'], [scalar('six', 6)]);
    expect((await applyPass(canonicalForms, model)).changes).toBe(0);
  });
  it('divisions and subtractions by constants are Mul and Add', async () => {
    await becomes([node('Div', ['x', 'k'], ['y'])], [scalar('k', 4)], ['Mul']);
    await becomes([node('Div', ['x', 'k'], ['y'])], [weight('k', [3, 1, 1], { positive: true })], ['Mul'], { least: 130 });
    await becomes([node('Sub', ['x', 'k'], ['y'])], [weight('k', [3, 1, 1])], ['Add']);
    await becomes([node('Div', ['k', 'x'], ['y'])], [scalar('k', 4)], ['Div']);
    await becomes([node('Div', ['x', 'k'], ['y'])], [floatTensor('k', [1, 1e35, 1], [3, 1, 1])], ['Div']);
  });
  it('but not where the runtime looks for them: Gelu, attention', async () => {
    await becomes([node('Div', ['x', 'k'], ['a']), node('Erf', ['a'], ['y'])], [scalar('k', Math.SQRT2)], ['Div', 'Erf']);
    await becomes([node('MatMul', ['x', 'x'], ['a']), node('Div', ['a', 'k'], ['y'])], [scalar('k', 8)], ['MatMul', 'Div']);
  });
  it('a shared constant keeps its value for its other users', async () => {
    await becomes([node('Div', ['x', 'k'], ['a']), node('Mul', ['a', 'k'], ['y'])], [scalar('k', 4)], ['Mul', 'Mul']);
  });
  it('zero padding goes into the Conv', async () => {
    const conv = (mode: string, filler: number, extra: number[] = [0, 0, 1, 2, 0, 0, 2, 1]) =>
      [
        node('Pad', ['x', 'p', 'f'], ['a'], attributes(stringAttr('mode', mode))),
        node('Conv', ['a', 'w'], ['y'], attributes(intsAttr('pads', [1, 0, 0, 1]), intsAttr('strides', [2, 2]))),
        ints('p', extra),
        scalar('f', filler),
      ] as const;
    const w = weight('w', [4, 3, 3, 3]);
    const [pad, c, p, f] = conv('constant', 0);
    const model = await becomes([pad, c], [p, f, w], ['Conv'], { least: 120 });
    expect(attrInts(model.graph.nodes[0]!, 'pads')).toEqual([2, 2, 2, 2]);
    for (const [mode, filler] of [
      ['constant', 1],
      ['reflect', 0],
    ] as const) {
      const [a, b, q, g] = conv(mode, filler);
      await becomes([a, b], [q, g, w], ['Pad', 'Conv']);
    }
    const [a, b, q, g] = conv('constant', 0, [0, 0, 1, -1, 0, 0, 0, 0]);
    await becomes([a, b], [q, g, w], ['Pad', 'Conv']);
  });
  it('a Gemm has alpha and beta 1', async () => {
    const model = modelOf(
      [node('Gemm', ['x', 'w', 'c'], ['y'], attributes(floatAttr('alpha', 0.3), floatAttr('beta', 5), intAttr('transB', 1)))],
      { x: [2, 4] },
      ['y'],
      [weight('w', [3, 4]), weight('c', [3])],
    );
    const before = cloneModel(model);
    expect((await applyPass(canonicalForms, model)).changes).toBe(1);
    expect([...model.graph.nodes[0]!.attributes.keys()]).toEqual(['transB']);
    expect(await agreement(before, model, { x: floats(normals(8, 1), [2, 4]) })).toBeGreaterThan(120);
  });
});
