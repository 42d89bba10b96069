import { describe, expect, it } from 'vitest';
import { cloneModel, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import { foldScaleAfter, foldScaleBefore } from '../../../../src/quant/prepare/scale-shift.ts';
import { agreement, applyPass, floats, modelOf, node, normals, operators, scalar, weight } from './graphs.ts';

const X = [2, 4, 7, 7];
const feeds = { x: floats(normals(2 * 4 * 49, 3), X) };
const pads = intsAttr('pads', [1, 1, 1, 1]);

describe('scales and shifts after a layer', () => {
  it('a chain of Mul, Add, Sub and Div by scalars and by channel becomes part of the Conv', async () => {
    const model = modelOf(
      [
        node('Conv', ['x', 'w'], ['a'], { attributes: [pads] }),
        node('Mul', ['s', 'a'], ['b']),
        node('Add', ['b', 't'], ['c']),
        node('Sub', ['one', 'c'], ['d']),
        node('Div', ['d', 'three'], ['y']),
      ],
      { x: ['N', 4, 7, 7] },
      { y: ['N', 5, 7, 7] },
      [weight('w', [5, 4, 3, 3]), weight('s', [1, 5, 1, 1]), weight('t', [5, 1, 1]), scalar('one', 1), weight('three', [1])],
    );
    const before = cloneModel(model);
    expect((await applyPass(foldScaleAfter, model)).changes).toBe(4);
    expect(operators(model)).toEqual(['Conv']);
    expect(await agreement(before, model, feeds)).toBeGreaterThan(105);
  });
  it('of a Gemm: by column, not by row', async () => {
    const gemm = (dims: number[]) =>
      modelOf(
        [node('Gemm', ['x', 'w'], ['a']), node('Mul', ['a', 's'], ['y'])],
        { x: [3, 8] },
        ['y'],
        [weight('w', [8, 5]), weight('s', dims)],
      );
    const byColumn = gemm([1, 5]);
    const before = cloneModel(byColumn);
    expect((await applyPass(foldScaleAfter, byColumn)).changes).toBe(1);
    expect(await agreement(before, byColumn, { x: floats(normals(24, 4), [3, 8]) })).toBeGreaterThan(110);
    expect((await applyPass(foldScaleAfter, gemm([3, 1]))).changes).toBe(0);
  });
  it('not by a constant along the width, nor one of higher rank, nor where the Conv has other users', async () => {
    const conv = (dims: number[], outputs = ['y']) =>
      modelOf([node('Conv', ['x', 'w'], ['a']), node('Add', ['a', 't'], ['y'])], { x: X }, outputs, [
        weight('w', [5, 4, 3, 3]),
        weight('t', dims),
      ]);
    expect((await applyPass(foldScaleAfter, conv([5]))).changes).toBe(0);
    expect((await applyPass(foldScaleAfter, conv([1, 1, 5, 1, 1]))).changes).toBe(0);
    expect((await applyPass(foldScaleAfter, conv([5, 1, 1], ['y', 'a']))).changes).toBe(0);
  });
  it('leaves MatMul to the runtime', async () => {
    const model = modelOf(
      [node('MatMul', ['x', 'w'], ['a']), node('Add', ['a', 't'], ['y'])],
      { x: [3, 8] },
      ['y'],
      [weight('w', [8, 5]), weight('t', [5])],
    );
    expect((await applyPass(foldScaleAfter, model)).changes).toBe(0);
  });
});

describe('scales and shifts before a Conv', () => {
  const chain = (padded: boolean, shift: number[], scale: number[] = [1, 4, 1, 1]) =>
    modelOf(
      [
        node('Mul', ['x', 's'], ['a']),
        node('Add', ['a', 't'], ['b']),
        node('Conv', ['b', 'w'], ['y'], padded ? { attributes: [pads] } : {}),
      ],
      { x: ['N', 4, 7, 7] },
      ['y'],
      [weight('w', [5, 4, 3, 3]), weight('s', scale, { mean: 3, scale: 0.3 }), weight('t', shift)],
    );
  it('both go where nothing is padded', async () => {
    const model = chain(false, [4, 1, 1]);
    const copy = cloneModel(model);
    expect((await applyPass(foldScaleBefore, model)).changes).toBe(2);
    expect(operators(model)).toEqual(['Conv']);
    expect(await agreement(copy, model, feeds)).toBeGreaterThan(105);
  });
  it.each([[[4, 1, 1]], [[]]])('with padding the shift stays, divided by the scale (shift of shape [%s])', async (shift) => {
    const model = chain(true, shift, shift.length ? [1, 4, 1, 1] : []);
    const copy = cloneModel(model);
    expect((await applyPass(foldScaleBefore, model)).changes).toBe(1);
    expect(operators(model)).toEqual(['Add', 'Conv']);
    expect(await agreement(copy, model, feeds)).toBeGreaterThan(105);
    // And it ends there: another round finds nothing to do.
    expect((await applyPass(foldScaleBefore, model)).changes).toBe(0);
  });
  it('a batch norm goes whole without padding, and leaves its shift with padding', async () => {
    for (const padded of [false, true]) {
      const model = modelOf(
        [
          node('BatchNormalization', ['x', 'g', 'b', 'm', 'v'], ['a']),
          node('Conv', ['a', 'w'], ['y'], padded ? { attributes: [stringAttr('auto_pad', 'SAME_UPPER')] } : {}),
        ],
        { x: X },
        ['y'],
        [
          weight('w', [5, 4, 3, 3]),
          weight('g', [4], { mean: 3, scale: 0.3 }),
          weight('b', [4]),
          weight('m', [4]),
          weight('v', [4], { positive: true }),
        ],
      );
      const copy = cloneModel(model);
      expect((await applyPass(foldScaleBefore, model)).changes).toBe(1);
      expect(operators(model)).toEqual(padded ? ['Add', 'Conv'] : ['Conv']);
      expect(await agreement(copy, model, feeds)).toBeGreaterThan(105);
    }
  });
  it('not where the constant gives the value its channels', async () => {
    const model = modelOf(
      [node('Mul', ['x', 's'], ['a']), node('Conv', ['a', 'w'], ['y'])],
      { x: [1, 1, 7, 7] },
      ['y'],
      [weight('w', [5, 4, 3, 3]), weight('s', [1, 4, 1, 1])],
    );
    expect((await applyPass(foldScaleBefore, model)).changes).toBe(0);
  });
  it('not where a channel’s scale is nearly nothing beside the others', async () => {
    const model = chain(true, [4, 1, 1]);
    new Float32Array((model.graph.initializers.get('s')!.data as { bytes: Uint8Array }).bytes.buffer)[2] = 1e-9;
    expect((await applyPass(foldScaleBefore, model)).changes).toBe(0);
  });
});
