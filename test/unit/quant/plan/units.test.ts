import { describe, expect, it } from 'vitest';
import { type Attribute, floatAttr, GraphView, graphAttr, intAttr, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Model, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { floatTensor, int64Tensor } from '../../../../src/onnx/tensor.ts';
import { buildUnits, type Unit } from '../../../../src/quant/plan/units.ts';
import { ints, modelOf, node, type Shape, scalar, weight } from '../prepare/graphs.ts';

const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: output, attributes });
const unitsOf = (model: Model) => buildUnits(model, new GraphView(model.graph), inferShapes(model));
/** Units as the outputs of their nodes: `c+r` = one unit of two nodes; a `!` marks what has no integer kernel. */
const shape = (units: Unit[]) => units.map((u) => u.nodes.map((n) => n.outputs[0]).join('+') + (u.row ? '' : '!'));

const IMAGE = [1, 4, 8, 8];
const W = [weight('w', [4, 4, 3, 3]), weight('b', [4])];
const conv = op('Conv', ['x', 'w', 'b'], 'c');
const image = (nodes: Node[], outputs = ['y'], constants: Tensor[] = [], more: Shape = {}) =>
  modelOf(nodes, { x: IMAGE, ...more }, outputs, [...W, ...constants]);
const ROWS = [2, 6];
const M = [weight('w', [6, 5]), weight('b', [5])];
const rows = (nodes: Node[], outputs = ['y'], constants: Tensor[] = M) => modelOf(nodes, { x: ROWS }, outputs, constants);
const product = op('MatMul', ['x', 'w'], 'p');

describe('activations', () => {
  it('ReLU joins its producer', () => {
    const [unit] = unitsOf(image([conv, op('Relu', ['c'], 'y')]));
    expect(unit).toMatchObject({ operator: 'Conv', outputs: ['y'], clip: { lo: 0, hi: Infinity }, bias: 'b' });
  });
  it.each(['Add', 'Mul', 'GlobalAveragePool', 'Concat', 'AveragePool'])('ReLU joins %s', (opType) => {
    const attributes = opType === 'Concat' ? [intAttr('axis', 1)] : opType === 'AveragePool' ? [intsAttr('kernel_shape', [2, 2])] : [];
    const inputs = ['Add', 'Mul', 'Concat'].includes(opType) ? ['x', 'z'] : ['x'];
    expect(shape(unitsOf(image([op(opType, inputs, 'c', ...attributes), op('Relu', ['c'], 'y')], ['y'], [], { z: IMAGE })))).toEqual([
      'c+y',
    ]);
  });
  it.each(['Sigmoid', 'Softmax', 'LeakyRelu', 'MaxPool', 'Transpose'])('ReLU does not join %s', (opType) => {
    const attributes = opType === 'MaxPool' ? [intsAttr('kernel_shape', [2, 2])] : [];
    expect(shape(unitsOf(image([op(opType, ['x'], 'c', ...attributes), op('Relu', ['c'], 'y')])))).toEqual(['c', 'y!']);
  });
  it('Clip with constant bounds joins, with either bound, both or none', () => {
    const bounds = [scalar('lo', 0), scalar('hi', 6)];
    const clip = (...inputs: string[]) => unitsOf(image([conv, op('Clip', ['c', ...inputs], 'y')], ['y'], bounds))[0]!;
    expect(clip('lo', 'hi').clip).toEqual({ lo: 0, hi: 6 });
    expect(clip('lo').clip).toEqual({ lo: 0, hi: Infinity });
    expect(clip('', 'hi').clip).toEqual({ lo: -Infinity, hi: 6 });
    expect(clip().clip).toEqual({ lo: -Infinity, hi: Infinity });
    expect(clip('lo', 'hi').nodes).toHaveLength(2);
  });
  it('Clip with a computed bound stays apart', () => {
    expect(shape(unitsOf(image([conv, op('Clip', ['c', 'lo'], 'y')], ['y'], [], { lo: [] })))).toEqual(['c', 'y!']);
  });
  it.each([
    [1, 6],
    [-6, -1],
    [-6, 0],
    [3, 3],
    [6, 0],
  ])('Clip(%s, %s), without zero and something above it in its range, stays apart', (lo, hi) => {
    const model = image([conv, op('Clip', ['c', 'lo', 'hi'], 'y')], ['y'], [scalar('lo', lo), scalar('hi', hi)]);
    expect(shape(unitsOf(model))).toEqual(['c', 'y!']);
  });
  it('nothing joins a value that is an output of the graph', () => {
    expect(shape(unitsOf(image([conv, op('Relu', ['c'], 'y')], ['y', 'c'])))).toEqual(['c', 'y!']);
  });
  it('nothing joins a value with two readers', () => {
    expect(shape(unitsOf(image([conv, op('Relu', ['c'], 'r'), op('Add', ['c', 'r'], 'y')])))).toEqual(['c', 'r!', 'y']);
    expect(shape(unitsOf(image([conv, op('Relu', ['c'], 'r'), op('Relu', ['c'], 's'), op('Add', ['s', 'r'], 'y')])))).toEqual([
      'c',
      'r!',
      's!',
      'y',
    ]);
  });
  it('a subgraph that captures a value is a reader', () => {
    const branch = (name: string) => modelOf([op('Neg', ['c'], name)], {}, { [name]: IMAGE }).graph;
    const choice = op('If', ['q'], 'i', graphAttr('then_branch', branch('t')), graphAttr('else_branch', branch('e')));
    const model = modelOf([conv, choice, op('Relu', ['c'], 'r'), op('Add', ['i', 'r'], 'y')], { x: IMAGE, q: [] }, ['y'], W, {
      types: { q: DataType.BOOL },
    });
    expect(shape(unitsOf(model))).toEqual(['c', 'i!', 'r!', 'y']);
  });
  it('only the first of two joins', () => {
    expect(shape(unitsOf(image([conv, op('Relu', ['c'], 'r'), op('Clip', ['r', '', 'hi'], 'y')], ['y'], [scalar('hi', 6)])))).toEqual([
      'c+r',
      'y!',
    ]);
  });
  it('an operator of the same name in another domain is another operator', () => {
    const relu = { ...op('Relu', ['c'], 'y'), domain: 'com.example' };
    const foreign = { ...op('Conv', ['x', 'w', 'b'], 'c'), domain: 'com.example' };
    expect(shape(unitsOf(image([conv, relu])))).toEqual(['c', 'y!']);
    expect(shape(unitsOf(image([foreign, op('Relu', ['c'], 'y')])))).toEqual(['c!', 'y!']);
  });
});

