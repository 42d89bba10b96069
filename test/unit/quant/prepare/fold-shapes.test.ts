import { describe, expect, it } from 'vitest';
import { cloneModel, intAttr } from '../../../../src/onnx/graph.ts';
import type { Dim } from '../../../../src/onnx/model.ts';
import { int64Tensor, intData } from '../../../../src/onnx/tensor.ts';
import { foldShapes } from '../../../../src/quant/prepare/fold-shapes.ts';
import { agreement, applyPass, floats, ints, modelOf, node, normals, operators } from './graphs.ts';

/** What an exporter writes for `x.view(x.size(0), x.size(1), heads, −1)`. */
const view = (shape: Dim[]) =>
  modelOf(
    [
      node('Shape', ['x'], ['s']),
      node('Gather', ['s', 'i0'], ['n']),
      node('Shape', ['x'], ['s1']),
      node('Gather', ['s1', 'i1'], ['t']),
      node('Shape', ['x'], ['s2']),
      node('Gather', ['s2', 'i2'], ['d']),
      node('Div', ['d', 'heads'], ['h']),
      node('Unsqueeze', ['n', 'axis'], ['n1']),
      node('Unsqueeze', ['t', 'axis'], ['t1']),
      node('Unsqueeze', ['h', 'axis'], ['h1']),
      node('Concat', ['n1', 't1', 'heads1', 'h1'], ['target'], { attributes: [intAttr('axis', 0)] }),
      node('Reshape', ['x', 'target'], ['y']),
    ],
    { x: shape },
    ['y'],
    [
      int64Tensor('i0', [0], []),
      int64Tensor('i1', [1], []),
      int64Tensor('i2', [2], []),
      int64Tensor('heads', [4], []),
      ints('heads1', [4]),
      ints('axis', [0]),
    ],
  );

async function folded(model: ReturnType<typeof modelOf>, ...shapes: number[][]) {
  const before = cloneModel(model);
  await applyPass(foldShapes, model);
  for (const shape of shapes) {
    const feeds = {
      x: floats(
        normals(
          shape.reduce((a, b) => a * b),
          9,
        ),
        shape,
      ),
    };
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  }
  return operators(model);
}
const target = (model: ReturnType<typeof modelOf>) => {
  const reshape = model.graph.nodes.find((n) => n.opType === 'Reshape' || n.opType === 'Expand')!;
  return intData(model.graph.initializers.get(reshape.inputs[1]!)!);
};

describe('shape arithmetic', () => {
  it('of fixed dimensions becomes a constant', async () => {
    const model = view([2, 3, 8]);
    expect(await folded(model, [2, 3, 8])).toEqual(['Reshape']);
    expect(target(model)).toEqual([2, 3, 4, 2]);
  });
  it('keeps free dimensions free', async () => {
    const model = view(['N', 'T', 8]);
    expect(await folded(model, [2, 3, 8], [5, 1, 8], [1, 7, 8])).toEqual(['Reshape']);
    expect(target(model)).toEqual([0, 0, 4, 2]);
  });
  it('one unknown dimension becomes −1, two stay computed', async () => {
    const one = view([2, null, 8]);
    expect(await folded(one, [2, 3, 8], [2, 5, 8])).toEqual(['Reshape']);
    expect(target(one)).toEqual([2, -1, 4, 2]);
    const two = view([null, null, 8]);
    expect(await folded(two, [2, 3, 8], [4, 5, 8])).toContain('Concat');
  });
  it('what is computed from a free dimension is the one that stays open', async () => {
    const model = view(['N', 'T', 'D']);
    expect(await folded(model, [2, 3, 8], [1, 2, 12])).toEqual(['Reshape']);
    expect(target(model)).toEqual([0, 0, 4, -1]);
  });
  it('the same name elsewhere in the shape is not the same place', async () => {
    // [T, N] of a value [N, T]: no 0 can say that.
    const model = modelOf(
      [node('Shape', ['x'], ['s']), node('Gather', ['s', 'swapped'], ['target']), node('Reshape', ['x', 'target'], ['y'])],
      { x: ['N', 'T'] },
      ['y'],
      [ints('swapped', [1, 0])],
    );
    expect(await folded(model, [2, 3], [4, 1])).toContain('Gather');
  });
  it('Expand to the dimensions that are there already', async () => {
    const model = modelOf(
      [
        node('Shape', ['x'], ['s']),
        node('Slice', ['s', 'zero', 'one'], ['n']),
        node('Concat', ['n', 'tail'], ['target'], { attributes: [intAttr('axis', 0)] }),
        node('Expand', ['x', 'target'], ['y']),
      ],
      { x: ['N', 1, 3] },
      ['y'],
      [ints('zero', [0]), ints('one', [1]), ints('tail', [4, 3])],
    );
    expect(await folded(model, [2, 1, 3], [5, 1, 3])).toEqual(['Expand']);
    expect(target(model)).toEqual([1, 4, 3]);
  });
  it('a shape that is an output of the model stays', async () => {
    const model = modelOf([node('Shape', ['x'], ['y']), node('Relu', ['x'], ['z'])], { x: [2, 3] }, ['y', 'z'], [], { types: { y: 7 } });
    expect(await folded(model, [2, 3])).toEqual(['Shape', 'Relu']);
  });
});
