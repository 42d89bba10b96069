import { describe, expect, it } from 'vitest';
import { cloneModel, intAttr, intsAttr, tensorAttr } from '../../../../src/onnx/graph.ts';
import { DataType } from '../../../../src/onnx/model.ts';
import { floatData, floatTensor, int64Tensor, intData } from '../../../../src/onnx/tensor.ts';
import { foldConstants } from '../../../../src/quant/prepare/fold-constants.ts';
import { agreement, applyPass, floats, ints, modelOf, node, normals, operators, scalar, weight } from './graphs.ts';

describe('constant folding', () => {
  it('computes what depends on constants alone, by the runtime', async () => {
    const model = modelOf(
      [
        node('Reshape', ['w', 'shape'], ['w2']),
        node('Transpose', ['w2'], ['w3'], { attributes: [intsAttr('perm', [1, 0])] }),
        node('MatMul', ['x', 'w3'], ['m']),
        node('Add', ['m', 'sum'], ['y']),
        node('Add', ['s', 's'], ['sum']),
      ],
      { x: [2, 6] },
      ['y'],
      [weight('w', [4, 3, 2]), ints('shape', [4, 6]), scalar('s', 0.1)],
    );
    const before = cloneModel(model);
    before.graph.nodes.unshift(before.graph.nodes.pop()!);
    model.graph.nodes.unshift(model.graph.nodes.pop()!);
    expect((await applyPass(foldConstants, model)).changes).toBe(2);
    expect(operators(model)).toEqual(['MatMul', 'Add']);
    expect(model.graph.initializers.get('w3')!.dims).toEqual([6, 4]);
    expect(floatData(model.graph.initializers.get('sum')!)[0]).toBe(Math.fround(Math.fround(0.1) + Math.fround(0.1)));
    expect(await agreement(before, model, { x: floats(normals(12, 1), [2, 6]) })).toBe(Number.POSITIVE_INFINITY);
  });
  it('does not store what a few bytes blow up to, but does store what is small again at the end', async () => {
    const fill = tensorAttr('value', floatTensor('', [2], [1]));
    const model = modelOf(
      [
        node('ConstantOfShape', ['shape'], ['big'], { attributes: [fill] }),
        node('Add', ['x', 'big'], ['y']),
        node('ReduceSum', ['big', 'axes'], ['small'], { attributes: [intAttr('keepdims', 0)] }),
        node('Mul', ['x', 'small'], ['z']),
      ],
      { x: [64, 64] },
      ['y', 'z'],
      [ints('shape', [64, 64]), ints('axes', [0, 1])],
    );
    expect((await applyPass(foldConstants, model)).changes).toBe(1);
    expect(operators(model)).toEqual(['ConstantOfShape', 'Add', 'Mul']);
    expect(floatData(model.graph.initializers.get('small')!)[0]).toBe(2 * 64 * 64);
  });
  it('does not even run what would take gigabytes', async () => {
    const model = modelOf(
      [node('ConstantOfShape', ['shape'], ['big']), node('Gather', ['big', 'at'], ['y0']), node('Add', ['x', 'y0'], ['y'])],
      { x: [1] },
      ['y'],
      [ints('shape', [60_000_000_000]), int64Tensor('at', [0], [])],
    );
    expect((await applyPass(foldConstants, model)).changes).toBe(0);
  });
  it('gives every output of a node, also where only some are used', async () => {
    const model = modelOf(
      [node('Split', ['w'], ['a', 'b', 'c'], { attributes: [intAttr('axis', 0)] }), node('Add', ['x', 'b'], ['y'])],
      { x: [2] },
      ['y'],
      [weight('w', [6])],
    );
    expect((await applyPass(foldConstants, model)).changes).toBe(1);
    expect(operators(model)).toEqual(['Add']);
  });
  it('leaves random numbers, quantized weights and outputs of the model', async () => {
    const model = modelOf(
      [
        node('RandomUniformLike', ['w'], ['r']),
        node('DequantizeLinear', ['q', 's'], ['d']),
        node('Neg', ['w'], ['n']),
        node('Add', ['x', 'r'], ['y0']),
        node('Add', ['y0', 'd'], ['y']),
      ],
      { x: [2] },
      ['y', 'n'],
      [
        weight('w', [2]),
        { name: 'q', dataType: DataType.INT8, dims: [2], data: { kind: 'bytes', bytes: Uint8Array.of(1, 2) } },
        scalar('s', 0.5),
      ],
    );
    expect((await applyPass(foldConstants, model)).changes).toBe(0);
  });
  it('leaves what the runtime refuses, and says so', async () => {
    const model = modelOf(
      [node('Reshape', ['w', 'shape'], ['w2']), node('Add', ['x', 'w2'], ['y'])],
      { x: [5] },
      ['y'],
      [weight('w', [6]), ints('shape', [5])],
    );
    const { changes, notes } = await applyPass(foldConstants, model);
    expect(changes).toBe(0);
    expect(notes[0]).toContain('left to the runtime');
  });
  it('keeps integers exact', async () => {
    const model = modelOf([node('Mul', ['a', 'a'], ['b']), node('Add', ['x', 'b'], ['y'])], { x: [1] }, ['y'], [ints('a', [2 ** 26 + 1])], {
      types: { x: DataType.INT64, y: DataType.INT64 },
    });
    await applyPass(foldConstants, model);
    expect(intData(model.graph.initializers.get('b')!)).toEqual([(2 ** 26 + 1) ** 2]);
  });
});
