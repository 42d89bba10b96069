import { describe, expect, it } from 'vitest';
import { cloneModel, intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { removeNoOps } from '../../../../src/quant/prepare/no-ops.ts';
import { agreement, applyPass, floats, ints, modelOf, node, normals, operators, scalar } from './graphs.ts';

const big = 2 ** 62;
const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });

/** Between two Relus: a node from `a` to `b`. */
const around = (middle: Node, constants: Tensor[] = [], shape: (number | string)[] = ['N', 4]) =>
  modelOf([node('Relu', ['x'], ['a']), middle, node('Sigmoid', ['b'], ['y'])], { x: shape }, ['y'], constants);
const feeds = { x: floats(normals(8, 1), [2, 4]) };

describe('operators that do nothing', () => {
  const gone: [string, Node, Tensor[]?][] = [
    ['Identity', node('Identity', ['a'], ['b'])],
    ['Dropout', node('Dropout', ['a'], ['b', 'mask'])],
    ['Concat of one', node('Concat', ['a'], ['b'], attributes(intAttr('axis', 1)))],
    ['Max of one', node('Max', ['a'], ['b'])],
    ['Cast to the same type', node('Cast', ['a'], ['b'], attributes(intAttr('to', DataType.FLOAT)))],
    ['Transpose in order', node('Transpose', ['a'], ['b'], attributes(intsAttr('perm', [0, 1])))],
    ['Pad by nothing', node('Pad', ['a', 'p'], ['b']), [ints('p', [0, 0, 0, 0])]],
    ['Slice of all', node('Slice', ['a', 's', 'e', 'ax'], ['b']), [ints('s', [0]), ints('e', [big]), ints('ax', [1])]],
    ['Clip without bounds', node('Clip', ['a'], ['b'])],
    ['Expand to ones', node('Expand', ['a', 'o'], ['b']), [ints('o', [1, 1])]],
    ['Flatten of rank 2', node('Flatten', ['a'], ['b'])],
    ['Reshape to itself', node('Reshape', ['a', 'r'], ['b']), [ints('r', [-1, 4])]],
    ['Reshape by zeros', node('Reshape', ['a', 'r'], ['b']), [ints('r', [0, -1])]],
    ['Mul by 1', node('Mul', ['a', 'k'], ['b']), [scalar('k', 1)]],
    ['1 times', node('Mul', ['k', 'a'], ['b']), [floatTensor('k', [1, 1, 1, 1], [4])]],
    ['Add of 0', node('Add', ['a', 'k'], ['b']), [floatTensor('k', [0], [1, 1])]],
    ['Sub of 0', node('Sub', ['a', 'k'], ['b']), [scalar('k', 0)]],
    ['Div by 1', node('Div', ['a', 'k'], ['b']), [scalar('k', 1)]],
  ];
  it.each(gone)('%s goes', async (_, middle, constants) => {
    const model = around(middle, constants);
    const before = cloneModel(model);
    expect((await applyPass(removeNoOps, model)).changes).toBe(1);
    expect(operators(model)).toEqual(['Relu', 'Sigmoid']);
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });

  const stay: [string, Node, Tensor[]?][] = [
    ['Cast to another type', node('Cast', ['a'], ['b'], attributes(intAttr('to', DataType.FLOAT16)))],
    ['Transpose', node('Transpose', ['a'], ['b'], attributes(intsAttr('perm', [1, 0])))],
    ['Slice from 1', node('Slice', ['a', 's', 'e'], ['b']), [ints('s', [1]), ints('e', [big])]],
    ['Reshape that merges', node('Reshape', ['a', 'r'], ['b']), [ints('r', [-1, 2])]],
    ['Mul that widens', node('Mul', ['a', 'k'], ['b']), [floatTensor('k', [1, 1], [2, 1, 1])]],
    ['0 minus', node('Sub', ['k', 'a'], ['b']), [scalar('k', 0)]],
    ['1 over', node('Div', ['k', 'a'], ['b']), [scalar('k', 1)]],
    ['Expand of higher rank', node('Expand', ['a', 'o'], ['b']), [ints('o', [1, 1, 1])]],
  ];
  it.each(stay)('%s stays', async (_, middle, constants) => {
    expect((await applyPass(removeNoOps, around(middle, constants))).changes).toBe(0);
  });

  it('outputs of the model keep their names', async () => {
    const model = modelOf([node('Relu', ['x'], ['a']), node('Identity', ['a'], ['y']), node('Neg', ['a'], ['z'])], { x: [2, 4] }, [
      'y',
      'z',
    ]);
    const before = cloneModel(model);
    expect((await applyPass(removeNoOps, model)).changes).toBe(1);
    expect(operators(model)).toEqual(['Relu', 'Neg']);
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });
  it('an Identity between an input and an output of the model stays, and one between two outputs', async () => {
    const model = modelOf([node('Identity', ['x'], ['y']), node('Relu', ['x'], ['r']), node('Identity', ['r'], ['r2'])], { x: [2, 4] }, [
      'y',
      'r',
      'r2',
    ]);
    expect((await applyPass(removeNoOps, model)).changes).toBe(0);
  });
  it('a Dropout whose mask is used stays', async () => {
    const model = modelOf([node('Dropout', ['x'], ['d', 'mask']), node('Relu', ['d'], ['y'])], { x: [2, 4] }, ['y', 'mask'], [], {
      types: { mask: DataType.BOOL },
    });
    expect((await applyPass(removeNoOps, model)).changes).toBe(0);
  });
  it('a chain goes whole', async () => {
    const model = modelOf(
      [node('Relu', ['x'], ['a']), node('Identity', ['a'], ['b']), node('Identity', ['b'], ['c']), node('Identity', ['c'], ['y'])],
      { x: [2, 4] },
      ['y'],
    );
    expect((await applyPass(removeNoOps, model)).changes).toBe(3);
    expect(operators(model)).toEqual(['Relu']);
  });
});
