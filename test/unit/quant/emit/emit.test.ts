/** Graphs around the layers: forks, residuals, outputs from inside, folded activations, subgraphs. Oracles: the float model and the profile. */
import { describe, expect, it } from 'vitest';
import { type Attribute, captures, graphAttr, intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Model, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { intData, tensorBytes } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { integerUnits } from '../../../../src/quant/gate/kernels.ts';
import { asFloats, ints, modelOf, node, type Shape, scalar, sqnr, weight } from '../prepare/graphs.ts';
import { type Feeds, profiled, type Quantized, type QuantizeOptions, quantize, randomFeeds } from './quantize.ts';

const C = 16;
const IMAGE = [1, C, 12, 12];
const pads = intsAttr('pads', [1, 1, 1, 1]);
const conv = (from: string, to: string) => node('Conv', [from, `w_${to}`, `b_${to}`], [to], { name: `conv_${to}`, attributes: [pads] });
const layers = (...names: string[]): Tensor[] =>
  names.flatMap((n) => [weight(`w_${n}`, [C, C, 3, 3], { scale: 0.1 }), weight(`b_${n}`, [C])]);
const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: `${opType}_${output}`, attributes });
const worst = (reference: Feeds[], got: Feeds[]) =>
  Math.min(
    ...reference.flatMap((outputs, i) => Object.keys(outputs).map((name) => sqnr(asFloats(outputs[name]!), asFloats(got[i]![name]!)))),
  );

/** Nodes of a model whose outputs nobody reads. */
function dead(model: Model): string[] {
  const read = new Set(model.graph.outputs.map((o) => o.name));
  for (const n of model.graph.nodes) for (const value of [...n.inputs, ...captures(n)]) read.add(value);
  return model.graph.nodes.filter((n) => !n.outputs.some((o) => read.has(o))).map((n) => n.name);
}

interface Run {
  q: Quantized;
  float: Awaited<ReturnType<typeof profiled>>;
  qdq: Awaited<ReturnType<typeof profiled>>;
}

/** Both formats load, give the float model's values, the same bits as each other and the same inputs and outputs; every name is made once. */
async function check(model: Model, options: QuantizeOptions & { decibels?: number; differ?: boolean } = {}): Promise<Run> {
  const feeds = options.feeds ?? randomFeeds(model, 3);
  const q = await quantize(model, { feeds, ...options });
  const [float, qdq, qoperator] = [await profiled(model, feeds), await profiled(q.qdq, feeds), await profiled(q.qoperator, feeds)];
  for (const { outputs, signature } of [qdq, qoperator]) {
    expect(worst(float.outputs, outputs)).toBeGreaterThan(options.decibels ?? 26);
    expect(signature).toEqual(float.signature);
  }
  const bytes = (run: typeof qdq) => run.outputs.map((o) => Object.values(o).map((v) => Buffer.from(v.bytes)));
  if (!options.differ) expect(bytes(qoperator)).toEqual(bytes(qdq));
  for (const written of [q.qdq, q.qoperator]) {
    expect(dead(written)).toEqual([]);
    const names = written.graph.nodes.map((n) => n.name);
    expect(new Set(names).size).toBe(names.length);
    const values = [...written.graph.nodes.flatMap((n) => n.outputs.filter(Boolean)), ...written.graph.initializers.keys()];
    expect(new Set(values).size).toBe(values.length);
    // Scales and zero points of activations are rank 0 (runtime.md, rule 6).
    for (const n of written.graph.nodes.filter((n) => n.opType === 'QuantizeLinear')) {
      for (const parameter of n.inputs.slice(1)) expect(written.graph.initializers.get(parameter)!.dims).toEqual([]);
    }
  }
  return { q, float, qdq };
}
const count = (kernels: string[], kernel: string) => kernels.filter((k) => k === kernel).length;
const of = (nodes: Node[], outputs: string[], constants: Tensor[], more: Shape = {}, types: Record<string, DataType> = {}) =>
  modelOf(nodes, { x: IMAGE, ...more }, outputs, constants, { types });

