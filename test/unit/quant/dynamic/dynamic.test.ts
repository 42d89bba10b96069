import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Recipe, resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { TensorValue } from '../../../../src/domain/runner.ts';
import { floatAttr, graphAttr, intAttr, stringAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Model } from '../../../../src/onnx/model.ts';
import { readModel } from '../../../../src/onnx/reader.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { elementCount } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { type DynamicContext, quantizeDynamic } from '../../../../src/quant/dynamic/index.ts';
import { prepare } from '../../../../src/quant/prepare/index.ts';
import { agreement, floats, longs, modelOf, node, normals, operators, randomSource, runner, weight } from '../prepare/graphs.ts';

const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });
const dynamic = (model: Model, recipe: Partial<Recipe> = {}, context: Partial<DynamicContext> = {}) =>
  quantizeDynamic(model, resolveRecipe({ method: 'dynamic', ...recipe }), { shapes: inferShapes(model), ...context });

/** Kernels that ran, by the runtime's profile. */
async function kernels(model: Model, feeds: Record<string, TensorValue>): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'halftone-dynamic-'));
  try {
    const session = await runner.open(serializeModel(model), { threads: 1, profilePrefix: join(folder, 'p') });
    try {
      await session.run(feeds);
      return (await session.endProfile()).map((n) => n.operator).sort();
    } finally {
      session.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const reasons = (result: ReturnType<typeof dynamic>) => Object.fromEntries(result.leftInFloat.map((n) => [n.operator, n.reason]));

describe('dynamic MatMul and Gemm', () => {
  const x = floats(normals(32 * 256, 1), [32, 256]);
  it('run in the runtime’s fused kernel, bias and all', async () => {
    const model = modelOf([node('MatMul', ['x', 'w'], ['m']), node('Add', ['m', 'b'], ['y'])], { x: ['N', 256] }, { y: ['N', 300] }, [
      weight('w', [256, 300]),
      weight('b', [300]),
    ]);
    const result = dynamic(model);
    expect(result.quantized).toEqual([model.graph.nodes[0]!.name]);
    expect(operators(result.model)).toEqual(['DynamicQuantizeLinear', 'MatMulInteger', 'Cast', 'Mul', 'Mul', 'Add']);
    expect(await kernels(result.model, { x })).toEqual(['DynamicQuantizeMatMul']);
    expect(await agreement(model, result.model, { x })).toBeGreaterThan(38);
    // Another size of the free dimension, and the model that came in as it was.
    expect(await agreement(model, result.model, { x: floats(normals(3 * 256, 2), [3, 256]) })).toBeGreaterThan(38);
    expect(operators(model)).toEqual(['MatMul', 'Add']);
    expect(Buffer.compare(serializeModel(dynamic(model).model), serializeModel(result.model))).toBe(0);
  });
  it.each([
    ['int8', 'channel', true],
    ['int8', 'tensor', true],
    ['int8', 'channel', false],
    ['uint8', 'channel', true],
    ['uint8', 'tensor', false],
  ] as const)('with %s weights by %s, symmetric %s', async (type, granularity, symmetric) => {
    const model = modelOf([node('MatMul', ['x', 'w'], ['y'])], { x: ['N', 'T', 256] }, ['y'], [weight('w', [256, 300], { mean: 0.5 })]);
    const result = dynamic(model, { weights: { type, granularity, symmetric } });
    expect(await agreement(model, result.model, { x: floats(normals(6 * 256, 3), [2, 3, 256]) })).toBeGreaterThan(33);
    const codes = [...result.model.graph.initializers.values()].filter((t) => t.dims.length === 2);
    expect(codes.map((t) => t.dataType)).toEqual([type === 'int8' ? DataType.INT8 : DataType.UINT8]);
    expect(result.model.graph.nodes.find((n) => n.opType === 'MatMulInteger')!.inputs).toHaveLength(type === 'int8' && symmetric ? 3 : 4);
  });
  it.each([
    [0, true],
    [1, true],
    [1, false],
  ])('Gemm with alpha, beta, transB = %i; constant bias: %s', async (transB, constantBias) => {
    const options = attributes(floatAttr('alpha', 0.5), floatAttr('beta', 3), intAttr('transB', transB));
    const model = modelOf(
      [node('Gemm', ['x', 'w', 'b'], ['y'], options)],
      { x: ['N', 256], ...(!constantBias && { b: [300] }) },
      ['y'],
      [weight('w', transB ? [300, 256] : [256, 300]), ...(constantBias ? [weight('b', [1, 300])] : [])],
    );
    const result = dynamic(model);
    expect(result.quantized).toHaveLength(1);
    const feeds = { x, ...(!constantBias && { b: floats(normals(300, 5), [300]) }) };
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(38);
  });
  it('layers that take the same input share its quantization', async () => {
    const model = modelOf(
      ['q', 'k', 'v'].map((name) => node('MatMul', ['x', `w${name}`], [name])),
      { x: ['N', 256] },
      ['q', 'k', 'v'],
      ['q', 'k', 'v'].map((name) => weight(`w${name}`, [256, 256])),
    );
    const result = dynamic(model);
    expect(operators(result.model).filter((op) => op === 'DynamicQuantizeLinear')).toHaveLength(1);
    expect(await kernels(result.model, { x })).toEqual([
      'DynamicQuantizeLinear',
      'MatMulIntegerToFloat',
      'MatMulIntegerToFloat',
      'MatMulIntegerToFloat',
    ]);
    expect(await agreement(model, result.model, { x })).toBeGreaterThan(38);
  });
  it('layers that share a weight store it once, in the graph that holds it', async () => {
    const model = modelOf(
      [node('MatMul', ['x', 'w'], ['a']), node('MatMul', ['a', 'w'], ['y'])],
      { x: ['N', 256] },
      ['y'],
      [weight('w', [256, 256], { scale: 0.1 })],
    );
    const result = dynamic(model);
    expect(result.quantized).toHaveLength(2);
    expect([...result.model.graph.initializers.values()].filter((t) => t.dims.length === 2)).toHaveLength(1);
    expect(await agreement(model, result.model, { x })).toBeGreaterThan(35);
  });
  it('a product of two activations where it is large on all sides', async () => {
    // Beside a layer that can always be quantized: a model with nothing at all for this method is refused.
    const product = (m: number, k: number, n: number) =>
      modelOf(
        [node('MatMul', ['a', 'b'], ['y']), node('Gemm', ['v', 'w'], ['z'])],
        { a: [2, m, k], b: [2, k, n], v: [4, 256] },
        ['y', 'z'],
        [weight('w', [256, 256])],
      );
    const large = product(128, 160, 192);
    const result = dynamic(large);
    expect(result.quantized).toHaveLength(2);
    const feeds = {
      a: floats(normals(2 * 128 * 160, 1), [2, 128, 160]),
      b: floats(normals(2 * 160 * 192, 2), [2, 160, 192]),
      v: floats(normals(1024, 3), [4, 256]),
    };
    expect(await agreement(large, result.model, feeds)).toBeGreaterThan(35);
    const costs = (ratio: number) => ({ costs: (n: { opType: string }) => (n.opType === 'MatMul' ? ratio : undefined) });
    expect(reasons(dynamic(product(128, 64, 128)))).toEqual({ MatMul: 'too-small' });
    expect(dynamic(product(128, 64, 128), {}, costs(0.8)).quantized).toHaveLength(2);
    expect(reasons(dynamic(large, {}, costs(1.2)))).toEqual({ MatMul: 'slower-on-profile' });
  });
  it('in branches too, whose weights lie outside', async () => {
    const branch = (weightName: string) => modelOf([node('Gemm', ['x', weightName], ['r'])], {}, ['r']).graph;
    const model = modelOf(
      [
        node('ReduceMax', ['x'], ['top'], attributes(intAttr('keepdims', 0))),
        node('Greater', ['top', 'limit'], ['c']),
        node('If', ['c'], ['y'], attributes(graphAttr('then_branch', branch('w1')), graphAttr('else_branch', branch('w2')))),
      ],
      { x: [32, 256], limit: [] },
      ['y'],
      [weight('w1', [256, 256]), weight('w2', [256, 256])],
    );
    const result = dynamic(model);
    expect(result.quantized).toHaveLength(2);
    expect([...result.model.graph.initializers.values()].map((t) => t.dataType)).toEqual([
      DataType.INT8,
      DataType.FLOAT,
      DataType.INT8,
      DataType.FLOAT,
    ]);
    expect(await kernels(result.model, { x, limit: floats([-100], []) })).toContain('DynamicQuantizeMatMul');
    for (const limit of [-100, 100]) expect(await agreement(model, result.model, { x, limit: floats([limit], []) })).toBeGreaterThan(38);
  });

  it('stay in float where that is faster, or as measured', () => {
    const small = modelOf([node('MatMul', ['x', 'w'], ['y'])], { x: [1, 64] }, ['y'], [weight('w', [64, 64])]);
    expect(reasons(dynamic(small))).toEqual({ MatMul: 'too-small' });
    expect(dynamic(small, {}, { costs: () => 0.9 }).quantized).toHaveLength(1);
    const tall = modelOf([node('MatMul', ['x', 'w'], ['y'])], { x: [256, 64] }, ['y'], [weight('w', [64, 64])]);
    expect(dynamic(tall).quantized).toHaveLength(1);
    expect(reasons(dynamic(tall, {}, { costs: () => 1.1 }))).toEqual({ MatMul: 'slower-on-profile' });
  });
  it('stay in float where the recipe says so, and keep float weights', () => {
    const head = { ...node('MatMul', ['r', 'w'], ['y']), name: 'head/out' };
    const model = modelOf(
      [node('Gemm', ['x', 'v'], ['r']), head],
      { x: [32, 256] },
      ['y'],
      [weight('v', [256, 256]), weight('w', [256, 256])],
    );
    for (const exclude of [{ names: ['head/out'] }, { patterns: ['head*'] }, { operators: ['MatMul'] }]) {
      const result = dynamic(model, { exclude });
      expect(reasons(result)).toEqual({ MatMul: 'excluded-by-recipe' });
      expect(result.model.graph.initializers.get('w')!.dataType).toBe(DataType.FLOAT);
    }
    expect(() => dynamic(model, { exclude: { patterns: ['*'] } })).toThrow(/Nothing in the model can be quantized/);
  });
  it('with the constant on the left, of transA, of a vector, stay', () => {
    expect(reasons(dynamic(modelOf([node('MatMul', ['w', 'x'], ['y'])], { x: [256, 256] }, ['y'], [weight('w', [256, 256])])))).toEqual({
      MatMul: 'no-constant-weights',
    });
    expect(
      reasons(
        dynamic(
          modelOf([node('Gemm', ['x', 'w'], ['y'], attributes(intAttr('transA', 1)))], { x: [256, 8] }, ['y'], [weight('w', [256, 256])]),
        ),
      ),
    ).toEqual({ Gemm: 'kernel-condition' });
    expect(reasons(dynamic(modelOf([node('MatMul', ['x', 'w'], ['y'])], { x: [256] }, ['y'], [weight('w', [256, 256])])))).toEqual({
      MatMul: 'kernel-condition',
    });
  });
  it('what there is no form for is refused', () => {
    const model = modelOf([node('MatMul', ['x', 'w'], ['y'])], { x: [32, 256] }, ['y'], [weight('w', [256, 256])]);
    expect(() => dynamic(model, { activations: { type: 'int8' } })).toThrow(/DynamicQuantizeLinear/);
    expect(() => dynamic(model, { weights: { granularity: 'block' } })).toThrow(/weight-only/);
  });
});

describe('dynamic LSTM', () => {
  const make = (direction: string, hidden: number, layout = 0) => {
    const directions = direction === 'bidirectional' ? 2 : 1;
    return modelOf(
      [
        node(
          'LSTM',
          ['x', 'w', 'r', 'b'],
          ['y', 'h'],
          attributes(stringAttr('direction', direction), intAttr('hidden_size', hidden), ...(layout ? [intAttr('layout', layout)] : [])),
        ),
      ],
      { x: [12, 2, 40] },
      ['y', 'h'],
      [
        weight('w', [directions, 4 * hidden, 40], { scale: 0.2 }),
        weight('r', [directions, 4 * hidden, hidden], { scale: 0.1 }),
        weight('b', [directions, 8 * hidden], { scale: 0.1 }),
      ],
    );
  };
  const feeds = { x: floats(normals(12 * 80, 5), [12, 2, 40]) };
  it.each([
    ['forward', 'channel', 'int8'],
    ['reverse', 'tensor', 'int8'],
    ['bidirectional', 'channel', 'int8'],
    ['bidirectional', 'tensor', 'uint8'],
  ] as const)('%s, by %s, %s', async (direction, granularity, type) => {
    const model = make(direction, 64);
    const result = dynamic(model, { weights: { granularity, type } });
    expect(operators(result.model)).toEqual(['DynamicQuantizeLSTM']);
    expect(result.model.opsets.get('com.microsoft')).toBe(1);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(30);
  });
  it('below 64 units, and with layout 1, stays in float; GRU always', () => {
    expect(dynamic(make('forward', 32)).leftInFloat[0]).toMatchObject({ operator: 'LSTM', reason: 'kernel-condition' });
    expect(dynamic(make('forward', 64, 1)).leftInFloat[0]!.detail).toContain('layout');
    const gru = modelOf(
      [node('GRU', ['x', 'w', 'r'], ['y'], attributes(intAttr('hidden_size', 64)))],
      { x: [4, 1, 40] },
      ['y'],
      [weight('w', [1, 192, 40]), weight('r', [1, 192, 64])],
    );
    expect(dynamic(gru).leftInFloat[0]).toMatchObject({ operator: 'GRU', reason: 'no-integer-kernel' });
  });
});

describe('weights stored as int8', () => {
  it('of what runs in float: a quarter of the file, folded when loaded', async () => {
    const model = modelOf(
      [node('Conv', ['x', 'w1', 'b1'], ['a']), node('Relu', ['a'], ['r']), node('Conv', ['r', 'w2'], ['y'])],
      { x: ['N', 16, 12, 12] },
      ['y'],
      [weight('w1', [32, 16, 3, 3]), weight('b1', [32]), weight('w2', [64, 32, 3, 3])],
    );
    const result = dynamic(model);
    expect(result.quantized).toEqual([]);
    expect(result.notes.join('\n')).toMatch(/2 weights .* stored as int8[\s\S]*smaller, not faster/);
    expect(serializeModel(result.model).length / serializeModel(model).length).toBeLessThan(0.3);
    const feeds = { x: floats(normals(16 * 144, 1), [1, 16, 12, 12]) };
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(38);
    expect((await kernels(result.model, feeds)).filter((kernel) => kernel === 'Cast' || kernel === 'Mul')).toEqual([]);
  });
  it('of tables, recurrent layers, ConvTranspose and outer weights of branches', async () => {
    const branch = (name: string) => modelOf([node('Conv', ['c', name], ['r'])], {}, ['r']).graph;
    const model = modelOf(
      [
        node('Gather', ['table', 'ids'], ['e']),
        node('GRU', ['e', 'w', 'r0'], ['', 'h'], attributes(intAttr('hidden_size', 36))),
        node('Reshape', ['h', 'shape'], ['p']),
        node('ConvTranspose', ['p', 't'], ['c']),
        node('If', ['flag'], ['y'], attributes(graphAttr('then_branch', branch('k')), graphAttr('else_branch', branch('k')))),
      ],
      { ids: ['T', 1], flag: [] },
      ['y'],
      [
        weight('table', [500, 48]),
        weight('w', [1, 108, 48], { scale: 0.2 }),
        weight('r0', [1, 108, 36], { scale: 0.2 }),
        {
          name: 'shape',
          dataType: DataType.INT64,
          dims: [4],
          data: { kind: 'bytes', bytes: new Uint8Array(BigInt64Array.of(1n, 4n, 3n, 3n).buffer) },
        },
        weight('t', [4, 33, 3, 3]),
        weight('k', [8, 33, 3, 3]),
      ],
      { types: { ids: DataType.INT64, flag: DataType.BOOL } },
    );
    const result = dynamic(model);
    const left = [...result.model.graph.initializers.values()].filter((t) => t.dataType === DataType.FLOAT && elementCount(t.dims) > 600);
    expect(left).toEqual([]);
    expect(
      await agreement(model, result.model, {
        ids: longs([3, 77, 499, 0], [4, 1]),
        flag: { type: 'bool', dims: [], bytes: Uint8Array.of(1) },
      }),
    ).toBeGreaterThan(35);
  });
  it('not what is used otherwise too, what is small, what is an output, what the recipe excludes', () => {
    const conv = (extra: ReturnType<typeof node>[], outputs: string[], dims = [32, 16, 3, 3]) =>
      modelOf([node('Conv', ['x', 'w'], ['y']), ...extra], { x: [1, dims[1]!, 12, 12] }, outputs, [weight('w', dims)]);
    const refused = (model: Model, recipe: Partial<Recipe> = {}) => expect(() => dynamic(model, recipe)).toThrow(/the model has Conv/);
    expect(operators(dynamic(conv([], ['y'])).model)).toEqual(['Cast', 'Mul', 'Conv']);
    refused(conv([node('Abs', ['w'], ['z'])], ['y', 'z']));
    refused(conv([], ['y'], [4, 16, 3, 3]));
    refused(conv([], ['y', 'w']));
    refused(conv([], ['y']), { exclude: { operators: ['Conv'] } });
  });
});

const shared = join(import.meta.dirname, '..', '..', '..', '..', '..', 'shared', 'models');
describe.skipIf(!existsSync(shared))('real models (needs ../shared/models)', () => {
  const open = async (name: string) =>
    (await prepare(await readModel(join(shared, name, 'model.onnx')), { runner, equalize: false })).model;
  it('a transformer: all its linear layers', async () => {
    const model = await open('imdb_transformer_trained_here');
    const shapes = inferShapes(
      model,
      new Map([
        ['input_ids', [1, 128]],
        ['attention_mask', [1, 128]],
      ]),
    );
    const result = dynamic(model, {}, { shapes, avoidSaturation: true });
    expect(result.quantized).toHaveLength(12);
    expect(result.leftInFloat.filter((n) => n.reason === 'too-small' && n.operator === 'MatMul')).toHaveLength(4);
    const random = randomSource(1);
    const ids = longs(
      Array.from({ length: 128 }, () => Math.floor(random() * 16_000)),
      [1, 128],
    );
    expect(
      await agreement(model, result.model, { input_ids: ids, attention_mask: longs(new Array<number>(128).fill(1), [1, 128]) }),
    ).toBeGreaterThan(25);
  });
  it('a recurrent net inside two branches', async () => {
    const model = await open('silero_vad_ifless_op18');
    const result = dynamic(model);
    expect(result.quantized).toHaveLength(4);
    const feeds = {
      input: floats(normals(576, 1, 0.1), [1, 576]),
      state: floats(new Float32Array(256), [2, 1, 128]),
      sr: longs([16_000], []),
    };
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(20);
  });
});
