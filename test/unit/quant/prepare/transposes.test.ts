import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { attrInts, cloneModel, intsAttr } from '../../../../src/onnx/graph.ts';
import { mergeTransposes } from '../../../../src/quant/prepare/transposes.ts';
import { agreement, applyPass, floats, modelOf, node, normals, operators } from './graphs.ts';

const transpose = (from: string, to: string, perm: number[]) => node('Transpose', [from], [to], { attributes: [intsAttr('perm', perm)] });
const feeds = { x: floats(normals(120, 1), [2, 3, 4, 5]) };
const model = (middle: ReturnType<typeof node>[], outputs = ['y']) =>
  modelOf([node('Relu', ['x'], ['a']), ...middle, node('Sigmoid', ['b'], ['y'])], { x: [2, 3, 4, 5] }, outputs);

describe('transposes that follow each other', () => {
  it('cancel where they are inverse', async () => {
    const m = model([transpose('a', 't', [0, 2, 3, 1]), transpose('t', 'b', [0, 3, 1, 2])]);
    expect((await applyPass(mergeTransposes, m)).changes).toBe(1);
    expect(operators(m)).toEqual(['Relu', 'Sigmoid']);
  });
  it('become one, the right one, for any two permutations', () =>
    fc.assert(
      fc.asyncProperty(
        fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }),
        fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }),
        async (p, q) => {
          const m = model([transpose('a', 't', p), transpose('t', 'b', q)]);
          const before = cloneModel(m);
          expect((await applyPass(mergeTransposes, m)).changes).toBe(1);
          expect(await agreement(before, m, feeds)).toBe(Number.POSITIVE_INFINITY);
        },
      ),
      { numRuns: 15 },
    ));
  it('with another user of the first: only a pair that cancels', async () => {
    const cancels = model([transpose('a', 't', [0, 2, 3, 1]), transpose('t', 'b', [0, 3, 1, 2]), node('Neg', ['t'], ['z'])], ['y', 'z']);
    expect((await applyPass(mergeTransposes, cancels)).changes).toBe(1);
    expect(operators(cancels)).toEqual(['Relu', 'Transpose', 'Neg', 'Sigmoid']);
    const merges = model([transpose('a', 't', [0, 2, 3, 1]), transpose('t', 'b', [0, 2, 3, 1]), node('Neg', ['t'], ['z'])], ['y', 'z']);
    expect((await applyPass(mergeTransposes, merges)).changes).toBe(0);
  });
  it('at the model’s edges keep its names', async () => {
    const m = modelOf([transpose('x', 't', [1, 0]), transpose('t', 'y', [1, 0])], { x: [2, 3] }, ['y']);
    const before = cloneModel(m);
    await applyPass(mergeTransposes, m);
    expect(await agreement(before, m, { x: floats(normals(6, 2), [2, 3]) })).toBe(Number.POSITIVE_INFINITY);
    expect(attrInts(m.graph.nodes[0]!, 'perm')).toEqual([0, 1]);
  });
});