describe('forks', () => {
  it('a residual block: one quantization, four integer kernels', async () => {
    const { qdq } = await check(
      of(
        [conv('x', 'c'), op('Relu', ['c'], 'd'), conv('d', 'e'), op('Add', ['d', 'e'], 'f'), op('Relu', ['f'], 'g'), conv('g', 'y')],
        ['y'],
        layers('c', 'e', 'y'),
      ),
    );
    expect(count(qdq.kernels, 'QLinearConv')).toBe(3);
    expect(count(qdq.kernels, 'QLinearAdd')).toBe(1);
    expect(count(qdq.kernels, 'QuantizeLinear')).toBe(1);
    expect(count(qdq.kernels, 'DequantizeLinear')).toBe(1);
    expect(count(qdq.kernels, 'Relu')).toBe(0);
  });
  it('a value read by an integer and a float unit', async () => {
    const { qdq } = await check(
      of([conv('x', 'c'), conv('c', 'd'), op('Tanh', ['c'], 't'), op('Add', ['d', 't'], 'y')], ['y'], layers('c', 'd')),
    );
    expect(count(qdq.kernels, 'QLinearConv')).toBe(2);
    expect(count(qdq.kernels, 'Tanh')).toBe(1);
  });
  it('a float value read by integer units twice is quantized once', async () => {
    const { q, qdq } = await check(of([conv('x', 'c'), conv('x', 'd'), op('Add', ['c', 'd'], 'y')], ['y'], layers('c', 'd')));
    expect(q.qdq.graph.nodes.filter((n) => n.opType === 'QuantizeLinear' && n.inputs[0] === 'x')).toHaveLength(1);
    expect(count(qdq.kernels, 'QuantizeLinear')).toBe(1);
  });
  it.each(['Add', 'Mul', 'Concat'])('%s of a value and itself', async (opType) => {
    const { qdq } = await check(
      of(
        [conv('x', 'c'), op(opType, ['c', 'c'], 'd', ...(opType === 'Concat' ? [intAttr('axis', 2)] : [])), conv('d', 'y')],
        ['y'],
        layers('c', 'y'),
      ),
    );
    expect(qdq.kernels).toContain(`QLinear${opType}`);
    expect(count(qdq.kernels, 'DequantizeLinear')).toBe(1);
  });
  it('two layers with the same weights', async () => {
    const shared = [
      node('Conv', ['x', 'w_c', 'b_c'], ['c'], { attributes: [pads] }),
      node('Conv', ['c', 'w_c', 'b_c'], ['y'], { attributes: [pads] }),
    ];
    const { qdq } = await check(of(shared, ['y'], layers('c')));
    expect(count(qdq.kernels, 'QLinearConv')).toBe(2);
  });
  it('a constant that two units read is written once', async () => {
    const { q } = await check(
      of([conv('x', 'c'), op('Add', ['c', 'k'], 'd'), op('Mul', ['d', 'k'], 'y')], ['y'], [...layers('c'), weight('k', [C, 1, 1])]),
    );
    expect([...q.qdq.graph.initializers.keys()].filter((n) => n.startsWith('k_quantized'))).toHaveLength(1);
    expect(q.qdq.graph.initializers.has('k')).toBe(false);
  });
});

