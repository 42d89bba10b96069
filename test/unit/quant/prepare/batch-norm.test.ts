import { describe, expect, it } from 'vitest';
import { attrInt, cloneModel, floatAttr, intAttr } from '../../../../src/onnx/graph.ts';
import type { Tensor } from '../../../../src/onnx/model.ts';
import { foldBatchNorm } from '../../../../src/quant/prepare/batch-norm.ts';
import { agreement, applyPass, floats, modelOf, node, normals, operators, weight } from './graphs.ts';

const norm = (channels: number): Tensor[] => [
  weight('gamma', [channels], { mean: 1 }),
  weight('beta', [channels]),
  weight('mean', [channels]),
  weight('variance', [channels], { positive: true }),
];
const batchNorm = (from: string, to: string) =>
  node('BatchNormalization', [from, 'gamma', 'beta', 'mean', 'variance'], [to], { attributes: [floatAttr('epsilon', 1e-3)] });

async function folds(model: ReturnType<typeof modelOf>, shape: number[]): Promise<string[]> {
  const before = cloneModel(model);
  const { changes } = await applyPass(foldBatchNorm, model);
  expect(changes).toBe(1);
  const feeds = {
    x: floats(
      normals(
        shape.reduce((a, b) => a * b),
        5,
      ),
      shape,
    ),
  };
  expect(await agreement(before, model, feeds)).toBeGreaterThan(110);
  return operators(model);
}

describe('folding batch norms', () => {
  it('into a Conv without bias, whose bias it makes', async () => {
    const model = modelOf([node('Conv', ['x', 'w'], ['c']), batchNorm('c', 'y')], { x: ['N', 3, 8, 8] }, { y: ['N', 6, 6, 6] }, [
      weight('w', [6, 3, 3, 3]),
      ...norm(6),
    ]);
    expect(await folds(model, [2, 3, 8, 8])).toEqual(['Conv']);
    expect(model.graph.nodes[0]!.inputs).toHaveLength(3);
  });
  it('into a grouped Conv with bias', async () => {
    const model = modelOf(
      [node('Conv', ['x', 'w', 'b'], ['c'], { attributes: [intAttr('group', 2)] }), batchNorm('c', 'y')],
      { x: [1, 4, 8, 8] },
      ['y'],
      [weight('w', [6, 2, 3, 3]), weight('b', [6]), ...norm(6)],
    );
    expect(await folds(model, [1, 4, 8, 8])).toEqual(['Conv']);
  });
  it('into a grouped ConvTranspose', async () => {
    const model = modelOf(
      [node('ConvTranspose', ['x', 'w'], ['c'], { attributes: [intAttr('group', 2)] }), batchNorm('c', 'y')],
      { x: [1, 4, 5, 5] },
      ['y'],
      [weight('w', [4, 3, 3, 3]), ...norm(6)],
    );
    expect(await folds(model, [1, 4, 5, 5])).toEqual(['ConvTranspose']);
  });
  it.each([0, 1])('into a Gemm with alpha, beta and transB = %i, which has neither afterwards', async (transB) => {
    const attributes = [floatAttr('alpha', 0.5), floatAttr('beta', 2), intAttr('transB', transB)];
    const model = modelOf(
      [node('Gemm', ['x', 'w', 'b'], ['c'], { attributes }), batchNorm('c', 'y')],
      { x: ['N', 10] },
      ['y'],
      [weight('w', transB ? [6, 10] : [10, 6]), weight('b', [1, 6]), ...norm(6)],
    );
    expect(await folds(model, [3, 10])).toEqual(['Gemm']);
    expect([...model.graph.nodes[0]!.attributes.keys()]).toEqual(['transB']);
    expect(attrInt(model.graph.nodes[0]!, 'transB', 0)).toBe(transB);
  });
  it('into a MatMul of rank 2, which becomes a Gemm', async () => {
    const model = modelOf(
      [node('MatMul', ['x', 'w'], ['c']), batchNorm('c', 'y')],
      { x: ['N', 10] },
      ['y'],
      [weight('w', [10, 6]), ...norm(6)],
    );
    expect(await folds(model, [3, 10])).toEqual(['Gemm']);
  });

  const untouched = async (model: ReturnType<typeof modelOf>) => {
    const before = operators(model);
    expect((await applyPass(foldBatchNorm, model)).changes).toBe(0);
    expect(operators(model)).toEqual(before);
  };
  it('not into a MatMul of rank 3, where axis 1 are rows', () =>
    untouched(
      modelOf([node('MatMul', ['x', 'w'], ['c']), batchNorm('c', 'y')], { x: [1, 6, 10] }, ['y'], [weight('w', [10, 5]), ...norm(6)]),
    ));
  it('not where something else sees the layer’s output', () =>
    untouched(
      modelOf(
        [node('Conv', ['x', 'w'], ['c']), batchNorm('c', 'y'), node('Relu', ['c'], ['z'])],
        { x: [1, 3, 8, 8] },
        ['y', 'z'],
        [weight('w', [6, 3, 3, 3]), ...norm(6)],
      ),
    ));
  it('not where the layer’s output is an output of the model', () =>
    untouched(
      modelOf(
        [node('Conv', ['x', 'w'], ['c']), batchNorm('c', 'y')],
        { x: [1, 3, 8, 8] },
        ['y', 'c'],
        [weight('w', [6, 3, 3, 3]), ...norm(6)],
      ),
    ));
  it('not in training mode', () => {
    const training = node('BatchNormalization', ['c', 'gamma', 'beta', 'mean', 'variance'], ['y', 'm', 'v'], {
      attributes: [intAttr('training_mode', 1)],
    });
    return untouched(
      modelOf([node('Conv', ['x', 'w'], ['c']), training], { x: [1, 3, 8, 8] }, ['y'], [weight('w', [6, 3, 3, 3]), ...norm(6)]),
    );
  });
  it('not where a weight would leave float32’s range', () =>
    untouched(
      modelOf(
        [node('Conv', ['x', 'w'], ['c']), batchNorm('c', 'y')],
        { x: [1, 3, 8, 8] },
        ['y'],
        [weight('w', [6, 3, 3, 3], { scale: 1e30 }), weight('gamma', [6], { scale: 1e30 }), ...norm(6).slice(1)],
      ),
    ));
  it('leaves weights that two layers share to the other one', async () => {
    const model = modelOf(
      [node('Conv', ['x', 'w'], ['c']), batchNorm('c', 'y'), node('Conv', ['x', 'w'], ['z'])],
      { x: [1, 3, 8, 8] },
      ['y', 'z'],
      [weight('w', [6, 3, 3, 3]), ...norm(6)],
    );
    expect(await folds(model, [1, 3, 8, 8])).toEqual(['Conv', 'Conv']);
  });
});
