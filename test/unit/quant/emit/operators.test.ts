/** Each row of the operator table in both formats, loaded and run by ONNX Runtime: the oracle is its float model and its profile. */
import { describe, expect, it } from 'vitest';
import { type Attribute, floatAttr, intAttr, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { integerUnits } from '../../../../src/quant/gate/kernels.ts';
import { OPERATORS } from '../../../../src/quant/plan/operators.ts';
import { asFloats, ints, modelOf, node, type Shape, scalar, sqnr, weight } from '../prepare/graphs.ts';
import { type Feeds, profiled, type QuantizeOptions, quantize, randomFeeds } from './quantize.ts';

interface Case {
  name: string;
  x: number[];
  nodes: Node[];
  constants?: Tensor[];
  /** Further inputs. */
  more?: Shape;
  bool?: string[];
  outputs?: string[];
  /** The integer kernel that the profile must show. */
  kernel: string;
  /** QDQ and QOperator run different kernels: their outputs agree to rounding only. */
  differ?: true;
}

const IMAGE = [2, 16, 12, 12];
const one = (op: string, inputs: string[], ...attributes: Attribute[]) => [node(op, inputs, ['y'], { attributes })];
const layer = (dims: number[], bias = true) => [weight('w', dims, { scale: 0.2 }), ...(bias ? [weight('b', [dims[0]!])] : [])];
const pads = intsAttr('pads', [1, 1, 1, 1]);
const relu = (nodes: Node[]) => [
  ...nodes.slice(0, -1),
  { ...nodes.at(-1)!, outputs: ['linear'] },
  node('Relu', ['linear'], ['y'], { name: 'relu' }),
];
const matmulAdd = [node('MatMul', ['x', 'w'], ['product']), node('Add', ['product', 'b'], ['y'])];
const addMatmul = [node('MatMul', ['x', 'w'], ['product']), node('Add', ['b', 'product'], ['y'])];
const bias = (n: number) => weight('b', [n]);

const CASES: Case[] = [
  { name: 'Conv 2-D', x: IMAGE, nodes: one('Conv', ['x', 'w', 'b'], pads), constants: layer([32, 16, 3, 3]), kernel: 'QLinearConv' },
  { name: 'Conv without bias', x: IMAGE, nodes: one('Conv', ['x', 'w']), constants: layer([8, 16, 1, 1], false), kernel: 'QLinearConv' },
  { name: 'Conv of one output', x: IMAGE, nodes: one('Conv', ['x', 'w', 'b']), constants: layer([1, 16, 3, 3]), kernel: 'QLinearConv' },
  {
    name: 'Conv 1-D, strided',
    x: [2, 16, 40],
    nodes: one('Conv', ['x', 'w', 'b'], intsAttr('strides', [2])),
    constants: layer([24, 16, 5]),
    kernel: 'QLinearConv',
  },
  {
    name: 'Conv depthwise',
    x: IMAGE,
    nodes: one('Conv', ['x', 'w', 'b'], intAttr('group', 16), pads),
    constants: layer([16, 1, 3, 3]),
    kernel: 'QLinearConv',
  },
  {
    name: 'Conv grouped, dilated',
    x: IMAGE,
    nodes: one('Conv', ['x', 'w', 'b'], intAttr('group', 4), intsAttr('dilations', [2, 1])),
    constants: layer([32, 4, 3, 3]),
    kernel: 'QLinearConv',
  },
  {
    name: 'Conv, padding by name',
    x: IMAGE,
    nodes: one('Conv', ['x', 'w', 'b'], stringAttr('auto_pad', 'SAME_UPPER'), intsAttr('strides', [2, 2])),
    constants: layer([8, 16, 3, 3]),
    kernel: 'QLinearConv',
  },
  {
    name: 'Conv + Relu',
    x: IMAGE,
    nodes: relu(one('Conv', ['x', 'w', 'b'], pads)),
    constants: layer([8, 16, 3, 3]),
    kernel: 'QLinearConv',
  },
  { name: 'Gemm', x: [4, 24], nodes: one('Gemm', ['x', 'w', 'b']), constants: [weight('w', [24, 10]), bias(10)], kernel: 'QGemm' },
  {
    name: 'Gemm of one output',
    x: [4, 24],
    nodes: one('Gemm', ['x', 'w', 'b']),
    constants: [weight('w', [24, 1]), bias(1)],
    kernel: 'QGemm',
  },
  {
    name: 'Gemm transB, square',
    x: [4, 24],
    nodes: one('Gemm', ['x', 'w', 'b'], intAttr('transB', 1)),
    constants: [weight('w', [24, 24]), bias(24)],
    kernel: 'QGemm',
  },
  { name: 'Gemm square', x: [4, 24], nodes: one('Gemm', ['x', 'w', 'b']), constants: [weight('w', [24, 24]), bias(24)], kernel: 'QGemm' },
  {
    name: 'Gemm without bias',
    x: [4, 24],
    nodes: one('Gemm', ['x', 'w'], intAttr('transB', 1)),
    constants: [weight('w', [10, 24])],
    kernel: 'QGemm',
  },
  {
    name: 'Gemm, one bias for all',
    x: [4, 24],
    nodes: one('Gemm', ['x', 'w', 'b']),
    constants: [weight('w', [24, 10]), bias(1)],
    kernel: 'QGemm',
  },
  {
    name: 'Gemm + Relu',
    x: [4, 24],
    nodes: relu(one('Gemm', ['x', 'w', 'b'])),
    constants: [weight('w', [24, 10]), bias(10)],
    kernel: 'QGemm',
  },
  { name: 'MatMul 2-D', x: [4, 24], nodes: one('MatMul', ['x', 'w']), constants: [weight('w', [24, 10])], kernel: 'MatMulIntegerToFloat' },
  {
    name: 'MatMul of one output',
    x: [4, 24],
    nodes: one('MatMul', ['x', 'w']),
    constants: [weight('w', [24, 1])],
    kernel: 'MatMulIntegerToFloat',
  },
  {
    name: 'MatMul 3-D',
    x: [2, 4, 24],
    nodes: one('MatMul', ['x', 'w']),
    constants: [weight('w', [24, 24])],
    kernel: 'MatMulIntegerToFloat',
  },
  {
    name: 'MatMul + Relu',
    x: [4, 24],
    nodes: relu(one('MatMul', ['x', 'w'])),
    constants: [weight('w', [24, 10])],
    kernel: 'MatMulIntegerToFloat',
  },
  { name: 'MatMul + bias 2-D', x: [4, 24], nodes: matmulAdd, constants: [weight('w', [24, 10]), bias(10)], kernel: 'QGemm' },
  { name: 'bias + MatMul 2-D, Relu', x: [4, 24], nodes: relu(addMatmul), constants: [weight('w', [24, 10]), bias(10)], kernel: 'QGemm' },
  {
    name: 'MatMul + bias 3-D',
    x: [2, 4, 24],
    nodes: matmulAdd,
    constants: [weight('w', [24, 10]), bias(10)],
    kernel: 'QGemm|MatMulIntegerToFloat',
    differ: true,
  },
  {
    name: 'MatMul of two activations',
    x: [2, 8, 6],
    nodes: one('MatMul', ['x', 'z']),
    more: { z: [2, 6, 4] },
    kernel: 'MatMulIntegerToFloat',
  },
  { name: 'Add', x: IMAGE, nodes: one('Add', ['x', 'z']), more: { z: IMAGE }, kernel: 'QLinearAdd' },
  { name: 'Add, broadcast', x: IMAGE, nodes: one('Add', ['x', 'z']), more: { z: [16, 1, 1] }, kernel: 'QLinearAdd' },
  { name: 'Add + Relu', x: IMAGE, nodes: relu(one('Add', ['x', 'z'])), more: { z: IMAGE }, kernel: 'QLinearAdd' },
  { name: 'Add of a constant', x: IMAGE, nodes: one('Add', ['c', 'x']), constants: [weight('c', [16, 1, 1])], kernel: 'QLinearAdd' },
  { name: 'Add of itself', x: IMAGE, nodes: one('Add', ['x', 'x']), kernel: 'QLinearAdd' },
  { name: 'Mul', x: IMAGE, nodes: one('Mul', ['x', 'z']), more: { z: [2, 16, 1, 1] }, kernel: 'QLinearMul' },
  { name: 'Mul by a scalar', x: IMAGE, nodes: one('Mul', ['x', 'c']), constants: [scalar('c', 0.37)], kernel: 'QLinearMul' },
  { name: 'Mul by a negative scalar', x: IMAGE, nodes: one('Mul', ['x', 'c']), constants: [scalar('c', -2)], kernel: 'QLinearMul' },
  {
    name: 'AveragePool',
    x: IMAGE,
    nodes: one('AveragePool', ['x'], intsAttr('kernel_shape', [3, 3]), pads),
    kernel: 'QLinearAveragePool',
  },
  {
    name: 'AveragePool, padding counted',
    x: IMAGE,
    nodes: one('AveragePool', ['x'], intsAttr('kernel_shape', [3, 3]), pads, intAttr('count_include_pad', 1), intAttr('ceil_mode', 1)),
    kernel: 'QLinearAveragePool',
  },
  {
    name: 'AveragePool 1-D',
    x: [2, 16, 40],
    nodes: one('AveragePool', ['x'], intsAttr('kernel_shape', [3])),
    kernel: 'QLinearAveragePool',
  },
  { name: 'GlobalAveragePool', x: IMAGE, nodes: one('GlobalAveragePool', ['x']), kernel: 'QLinearGlobalAveragePool' },
  { name: 'Concat', x: IMAGE, nodes: one('Concat', ['x', 'z'], intAttr('axis', 1)), more: { z: IMAGE }, kernel: 'QLinearConcat' },
  {
    name: 'Concat with a constant',
    x: IMAGE,
    nodes: one('Concat', ['c', 'x', 'x'], intAttr('axis', 1)),
    constants: [weight('c', [2, 4, 12, 12], { scale: 3 })],
    kernel: 'QLinearConcat',
  },
  { name: 'Sigmoid', x: IMAGE, nodes: one('Sigmoid', ['x']), kernel: 'QLinearSigmoid' },
  { name: 'LeakyRelu', x: IMAGE, nodes: one('LeakyRelu', ['x'], floatAttr('alpha', 0.1)), kernel: 'QLinearLeakyRelu' },
  { name: 'LeakyRelu, alpha by default', x: IMAGE, nodes: one('LeakyRelu', ['x']), kernel: 'QLinearLeakyRelu' },
  { name: 'Softmax', x: [2, 8, 16], nodes: one('Softmax', ['x']), kernel: 'QLinearSoftmax' },
  { name: 'Softmax of another axis', x: [2, 8, 16], nodes: one('Softmax', ['x'], intAttr('axis', 1)), kernel: 'QLinearSoftmax' },
  { name: 'Where', x: IMAGE, nodes: one('Where', ['q', 'x', 'z']), more: { q: IMAGE, z: IMAGE }, bool: ['q'], kernel: 'QLinearWhere' },
  {
    name: 'Where with a constant',
    x: IMAGE,
    nodes: one('Where', ['q', 'c', 'x']),
    more: { q: [1, 1, 12, 12] },
    bool: ['q'],
    constants: [scalar('c', -2)],
    kernel: 'QLinearWhere',
  },
  {
    name: 'MaxPool',
    x: IMAGE,
    nodes: one('MaxPool', ['x'], intsAttr('kernel_shape', [2, 2]), intsAttr('strides', [2, 2])),
    kernel: 'MaxPool',
  },
  {
    name: 'MaxPool 1-D, padded',
    x: [2, 16, 40],
    nodes: one('MaxPool', ['x'], intsAttr('kernel_shape', [3]), intsAttr('pads', [1, 1])),
    kernel: 'MaxPool',
  },
  {
    name: 'Resize',
    x: IMAGE,
    nodes: one('Resize', ['x', '', 's'], stringAttr('mode', 'nearest')),
    constants: [floatTensor('s', [1, 1, 2, 2])],
    kernel: 'Resize',
  },
  {
    name: 'Split',
    x: IMAGE,
    nodes: [node('Split', ['x'], ['y', 'y2'], { attributes: [intAttr('axis', 1)] })],
    outputs: ['y', 'y2'],
    kernel: 'Split',
  },
  { name: 'Gather', x: IMAGE, nodes: one('Gather', ['x', 'i'], intAttr('axis', 1)), constants: [ints('i', [3, 1, 4])], kernel: 'Gather' },
  {
    name: 'Slice',
    x: IMAGE,
    nodes: one('Slice', ['x', 'a', 'e', 'd']),
    constants: [ints('a', [1]), ints('e', [9]), ints('d', [2])],
    kernel: 'Slice',
  },
  { name: 'Transpose', x: IMAGE, nodes: one('Transpose', ['x'], intsAttr('perm', [0, 2, 3, 1])), kernel: 'Transpose' },
  { name: 'Reshape', x: IMAGE, nodes: one('Reshape', ['x', 's']), constants: [ints('s', [2, -1])], kernel: 'Reshape' },
  { name: 'Flatten', x: IMAGE, nodes: one('Flatten', ['x']), kernel: 'Flatten' },
  { name: 'Squeeze', x: [2, 1, 16, 12], nodes: one('Squeeze', ['x', 'd']), constants: [ints('d', [1])], kernel: 'Squeeze' },
  { name: 'Unsqueeze', x: IMAGE, nodes: one('Unsqueeze', ['x', 'd']), constants: [ints('d', [0])], kernel: 'Unsqueeze' },
  { name: 'Expand', x: [2, 16, 1, 1], nodes: one('Expand', ['x', 's']), constants: [ints('s', [2, 16, 4, 4])], kernel: 'Expand' },
  { name: 'Tile', x: IMAGE, nodes: one('Tile', ['x', 's']), constants: [ints('s', [1, 1, 2, 1])], kernel: 'Tile' },
  { name: 'DepthToSpace', x: IMAGE, nodes: one('DepthToSpace', ['x'], intAttr('blocksize', 2)), kernel: 'DepthToSpace' },
];

const modelFor = (c: Case) =>
  modelOf(c.nodes, { x: c.x, ...c.more }, c.outputs ?? ['y'], c.constants ?? [], {
    types: Object.fromEntries((c.bool ?? []).map((name) => [name, DataType.BOOL])),
  });

/** The least SQNR over all outputs and runs. */
const worst = (reference: Feeds[], got: Feeds[]) =>
  Math.min(
    ...reference.flatMap((outputs, i) => Object.keys(outputs).map((name) => sqnr(asFloats(outputs[name]!), asFloats(got[i]![name]!)))),
  );
const bytes = (outputs: Feeds[]) => outputs.map((o) => Object.fromEntries(Object.entries(o).map(([k, v]) => [k, Buffer.from(v.bytes)])));
async function check(c: Case, options: QuantizeOptions = {}, decibels = 26): Promise<void> {
  const model = modelFor(c);
  const feeds = randomFeeds(model, 2);
  const q = await quantize(model, { feeds, ...options });
  expect(q.quantization.quantized.size).toBe(q.units.length);
  const float = await profiled(model, feeds);
  const [qdq, qoperator] = [await profiled(q.qdq, feeds), await profiled(q.qoperator, feeds)];
  for (const { outputs, kernels, nodes } of [qdq, qoperator]) {
    expect(integerUnits(q.quantization, nodes)).toEqual(q.units.map((u) => u.name));
    expect(worst(float.outputs, outputs)).toBeGreaterThan(decibels);
    expect(
      kernels.some((k) => new RegExp(`^(${c.kernel})$`).test(k)),
      `${c.kernel} among ${kernels}`,
    ).toBe(true);
    // On integers from the first quantization on: nothing is dequantized before its own kernel.
    const at = kernels.findIndex((k) => new RegExp(`^(${c.kernel})$`).test(k));
    expect(kernels.slice(0, at)).toContain('QuantizeLinear');
    expect(kernels.slice(0, at)).not.toContain('DequantizeLinear');
  }
  if (c.differ) expect(worst(qdq.outputs, qoperator.outputs)).toBeGreaterThan(60);
  else expect(bytes(qoperator.outputs)).toEqual(bytes(qdq.outputs));
  expect(qdq.signature).toEqual(float.signature);
  expect(qoperator.signature).toEqual(float.signature);
}

describe('every row of the table, between float values', () => {
  it('has a case', () => {
    const covered = new Set(CASES.flatMap((c) => c.nodes.map((n) => n.opType)));
    expect(Object.keys(OPERATORS).filter((op) => !covered.has(op))).toEqual([]);
  });
  it.each(CASES.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    await check(c);
  });
});