describe('biases', () => {
  it.each([
    ['behind', ['p', 'b']],
    ['before', ['b', 'p']],
  ])('the Add of a vector with the product %s the bias joins a MatMul, and a ReLU behind it', (_, inputs) => {
    const [unit] = unitsOf(rows([product, op('Add', inputs, 'a'), op('Relu', ['a'], 'y')]));
    expect(unit).toMatchObject({ operator: 'MatMul', bias: 'b', outputs: ['y'], clip: { lo: 0 } });
    expect(unit!.nodes).toHaveLength(3);
  });
  it.each([
    ['a scalar', floatTensor('b', [1], [])],
    ['one element', floatTensor('b', [1], [1])],
    ['a row', floatTensor('b', [1, 2, 3, 4, 5], [1, 5])],
    ['a matrix', weight('b', [2, 5])],
  ])('the Add of %s stays apart', (_, tensor) => {
    expect(shape(unitsOf(rows([product, op('Add', ['p', 'b'], 'y')], ['y'], [M[0]!, tensor])))).toEqual(['p', 'y']);
  });
  it('the Add stays apart where the product is read twice or is an output', () => {
    expect(shape(unitsOf(rows([product, op('Add', ['p', 'b'], 'y'), op('Tanh', ['p'], 'z')], ['y', 'z'])))).toEqual(['p', 'y', 'z!']);
    expect(shape(unitsOf(rows([product, op('Add', ['p', 'b'], 'y')], ['y', 'p'])))).toEqual(['p', 'y']);
    expect(shape(unitsOf(rows([product, op('Add', ['p', 'p'], 'y')])))).toEqual(['p', 'y']);
  });
  it('an Add behind a convolution is an Add', () => {
    expect(shape(unitsOf(image([conv, op('Add', ['c', 'b'], 'y')])))).toEqual(['c', 'y']);
  });
  it('a computed bias keeps a layer in float', () => {
    const model = modelOf([op('Conv', ['x', 'w', 'bias'], 'y')], { x: IMAGE, bias: [4] }, ['y'], W);
    expect(unitsOf(model)[0]).toMatchObject({ row: null, reason: 'the bias is not a constant' });
  });
});