describe('outputs of the graph', () => {
  it('taken from inside keep their names; what is behind them still runs', async () => {
    const { qdq } = await check(
      of([conv('x', 'c'), op('Relu', ['c'], 'd'), conv('d', 'e'), op('Relu', ['e'], 'y')], ['c', 'd', 'y'], layers('c', 'e')),
    );
    // The first ReLU can't fold: what is before it is an output.
    expect(count(qdq.kernels, 'QLinearConv')).toBe(2);
    expect(count(qdq.kernels, 'Relu')).toBe(1);
  });
  it('are float where an operator gives floats, and nothing is quantized for them', async () => {
    const model = modelOf(
      [node('Gemm', ['x', 'w', 'b'], ['h']), node('Relu', ['h'], ['y'])],
      { x: [4, 24] },
      ['y'],
      [weight('w', [24, 10]), weight('b', [10])],
    );
    const { q, qdq } = await check(model);
    expect(q.qdq.graph.nodes.filter((n) => n.opType === 'QuantizeLinear')).toHaveLength(1);
    // The ReLU is still there, on floats.
    expect(qdq.kernels).toEqual(['QuantizeLinear', 'QGemm', 'Relu']);
    expect(asFloats(qdq.outputs[0]!.y!).every((v) => v >= 0)).toBe(true);
  });
  it('of a float output with another reader in integers: one quantized value serves both', async () => {
    const model = modelOf(
      [node('MatMul', ['x', 'w'], ['h']), node('MatMul', ['h', 'v'], ['y'])],
      { x: [4, 24] },
      ['h', 'y'],
      [weight('w', [24, 24]), weight('v', [24, 10])],
    );
    const { qdq } = await check(model);
    expect(qdq.kernels).toContain('QLinearMatMul');
  });
});

describe('a product with a float output keeps its integer kernel, whatever reads it', () => {
  const products: [string, Node[], number[]][] = [
    ['Gemm', [op('Gemm', ['x', 'w', 'b'], 'h')], [4, 24]],
    ['MatMul', [op('MatMul', ['x', 'w'], 'h')], [4, 24]],
    ['MatMul 3-D', [op('MatMul', ['x', 'w'], 'h')], [2, 4, 24]],
    ['MatMul + bias', [op('MatMul', ['x', 'w'], 'g'), op('Add', ['g', 'b'], 'h')], [4, 24]],
    ['MatMul + bias 3-D', [op('MatMul', ['x', 'w'], 'g'), op('Add', ['g', 'b'], 'h')], [2, 4, 24]],
    ['MatMul of two activations', [op('MatMul', ['x', 'z'], 'h')], [4, 24]],
  ];
  const after: [string, string[]][] = [
    ['Relu', []],
    ['Clip', ['one', 'two']],
    ['Clip', ['zero', 'two']],
    ['LeakyRelu', []],
    ['Sigmoid', []],
    ['Tanh', []],
    ['Softmax', []],
    ['Add', ['x']],
    ['Mul', ['two']],
    ['Div', ['two']],
  ];
  it.each(products)('%s', async (_, product, dims) => {
    for (const [opType, others] of after) {
      const next = op(opType, ['h', ...others], 'r');
      const model = modelOf(
        [...product, next, op('Neg', ['r'], 'y')],
        { x: dims, z: [24, 24] },
        ['y'],
        [weight('w', [24, 24]), weight('b', [24]), scalar('zero', 0), scalar('one', 1), scalar('two', 2)],
      );
      const feeds = randomFeeds(model, 1);
      const q = await quantize(model, { feeds, float: (unit) => unit.name === next.name });
      for (const format of ['qdq', 'qoperator'] as const) {
        const { nodes } = await profiled(q[format], feeds);
        expect(integerUnits(q.quantization, nodes), `${opType} ${format}`).toEqual([product[0]!.name]);
      }
    }
  });
});