describe('every row that takes images, between convolutions', () => {
  const images = CASES.filter((c) => c.x === IMAGE && !c.outputs && !['Reshape', 'Flatten', 'Unsqueeze'].includes(c.nodes[0]!.opType));
  it.each(images.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    // x → convolution → the row → convolution; the second one's input channels are whatever the row leaves.
    const rename = (value: string) => (value === 'x' ? 'inner' : value === 'y' ? 'result' : value);
    const nodes = c.nodes.map((n) => ({ ...n, inputs: n.inputs.map(rename), outputs: n.outputs.map(rename) }));
    const probe = await profiled(modelFor(c), randomFeeds(modelFor(c), 1));
    const channels = probe.outputs[0]!.y!.dims[1]!;
    const model = modelOf(
      [
        node('Conv', ['x', 'w1', 'b1'], ['inner'], { name: 'first' }),
        ...nodes,
        node('Conv', ['result', 'w2', 'b2'], ['y'], { name: 'last' }),
      ],
      { x: c.x, ...c.more },
      ['y'],
      [
        ...(c.constants ?? []),
        weight('w1', [16, 16, 1, 1], { scale: 0.3 }),
        weight('b1', [16]),
        weight('w2', [8, channels, 1, 1], { scale: 0.3 }),
        weight('b2', [8]),
      ],
      { types: Object.fromEntries((c.bool ?? []).map((name) => [name, DataType.BOOL])) },
    );
    const feeds = randomFeeds(model, 2);
    const q = await quantize(model, { feeds });
    const float = await profiled(model, feeds);
    const [qdq, qoperator] = [await profiled(q.qdq, feeds), await profiled(q.qoperator, feeds)];
    for (const { outputs, kernels, nodes } of [qdq, qoperator]) {
      expect(integerUnits(q.quantization, nodes)).toEqual(q.units.map((u) => u.name));
      expect(worst(float.outputs, outputs)).toBeGreaterThan(23);
      expect(kernels.filter((k) => k === 'QLinearConv').length).toBeGreaterThanOrEqual(2);
      expect(kernels.filter((k) => k === 'DequantizeLinear')).toHaveLength(1);
      expect(
        kernels.filter((k) => /^(Fused)?Conv$|^(Add|Mul|Concat|Where|Sigmoid|LeakyRelu|AveragePool|GlobalAveragePool|Softmax)$/.test(k)),
      ).toEqual([]);
    }
    expect(bytes(qoperator.outputs)).toEqual(bytes(qdq.outputs));
  });
});

