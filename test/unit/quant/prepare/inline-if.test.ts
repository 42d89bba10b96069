import { describe, expect, it } from 'vitest';
import { cloneModel, graphAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { inlineIf } from '../../../../src/quant/prepare/inline-if.ts';
import { agreement, applyPass, floats, modelOf, node, normals, operators, weight } from './graphs.ts';

const bool = (name: string, value: boolean): Tensor => ({
  name,
  dataType: DataType.BOOL,
  dims: [],
  data: { kind: 'bytes', bytes: Uint8Array.of(value ? 1 : 0) },
});
const branch = (nodes: Node[], outputs: string[], constants: Tensor[] = []) => modelOf(nodes, {}, outputs, constants).graph;
const feeds = { x: floats(normals(4, 1), [4]) };

describe('If with a constant condition', () => {
  it.each([true, false])('becomes its branch (%s), names that are taken made new', async (condition) => {
    const model = modelOf(
      [
        node('Relu', ['x'], ['t']),
        node('If', ['c'], ['y', 'z'], {
          attributes: [
            // Both branches and the graph around them use the names `t` and `w`: legal in files that exist, if not by the letter.
            graphAttr(
              'then_branch',
              branch([node('Add', ['x', 'w'], ['t2']), node('Mul', ['t2', 't'], ['r'])], ['r', 't2'], [weight('w', [4], { seed: 1 })]),
            ),
            graphAttr(
              'else_branch',
              branch([node('Sub', ['x', 'w'], ['t2']), node('Neg', ['t2'], ['r'])], ['r', 't2'], [weight('w', [4], { seed: 2 })]),
            ),
          ],
        }),
        node('Exp', ['t'], ['e']),
      ],
      { x: [4] },
      ['y', 'z', 'e'],
      [bool('c', condition)],
    );
    const before = cloneModel(model);
    expect((await applyPass(inlineIf, model)).changes).toBe(1);
    expect(operators(model)).not.toContain('If');
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });
  it('keeps apart what two Ifs name alike', async () => {
    const one = (seed: number, output: string) =>
      node('If', ['c'], [output], {
        attributes: [
          graphAttr(
            'then_branch',
            branch([node('Add', ['x', 'w'], ['t']), node('Neg', ['t'], ['r'])], ['r'], [weight('w', [4], { seed })]),
          ),
          graphAttr('else_branch', branch([node('Neg', ['x'], ['r'])], ['r'])),
        ],
      });
    const model = modelOf([one(1, 'y'), one(2, 'z')], { x: [4] }, ['y', 'z'], [bool('c', true)]);
    const before = cloneModel(model);
    expect((await applyPass(inlineIf, model)).changes).toBe(2);
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });
  it('hands an outer value on through an Identity', async () => {
    const model = modelOf(
      [
        node('Relu', ['x'], ['t']),
        node('If', ['c'], ['y'], {
          attributes: [
            graphAttr('then_branch', branch([node('Identity', ['t'], ['r'])], ['r'])),
            graphAttr('else_branch', branch([node('Neg', ['x'], ['r'])], ['r'])),
          ],
        }),
        node('Exp', ['t'], ['e']),
      ],
      { x: [4] },
      ['y', 'e'],
      [bool('c', true)],
    );
    const before = cloneModel(model);
    await applyPass(inlineIf, model);
    expect(await agreement(before, model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });
  it('with a condition that is computed stays', async () => {
    const model = modelOf(
      [
        node('If', ['c'], ['y'], {
          attributes: [
            graphAttr('then_branch', branch([node('Neg', ['x'], ['r'])], ['r'])),
            graphAttr('else_branch', branch([node('Exp', ['x'], ['r'])], ['r'])),
          ],
        }),
      ],
      { x: [4], c: [] },
      ['y'],
      [],
      { types: { c: DataType.BOOL } },
    );
    expect((await applyPass(inlineIf, model)).changes).toBe(0);
  });
});