describe('folded activations', () => {
  const clipped = (lo: number | null, hi: number | null) =>
    of(
      [conv('x', 'c'), op('Clip', ['c', lo === null ? '' : 'lo', hi === null ? '' : 'hi'], 'd'), conv('d', 'y')],
      ['y', 'd'],
      [...layers('c', 'y'), ...(lo === null ? [] : [scalar('lo', lo)]), ...(hi === null ? [] : [scalar('hi', hi)])],
    );
  const inside = (run: Run, lo: number, hi: number) => {
    for (const { d } of run.qdq.outputs) {
      const x = asFloats(d!);
      const step = run.q.quantization.grid('d').scale;
      expect(x.reduce((a, v) => Math.min(a, v), Infinity)).toBeGreaterThanOrEqual(lo - step);
      expect(x.reduce((a, v) => Math.max(a, v), -Infinity)).toBeLessThanOrEqual(hi + step);
    }
  };
  it.each([
    [0, 6],
    [0, 0.7],
    [-1, 1],
    [null, 0.5],
    [-0.5, null],
    [0, null],
  ])('Clip(%s, %s) is done by the grid', async (lo, hi) => {
    const run = await check(clipped(lo, hi));
    inside(run, lo ?? -Infinity, hi ?? Infinity);
    expect(run.qdq.kernels).not.toContain('Clip');
    expect(count(run.qdq.kernels, 'QLinearConv')).toBe(2);
  });
  it.each([
    [-1, 0.2],
    [-0.1, 1],
    [null, 0.3],
  ])('Clip(%s, %s) on a symmetric grid, which is wider than it, is done in codes', async (lo, hi) => {
    for (const type of ['uint8', 'int8'] as const) {
      // With int8 activations the runtime leaves the QDQ form in float.
      const run = await check(clipped(lo, hi), { recipe: { activations: { symmetric: true, type } }, differ: type === 'int8' });
      inside(run, lo ?? -Infinity, hi ?? Infinity);
    }
  });
  it('Clip before a Concat whose other input takes the common grid beyond its bounds', async () => {
    const run = await check(
      of(
        [conv('x', 'c'), op('Clip', ['c', 'lo'], 'd'), conv('x', 'e'), op('Concat', ['d', 'e'], 'y', intAttr('axis', 1))],
        ['y', 'd'],
        [...layers('c', 'e'), scalar('lo', -0.5)],
      ),
    );
    expect(run.q.quantization.grid('d')).toEqual(run.q.quantization.grid('e'));
    inside(run, -0.5, Infinity);
  });
  it.each([
    [0.5, 2],
    [-2, -0.5],
  ])('Clip(%s, %s) without zero in its range stays a float operator', async (lo, hi) => {
    const { qdq } = await check(clipped(lo, hi));
    expect(qdq.kernels).toContain('Clip');
  });
});

describe('subgraphs', () => {
  it('read quantized values by their names', async () => {
    const then = modelOf([node('Add', ['c', 'k'], ['t'], { name: 'then_add' })], {}, { t: IMAGE }, [scalar('k', 1)]).graph;
    const otherwise = modelOf([node('Neg', ['c'], ['o'], { name: 'else_neg' })], {}, { o: IMAGE }).graph;
    const branch = op('If', ['q'], 'e', graphAttr('then_branch', then), graphAttr('else_branch', otherwise));
    const model = of(
      [conv('x', 'c'), conv('c', 'd'), branch, op('Add', ['d', 'e'], 'y')],
      ['y'],
      layers('c', 'd'),
      { q: [] },
      { q: DataType.BOOL },
    );
    const feeds = randomFeeds(model, 2);
    feeds[0]!.q = { type: 'bool', dims: [], bytes: Uint8Array.of(1) };
    feeds[1]!.q = { type: 'bool', dims: [], bytes: Uint8Array.of(0) };
    const { qdq } = await check(model, { feeds });
    expect(count(qdq.kernels, 'QLinearConv')).toBe(2);
    expect(qdq.kernels).toEqual(expect.arrayContaining(['If', 'Neg', 'Add']));
  });
  it('that capture a value keep what is before it from folding', async () => {
    const then = modelOf([node('Neg', ['c'], ['t'], { name: 'then_neg' })], {}, { t: IMAGE }).graph;
    const otherwise = modelOf([node('Abs', ['c'], ['o'], { name: 'else_abs' })], {}, { o: IMAGE }).graph;
    const branch = op('If', ['q'], 'e', graphAttr('then_branch', then), graphAttr('else_branch', otherwise));
    const { q } = await check(
      of([conv('x', 'c'), op('Relu', ['c'], 'd'), branch, op('Add', ['d', 'e'], 'y')], ['y'], layers('c'), { q: [] }, { q: DataType.BOOL }),
    );
    expect(q.units[0]!.nodes.map((n) => n.opType)).toEqual(['Conv']);
  });
});

