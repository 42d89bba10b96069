/**
 * Layers left in float among integer ones: the runtime would quantize them by itself (runtime.md, section 2). Oracle: the float
 * operators alone, run by ONNX Runtime on the very values that come out of the integer layer before them.
 */
import { describe, expect, it } from 'vitest';
import { type Attribute, floatAttr, intAttr, intsAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Dim, type Model, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { selfQuantized } from '../../../../src/quant/gate/kernels.ts';
import { asFloats, ints, modelOf, node, run, type Shape, scalar, weight } from '../prepare/graphs.ts';
import { type Feeds, profiled, quantize, randomFeeds } from './quantize.ts';

const pads = intsAttr('pads', [1, 1, 1, 1]);
const IMAGE = [1, 16, 8, 12];
const ROWS = [4, 24];
const SEQUENCE = [2, 4, 24];

interface Island {
  name: string;
  /** Shape of the integer layer's output, which the island reads as `s` (and `s2`); it leaves `i`. */
  dims: number[];
  nodes: Node[];
  constants?: Tensor[];
  /** Kernels of which one at least must have run: the float ones. */
  runs: string;
  /** A second integer value. */
  second?: number[];
  bool?: Shape;
}

const isle = (op: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(op, inputs, [output], { name: `isle_${op}_${output}`, attributes });
const conv = (from: string, to: string, ...attributes: Attribute[]) => isle('Conv', [from, 'w', 'b'], to, ...attributes);
const weights = (dims: number[], outputs = dims[0]!) => [weight('w', dims, { scale: 0.2 }), weight('b', [outputs])];
const W = weights([16, 16, 3, 3]);
const G = [weight('w', [24, 24]), weight('b', [24])];
const pool = (op: string, from: string, to: string) => isle(op, [from], to, intsAttr('kernel_shape', [2, 2]));
const turn = (from: string, to: string) => isle('Transpose', [from], to, intsAttr('perm', [0, 1, 3, 2]));

/** Operators with weights that the runtime would round to 8 bits, a tensor at a time. */
const WEIGHTED: Island[] = [
  { name: 'Conv', dims: IMAGE, nodes: [conv('s', 'i', pads)], constants: W, runs: 'Conv' },
  { name: 'Conv without bias', dims: IMAGE, nodes: [isle('Conv', ['s', 'w'], 'i', pads)], constants: W.slice(0, 1), runs: 'Conv' },
  { name: 'Conv + Relu', dims: IMAGE, nodes: [conv('s', 'j', pads), isle('Relu', ['j'], 'i')], constants: W, runs: 'Conv' },
  {
    name: 'Conv + Clip',
    dims: IMAGE,
    nodes: [conv('s', 'j', pads), isle('Clip', ['j', 'lo', 'hi'], 'i')],
    constants: [...W, scalar('lo', 0), scalar('hi', 6)],
    runs: 'Conv',
  },
  { name: 'Conv 1-D', dims: [1, 8, 20], nodes: [conv('s', 'i')], constants: weights([8, 8, 3]), runs: 'Conv' },
  { name: 'depthwise Conv', dims: IMAGE, nodes: [conv('s', 'i', intAttr('group', 16))], constants: weights([16, 1, 3, 3]), runs: 'Conv' },
  { name: 'Conv of one channel', dims: [1, 1, 8, 12], nodes: [conv('s', 'i')], constants: weights([8, 1, 3, 3]), runs: 'Conv' },
  {
    name: 'Conv of one channel + Relu',
    dims: [1, 1, 8, 12],
    nodes: [conv('s', 'j'), isle('Relu', ['j'], 'i')],
    constants: weights([8, 1, 3, 3]),
    runs: 'Conv',
  },
  { name: 'Conv behind a MaxPool', dims: IMAGE, nodes: [pool('MaxPool', 's', 't'), conv('t', 'i')], constants: W, runs: 'Conv' },
  { name: 'Conv behind a Transpose', dims: IMAGE, nodes: [turn('s', 't'), conv('t', 'i')], constants: W, runs: 'Conv' },
  {
    name: 'Conv behind a Transpose of one channel',
    dims: [1, 8, 12, 1],
    nodes: [isle('Transpose', ['s'], 't', intsAttr('perm', [0, 3, 1, 2])), conv('t', 'i')],
    constants: weights([8, 1, 3, 3]),
    runs: 'Conv',
  },
  {
    name: 'Conv behind a Reshape',
    dims: IMAGE,
    nodes: [isle('Reshape', ['s', 'shape'], 't'), conv('t', 'i')],
    constants: [...W, ints('shape', [1, 16, 12, 8])],
    runs: 'Conv',
  },
  { name: 'Conv before a MaxPool', dims: IMAGE, nodes: [conv('s', 't'), pool('MaxPool', 't', 'i')], constants: W, runs: 'Conv' },
  { name: 'Conv between Transposes', dims: IMAGE, nodes: [turn('s', 't'), conv('t', 'u'), turn('u', 'i')], constants: W, runs: 'Conv' },
  {
    name: 'ConvTranspose',
    dims: IMAGE,
    nodes: [isle('ConvTranspose', ['s', 'w', 'b'], 'i', intsAttr('strides', [2, 2]))],
    constants: weights([16, 8, 3, 3], 8),
    runs: 'ConvTranspose',
  },
  {
    name: 'ConvTranspose + Relu',
    dims: IMAGE,
    nodes: [isle('ConvTranspose', ['s', 'w', 'b'], 'j'), isle('Relu', ['j'], 'i')],
    constants: weights([16, 8, 3, 3], 8),
    runs: 'ConvTranspose',
  },
  {
    name: 'ConvTranspose of one channel',
    dims: [1, 1, 8, 12],
    nodes: [isle('ConvTranspose', ['s', 'w', 'b'], 'i')],
    constants: weights([1, 8, 3, 3], 8),
    runs: 'ConvTranspose',
  },
  { name: 'Gemm', dims: ROWS, nodes: [isle('Gemm', ['s', 'w', 'b'], 'i')], constants: G, runs: 'Gemm|FusedGemm' },
  {
    name: 'Gemm transB + Relu',
    dims: ROWS,
    nodes: [isle('Gemm', ['s', 'w', 'b'], 'j', intAttr('transB', 1)), isle('Relu', ['j'], 'i')],
    constants: G,
    runs: 'Gemm|FusedGemm',
  },
  {
    name: 'Gemm transA',
    dims: [24, 4],
    nodes: [isle('Gemm', ['s', 'w', 'b'], 'i', intAttr('transA', 1))],
    constants: G,
    runs: 'Gemm|FusedGemm',
  },
  {
    name: 'Gemm, alpha 0.5',
    dims: ROWS,
    nodes: [isle('Gemm', ['s', 'w', 'b'], 'i', floatAttr('alpha', 0.5))],
    constants: G,
    runs: 'Gemm|FusedGemm',
  },
  {
    name: 'Gemm of one input',
    dims: [4, 1],
    nodes: [isle('Gemm', ['s', 'w', 'b'], 'i')],
    constants: [weight('w', [1, 24]), weight('b', [24])],
    runs: 'Gemm|FusedGemm',
  },
  {
    name: 'Gemm behind a Reshape',
    dims: SEQUENCE,
    nodes: [isle('Reshape', ['s', 'shape'], 't'), isle('Gemm', ['t', 'w', 'b'], 'i', intAttr('transB', 1))],
    constants: [...G, ints('shape', [-1, 24])],
    runs: 'Gemm|FusedGemm',
  },
  { name: 'MatMul', dims: ROWS, nodes: [isle('MatMul', ['s', 'w'], 'i')], constants: G.slice(0, 1), runs: 'MatMul' },
  {
    name: 'MatMul + bias',
    dims: ROWS,
    nodes: [isle('MatMul', ['s', 'w'], 'j'), isle('Add', ['j', 'b'], 'i')],
    constants: G,
    runs: 'Gemm|FusedGemm',
  },
  {
    name: 'MatMul + bias 3-D',
    dims: SEQUENCE,
    nodes: [isle('MatMul', ['s', 'w'], 'j'), isle('Add', ['j', 'b'], 'i')],
    constants: G,
    runs: 'Gemm|FusedGemm|MatMul',
  },
  {
    name: 'MatMul + bias + Relu 3-D',
    dims: SEQUENCE,
    nodes: [isle('MatMul', ['s', 'w'], 'j'), isle('Add', ['j', 'b'], 'k'), isle('Relu', ['k'], 'i')],
    constants: G,
    runs: 'Gemm|FusedGemm|MatMul',
  },
];

/** Operators whose integer kernel the runtime would choose by itself. */
const PLAIN: Island[] = [
  { name: 'MatMul of two activations', dims: [2, 6, 8], second: [2, 8, 6], nodes: [isle('MatMul', ['s', 's2'], 'i')], runs: 'MatMul' },
  { name: 'Add', dims: IMAGE, second: IMAGE, nodes: [isle('Add', ['s', 's2'], 'i')], runs: 'Add' },
  { name: 'Add of itself', dims: IMAGE, nodes: [isle('Add', ['s', 's'], 'i')], runs: 'Add' },
  { name: 'Add + Relu', dims: IMAGE, second: IMAGE, nodes: [isle('Add', ['s', 's2'], 'j'), isle('Relu', ['j'], 'i')], runs: 'Add' },
  { name: 'Add of a constant', dims: IMAGE, nodes: [isle('Add', ['s', 'c'], 'i')], constants: [weight('c', [16, 1, 1])], runs: 'Add' },
  { name: 'Mul', dims: IMAGE, second: [1, 16, 1, 1], nodes: [isle('Mul', ['s', 's2'], 'i')], runs: 'Mul' },
  { name: 'AveragePool', dims: IMAGE, nodes: [pool('AveragePool', 's', 'i')], runs: 'AveragePool' },
  { name: 'GlobalAveragePool', dims: IMAGE, nodes: [isle('GlobalAveragePool', ['s'], 'i')], runs: 'GlobalAveragePool' },
  { name: 'Concat', dims: IMAGE, second: IMAGE, nodes: [isle('Concat', ['s', 's2'], 'i', intAttr('axis', 2))], runs: 'Concat' },
  { name: 'Sigmoid', dims: IMAGE, nodes: [isle('Sigmoid', ['s'], 'i')], runs: 'Sigmoid' },
  { name: 'LeakyRelu', dims: IMAGE, nodes: [isle('LeakyRelu', ['s'], 'i', floatAttr('alpha', 0.1))], runs: 'LeakyRelu' },
  { name: 'Softmax', dims: IMAGE, nodes: [isle('Softmax', ['s'], 'i')], runs: 'Softmax' },
  { name: 'Softmax behind a Transpose', dims: IMAGE, nodes: [turn('s', 't'), isle('Softmax', ['t'], 'i')], runs: 'Softmax' },
  { name: 'Where', dims: IMAGE, second: IMAGE, bool: { q: [1, 1, 8, 12] }, nodes: [isle('Where', ['q', 's', 's2'], 'i')], runs: 'Where' },
  {
    name: 'Where with a constant',
    dims: IMAGE,
    bool: { q: [1, 1, 8, 12] },
    nodes: [isle('Where', ['q', 's', 'c'], 'i')],
    constants: [scalar('c', 0.5)],
    runs: 'Where',
  },
];

/** Operators that only move data: in float or in integers they give the same. */
const MOVERS: Island[] = [
  { name: 'MaxPool', dims: IMAGE, nodes: [pool('MaxPool', 's', 'i')], runs: 'MaxPool' },
  {
    name: 'Resize',
    dims: IMAGE,
    nodes: [isle('Resize', ['s', '', 'c'], 'i', stringAttr('mode', 'nearest'))],
    constants: [floatTensor('c', [1, 1, 2, 2])],
    runs: 'Resize',
  },
  {
    name: 'Split',
    dims: IMAGE,
    nodes: [node('Split', ['s'], ['i', 'rest'], { name: 'isle_Split', attributes: [intAttr('axis', 1)] })],
    runs: 'Split',
  },
  {
    name: 'Gather',
    dims: IMAGE,
    nodes: [isle('Gather', ['s', 'c'], 'i', intAttr('axis', 1))],
    constants: [ints('c', [3, 1])],
    runs: 'Gather',
  },
  {
    name: 'Slice',
    dims: IMAGE,
    nodes: [isle('Slice', ['s', 'a', 'e', 'd'], 'i')],
    constants: [ints('a', [1]), ints('e', [9]), ints('d', [1])],
    runs: 'Slice',
  },
  { name: 'Transpose', dims: IMAGE, nodes: [isle('Transpose', ['s'], 'i', intsAttr('perm', [0, 2, 3, 1]))], runs: 'Transpose' },
  { name: 'Reshape', dims: IMAGE, nodes: [isle('Reshape', ['s', 'c'], 'i')], constants: [ints('c', [4, -1])], runs: 'Reshape' },
  { name: 'Flatten', dims: IMAGE, nodes: [isle('Flatten', ['s'], 'i')], runs: 'Flatten|Reshape' },
  { name: 'Squeeze', dims: IMAGE, nodes: [isle('Squeeze', ['s', 'c'], 'i')], constants: [ints('c', [0])], runs: 'Squeeze' },
  { name: 'Unsqueeze', dims: IMAGE, nodes: [isle('Unsqueeze', ['s', 'c'], 'i')], constants: [ints('c', [1])], runs: 'Unsqueeze' },
  { name: 'Expand', dims: [1, 16, 1, 1], nodes: [isle('Expand', ['s', 'c'], 'i')], constants: [ints('c', [1, 16, 4, 4])], runs: 'Expand' },
  { name: 'Tile', dims: IMAGE, nodes: [isle('Tile', ['s', 'c'], 'i')], constants: [ints('c', [1, 1, 2, 1])], runs: 'Tile' },
  { name: 'DepthToSpace', dims: IMAGE, nodes: [isle('DepthToSpace', ['s'], 'i', intAttr('blocksize', 2))], runs: 'DepthToSpace' },
  {
    name: 'two Transposes and a Slice',
    dims: IMAGE,
    nodes: [turn('s', 't'), isle('Slice', ['t', 'a', 'e', 'd'], 'u'), turn('u', 'i')],
    constants: [ints('a', [1]), ints('e', [5]), ints('d', [1])],
    runs: 'Slice',
  },
];

/** x → Sigmoid → island → Sigmoid, the Sigmoids in integers; the island's ends are outputs too, which stops none of what the runtime does. */
function around(island: Island, dims: Dim[], seen: boolean): { model: Model; alone: Model } {
  const second = island.second ? [node('Sigmoid', ['x2'], ['s2'], { name: 'second' })] : [];
  const options = { types: Object.fromEntries(Object.keys(island.bool ?? {}).map((q) => [q, DataType.BOOL])) };
  const model = modelOf(
    [node('Sigmoid', ['x'], ['s'], { name: 'first' }), ...second, ...island.nodes, node('Sigmoid', ['i'], ['y'], { name: 'last' })],
    { x: dims, ...(island.second && { x2: island.second }), ...island.bool },
    seen ? ['y', 's', 'i', ...(island.second ? ['s2'] : [])] : ['y'],
    island.constants ?? [],
    options,
  );
  const alone = modelOf(
    island.nodes,
    { s: island.dims, ...(island.second && { s2: island.second }), ...island.bool },
    ['i'],
    island.constants ?? [],
    options,
  );
  return { model, alone };
}

/** Free dimensions change nothing but the guard: there one format, with the island's ends as outputs, does. */
async function check(island: Island, dims: Dim[], exact: boolean, thorough = false): Promise<void> {
  for (const seen of thorough ? [true, false] : [true]) {
    const { model, alone } = around(island, dims, seen);
    const feeds = randomFeeds(around(island, island.dims, seen).model, 2, { scale: 2 });
    const q = await quantize(model, { feeds, float: (unit) => unit.name.startsWith('isle') });
    for (const format of thorough ? (['qdq', 'qoperator'] as const) : (['qdq'] as const)) {
      const { outputs, nodes, kernels } = await profiled(q[format], feeds);
      expect(selfQuantized(q.quantization, nodes)).toEqual([]);
      expect(kernels.filter((k) => k === 'QLinearSigmoid').length).toBeGreaterThanOrEqual(2);
      expect(
        kernels.some((k) => new RegExp(`^(${island.runs})$`).test(k)),
        `${island.runs} among ${kernels}`,
      ).toBe(true);
      if (!seen) {
        // Without optimization nothing is rewritten: what comes out is what the file says.
        const plain = await profiled(q[format], feeds, { optimization: 'disable' });
        expect(plain.outputs.map(({ y }) => Buffer.from(y!.bytes))).toEqual(outputs.map(({ y }) => Buffer.from(y!.bytes)));
        continue;
      }
      for (const [i, { s, s2, i: got }] of outputs.entries()) {
        const given: Feeds = { s: s!, ...(s2 && { s2 }), ...(island.bool && { q: feeds[i]!.q! }) };
        const want = asFloats((await run(alone, given)).i!);
        const largest = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        const tolerance = exact ? 1e-6 * Math.max(1, largest) : 0;
        const error = asFloats(got!).reduce((a, v, k) => Math.max(a, Math.abs(v - want[k]!)), 0);
        expect(error).toBeLessThanOrEqual(tolerance);
      }
    }
  }
}
/** The first dimension free, and all of them. */
const free = (dims: number[]): Dim[][] => [['N', ...dims.slice(1)], dims.map((_, i) => `D${i}`)];

describe('a layer with weights stays in float', () => {
  it.each(WEIGHTED.map((c) => [c.name, c] as const))('%s', async (_, island) => {
    await check(island, island.dims, true, true);
  });
  it.each(WEIGHTED.map((c) => [c.name, c] as const))('%s, dimensions free', async (_, island) => {
    for (const dims of free(island.dims)) await check(island, dims, true);
  });
});

describe('a layer without weights stays in float', () => {
  it.each(PLAIN.map((c) => [c.name, c] as const))('%s', async (_, island) => {
    await check(island, island.dims, true, true);
    for (const dims of free(island.dims)) await check(island, dims, true);
  });
});

describe('a layer that moves data loads, runs and moves it', () => {
  it.each(MOVERS.map((c) => [c.name, c] as const))('%s', async (_, island) => {
    await check(island, island.dims, false, true);
    for (const dims of free(island.dims)) await check(island, dims, false);
  });
});

describe('other lengths than the calibration data’s', () => {
  it('run: no guard has a length of the data in it', async () => {
    const dims: Dim[] = ['batch', 'length', 24];
    const nodes = [
      node('Sigmoid', ['x'], ['s'], { name: 'first' }),
      isle('Transpose', ['s'], 't', intsAttr('perm', [0, 2, 1])),
      isle('Transpose', ['t'], 'u', intsAttr('perm', [0, 2, 1])),
      isle('MatMul', ['u', 'w'], 'j'),
      isle('Add', ['j', 'b'], 'i'),
      node('Sigmoid', ['i'], ['y'], { name: 'last' }),
    ];
    const model = modelOf(nodes, { x: dims }, ['y'], G);
    const feeds = randomFeeds(modelOf(nodes, { x: [2, 7, 24] }, ['y'], G), 2);
    const q = await quantize(model, { feeds, float: (unit) => unit.name.startsWith('isle'), inputShapes: new Map([['x', [2, 7, 24]]]) });
    const longer = randomFeeds(modelOf(nodes, { x: [3, 11, 24] }, ['y'], G), 1);
    for (const format of ['qdq', 'qoperator'] as const) {
      const { outputs, nodes: ran } = await profiled(q[format], [...longer, ...feeds]);
      expect(outputs[0]!.y!.dims).toEqual([3, 11, 24]);
      expect(selfQuantized(q.quantization, ran)).toEqual([]);
    }
  });
});