describe('what has no integer kernel says why', () => {
  const reason = (model: Model) => unitsOf(model)[0]!.reason;
  it.each([
    ['transA', [intAttr('transA', 1)], /transA/],
    ['alpha', [floatAttr('alpha', 0.5)], /alpha/],
    ['beta', [floatAttr('beta', 2)], /alpha and beta/],
  ])('Gemm with %s', (_, attributes, words) => {
    expect(reason(rows([op('Gemm', ['x', 'w', 'b'], 'y', ...attributes)], ['y'], [weight('w', [6, 5]), weight('b', [5])]))).toMatch(words);
  });
  it('Gemm with a matrix as bias', () => {
    expect(reason(rows([op('Gemm', ['x', 'w', 'b'], 'y')], ['y'], [weight('w', [6, 5]), weight('b', [2, 5])]))).toMatch(/bias/);
  });
  it('Conv 3-D', () => {
    const model = modelOf([op('Conv', ['x', 'w'], 'y')], { x: [1, 2, 4, 4, 4] }, ['y'], [weight('w', [2, 2, 3, 3, 3])]);
    expect(reason(model)).toMatch(/1-D and 2-D/);
  });
  it('Conv with computed weights', () => {
    expect(reason(modelOf([op('Conv', ['x', 'k'], 'y')], { x: IMAGE, k: [4, 4, 3, 3] }, ['y']))).toMatch(/not a constant/);
  });
  it('MatMul with a constant of rank 3, or with a constant first', () => {
    expect(reason(modelOf([op('MatMul', ['x', 'w'], 'y')], { x: [2, 3, 6] }, ['y'], [weight('w', [2, 6, 5])]))).toMatch(/form/);
    expect(reason(modelOf([op('MatMul', ['w', 'x'], 'y')], { x: [6, 5] }, ['y'], [weight('w', [3, 6])]))).toMatch(/first input/);
  });
  it('dilated AveragePool, linear Resize, MaxPool with indices', () => {
    const dilated = op('AveragePool', ['x'], 'y', intsAttr('kernel_shape', [2, 2]), intsAttr('dilations', [2, 2]));
    expect(reason(modelOf([dilated], { x: IMAGE }, ['y'], [], { opset: 19 }))).toMatch(/dilated/);
    const resize = op('Resize', ['x', '', 's'], 'y', stringAttr('mode', 'linear'));
    expect(reason(image([resize], ['y'], [floatTensor('s', [1, 1, 2, 2])]))).toMatch(/nearest/);
    const pool = node('MaxPool', ['x'], ['y', 'at'], { attributes: [intsAttr('kernel_shape', [2, 2])] });
    expect(reason(image([pool], ['y', 'at']))).toMatch(/indices/);
  });
  it.each(['Tanh', 'Sub', 'Div', 'ReduceMean', 'LayerNormalization'])('%s', (opType) => {
    const inputs = opType === 'Sub' || opType === 'Div' ? ['x', 'x'] : opType === 'LayerNormalization' ? ['x', 's'] : ['x'];
    expect(reason(image([op(opType, inputs, 'y')], ['y'], [weight('s', [8])]))).toBe('no-integer-kernel');
  });
});

describe('values that are not float', () => {
  it('are never quantized: shapes that are computed in the graph', () => {
    const nodes = [
      op('Shape', ['x'], 's'),
      op('Gather', ['s', 'zero'], 'g'),
      op('Unsqueeze', ['g', 'axes'], 'u'),
      op('Concat', ['u', 'rest'], 'k', intAttr('axis', 0)),
      op('Slice', ['s', 'axes', 'axes', 'axes'], 'l'),
      op('Mul', ['k', 'k'], 'm'),
      op('Reshape', ['x', 'm'], 'y'),
    ];
    const model = modelOf(nodes, { x: IMAGE }, ['y', 'l'], [int64Tensor('zero', [0], []), ints('axes', [0]), ints('rest', [-1])], {
      types: { l: DataType.INT64 },
    });
    expect(shape(unitsOf(model))).toEqual(['s!', 'g!', 'u!', 'k!', 'l!', 'm!', 'y']);
  });
  it('nor are float16 and double', () => {
    for (const type of [DataType.FLOAT16, DataType.DOUBLE]) {
      const model = modelOf([op('Add', ['x', 'x'], 'y')], { x: IMAGE }, ['y'], [], { types: { x: type, y: type } });
      expect(shape(unitsOf(model))).toEqual(['y!']);
    }
  });
  it('nor values of unknown type', () => {
    const unknown = { ...op('Something', ['x'], 'u'), domain: 'com.example' };
    expect(shape(unitsOf(modelOf([unknown, op('Add', ['u', 'u'], 'y')], { x: IMAGE }, ['y'])))).toEqual(['u!', 'y!']);
  });
  it('an embedding’s table is no activation', () => {
    const model = modelOf([op('Gather', ['table', 'x'], 'y')], { x: [3] }, ['y'], [weight('table', [10, 4])], {
      types: { x: DataType.INT64 },
    });
    expect(unitsOf(model)[0]).toMatchObject({ row: null, reason: 'all inputs are constants' });
  });
});

describe('constant activations', () => {
  it('are told apart from those that are computed', () => {
    const [unit] = unitsOf(image([op('Concat', ['x', 'k', 'x'], 'y', intAttr('axis', 1))], ['y'], [weight('k', [1, 2, 8, 8])]));
    expect(unit).toMatchObject({ inputs: [0, 2], constants: [1], weight: null });
  });
  it('that are not finite keep a unit in float', () => {
    const model = image([op('Add', ['x', 'k'], 'y')], ['y'], [floatTensor('k', [Number.NEGATIVE_INFINITY], [])]);
    expect(shape(unitsOf(model))).toEqual(['y!']);
  });
});