describe('recipes', () => {
  const names = [
    'Conv 2-D',
    'Conv depthwise',
    'Conv of one output',
    'Gemm',
    'Gemm transB, square',
    'MatMul 2-D',
    'MatMul + bias 2-D',
    'MatMul of two activations',
  ];
  const layers = CASES.filter((c) => names.includes(c.name));
  const recipes: [string, QuantizeOptions['recipe']][] = [
    ['one scale a tensor', { weights: { granularity: 'tensor' } }],
    ['uint8 weights', { weights: { type: 'uint8' } }],
    ['asymmetric weights', { weights: { symmetric: false } }],
    ['asymmetric uint8 weights, one scale', { weights: { type: 'uint8', granularity: 'tensor', symmetric: false } }],
    ['symmetric activations', { activations: { symmetric: true } }],
  ];
  for (const [name, recipe] of recipes) {
    it.each(layers.map((c) => [c.name, c] as const))(`${name}: %s`, async (_, c) => {
      await check(c, { recipe }, 24);
    });
  }
  it.each(layers.map((c) => [c.name, c] as const))('int8 activations: %s', async (_, c) => {
    const model = modelFor(c);
    const feeds = randomFeeds(model, 2);
    const q = await quantize(model, { feeds, recipe: { activations: { type: 'int8' } } });
    const float = await profiled(model, feeds);
    expect(worst(float.outputs, (await profiled(q.qdq, feeds)).outputs)).toBeGreaterThan(24);
    expect(worst(float.outputs, (await profiled(q.qoperator, feeds)).outputs)).toBeGreaterThan(24);
  });
});
