import { describe, expect, it } from 'vitest';
import { floatAttr, floatsAttr, graphAttr, intAttr, intsAttr, tensorAttr } from '../../../../src/onnx/graph.ts';
import { type Attribute, feedInputs } from '../../../../src/onnx/model.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { constantsToInitializers } from '../../../../src/quant/prepare/constants.ts';
import { applyPass, asFloats, floats, modelOf, node, operators, run, weight } from './graphs.ts';

describe('constants to initializers', () => {
  it('takes every form of Constant', async () => {
    const constant = (output: string, attribute: Attribute) => node('Constant', [], [output], { attributes: [attribute] });
    const model = modelOf(
      [
        constant('a', tensorAttr('value', floatTensor('', [1, 2], [2]))),
        constant('b', floatAttr('value_float', 3)),
        constant('c', floatsAttr('value_floats', [4, 5])),
        constant('d', intAttr('value_int', 1)),
        constant('e', intsAttr('value_ints', [1, 2])),
        node('Add', ['x', 'a'], ['x1']),
        node('Mul', ['x1', 'b'], ['x2']),
        node('Add', ['x2', 'c'], ['x3']),
        node('Reshape', ['x3', 'e'], ['x4']),
        node('Gather', ['x4', 'd'], ['y'], { attributes: [intAttr('axis', 1)] }),
      ],
      { x: [2] },
      ['y'],
    );
    const want = await run(model, { x: floats([1, 1], [2]) });
    expect((await applyPass(constantsToInitializers, model)).changes).toBe(5);
    expect(operators(model)).not.toContain('Constant');
    expect(model.graph.initializers.get('b')!.dims).toEqual([]);
    expect(asFloats((await run(model, { x: floats([1, 1], [2]) })).y!)).toEqual(asFloats(want.y!));
  });
  it('leaves a Constant that is an output of the model', async () => {
    const model = modelOf(
      [node('Constant', [], ['y'], { attributes: [floatAttr('value_float', 3)] }), node('Relu', ['x'], ['z'])],
      { x: [2] },
      ['y', 'z'],
    );
    expect((await applyPass(constantsToInitializers, model)).changes).toBe(0);
    expect(operators(model)).toContain('Constant');
  });
  it('takes those of branches into the branch', async () => {
    const branch = (value: number) =>
      modelOf(
        [
          node('Constant', [], [`k${value}`], { attributes: [floatAttr('value_float', value)] }),
          node('Mul', ['x', `k${value}`], [`r${value}`]),
        ],
        {},
        [`r${value}`],
      ).graph;
    const model = modelOf(
      [
        node('ReduceMax', ['x'], ['top'], { attributes: [intAttr('keepdims', 0)] }),
        node('Greater', ['top', 'zero'], ['c']),
        node('If', ['c'], ['y'], { attributes: [graphAttr('then_branch', branch(2)), graphAttr('else_branch', branch(3))] }),
      ],
      { x: [2] },
      ['y'],
      [floatTensor('zero', [0], [])],
    );
    expect((await applyPass(constantsToInitializers, model)).changes).toBe(2);
    expect(asFloats((await run(model, { x: floats([1, 1], [2]) })).y!)).toEqual(Float32Array.of(2, 2));
    expect(asFloats((await run(model, { x: floats([-1, -1], [2]) })).y!)).toEqual(Float32Array.of(-3, -3));
  });
  it('takes weights off the inputs, with a note where a caller could have overridden them', async () => {
    const make = (irVersion: number) => {
      const model = modelOf([node('Add', ['x', 'w'], ['y'])], { x: [2], w: [2] }, ['y'], [weight('w', [2])]);
      model.irVersion = irVersion;
      return model;
    };
    const old = make(3);
    expect((await applyPass(constantsToInitializers, old)).notes).toEqual([]);
    expect(old.graph.inputs.map((input) => input.name)).toEqual(['x']);
    expect(old.irVersion).toBe(4);
    const later = make(8);
    const { notes } = await applyPass(constantsToInitializers, later);
    expect(notes[0]).toContain('1 weights were listed as inputs');
    expect(feedInputs(later.graph).map((input) => input.name)).toEqual(['x']);
  });
});