describe('names', () => {
  it('of the user’s values are not taken by what is added', async () => {
    // Everything that emission would like to call something is there already.
    const nodes = [
      conv('x', 'c'),
      op('Relu', ['c'], 'c_quantized'),
      conv('c_quantized', 'c_scale'),
      op('Tanh', ['c_scale'], 'c_zero_point'),
      conv('c_zero_point', 'y'),
    ];
    const { qdq } = await check(of(nodes, ['y'], layers('c', 'c_scale', 'y')));
    expect(count(qdq.kernels, 'QLinearConv')).toBe(3);
  });
  it('of integers: shapes computed in the graph are left alone', async () => {
    const { q } = await check(
      of(
        [
          op('Shape', ['x'], 's'),
          op('Gather', ['s', 'i'], 'g'),
          op('Concat', ['g', 'm'], 't', intAttr('axis', 0)),
          conv('x', 'c'),
          op('Reshape', ['c', 't'], 'y'),
        ],
        ['y'],
        [...layers('c'), ints('i', [0]), ints('m', [-1])],
      ),
    );
    expect(q.units.filter((u) => u.row).map((u) => u.name)).toEqual(['conv_c', 'Reshape_y']);
  });
});

describe('integers', () => {
  it('biases are the float bias at scale_x · scale_w, zero points of weights are zero', async () => {
    const { q } = await check(of([conv('x', 'c'), op('Relu', ['c'], 'd'), conv('d', 'y')], ['y'], layers('c', 'y')));
    const scaleOf = (name: string) => Float32Array.from(new Float32Array(tensorBytes(q.qdq.graph.initializers.get(name)!).slice().buffer));
    const dequantize = (output: string) => q.qdq.graph.nodes.find((n) => n.outputs[0] === output)!;
    for (const unit of q.units) {
      const made = q.qdq.graph.nodes.find((n) => n.name === unit.name)!;
      const [x, w, b] = made.inputs.map((i) => dequantize(i!));
      const [xs, ws, bs] = [scaleOf(x!.inputs[1]!), scaleOf(w!.inputs[1]!), scaleOf(b!.inputs[1]!)];
      expect([...bs]).toEqual([...ws].map((s) => Math.fround(s * xs[0]!)));
      expect(intData(q.qdq.graph.initializers.get(w!.inputs[2]!)!).every((z) => z === 0)).toBe(true);
      expect(w!.attributes.get('axis')).toMatchObject({ value: 0n });
    }
  });
  it('the same plan gives the same bytes', async () => {
    const model = of([conv('x', 'c'), op('Relu', ['c'], 'd'), conv('d', 'y')], ['y'], layers('c', 'y'));
    const feeds = randomFeeds(model, 2);
    const [first, second] = [await quantize(model, { feeds }), await quantize(model, { feeds })];
    for (const format of ['qdq', 'qoperator'] as const) {
      expect(Buffer.compare(Buffer.from(serializeModel(first[format])), Buffer.from(serializeModel(second[format])))).toBe(0);
    }
  });
  it('the given model is left as it was', async () => {
    const model = of([conv('x', 'c'), op('Relu', ['c'], 'd'), conv('d', 'y')], ['y', 'c'], layers('c', 'y'));
    const before = Buffer.from(serializeModel(model));
    await quantize(model);
    expect(Buffer.compare(Buffer.from(serializeModel(model)), before)).toBe(0);
  });
});
