import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { graphAttr, intAttr, intsAttr, stringAttr, tensorAttr } from '../../../../src/onnx/graph.ts';
import { DataType, type Model } from '../../../../src/onnx/model.ts';
import { readModel } from '../../../../src/onnx/reader.ts';
import { float16ToNumber, floatData, floatTensor, numberToFloat16 } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { toFloat16 } from '../../../../src/quant/float16/index.ts';
import { toFloat16Tensor } from '../../../../src/quant/float16/precision.ts';
import { prepare } from '../../../../src/quant/prepare/index.ts';
import { agreement, floats, ints, modelOf, node, normals, operators, run, runner, scalar, weight } from '../prepare/graphs.ts';

const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });
const net = (extra: { constants?: ReturnType<typeof weight>[]; nodes?: ReturnType<typeof node>[] } = {}) =>
  modelOf(
    [
      node('Conv', ['x', 'w1', 'b1'], ['a'], attributes(intsAttr('pads', [1, 1, 1, 1]))),
      node('Relu', ['a'], ['r']),
      node('GlobalAveragePool', ['r'], ['p']),
      node('Flatten', ['p'], ['f']),
      node('Gemm', ['f', 'w2'], ['g']),
      ...(extra.nodes ?? [node('Identity', ['g'], ['y'])]),
    ],
    { x: ['N', 8, 6, 6] },
    { y: ['N', 12] },
    [weight('w1', [16, 8, 3, 3]), weight('b1', [16]), weight('w2', [16, 40]), ...(extra.constants ?? [])],
  );
const small = (model: Model): Model => {
  model.graph.outputs[0]!.type!.shape = ['N', 40];
  return model;
};
const feeds = { x: floats(normals(2 * 288, 1), [2, 8, 6, 6]) };

describe('a constant in float16', () => {
  it('that fits is rounded to nearest; infinities stay', () => {
    const rounded = toFloat16Tensor(floatTensor('c', [1, -0.1, 65_504, Number.POSITIVE_INFINITY]), 'h');
    expect(rounded).toMatchObject({ obstacle: null, flushed: 0 });
    const bits = new Uint16Array((rounded.tensor.data as { bytes: Uint8Array }).bytes.buffer);
    expect([...bits].map(float16ToNumber)).toEqual([1, -0.0999755859375, 65_504, Number.POSITIVE_INFINITY]);
  });
  it('is rounded as the other conversion does, bit by bit', () =>
    fc.assert(
      fc.property(fc.array(fc.float(), { minLength: 1, maxLength: 50 }), (values) => {
        const bits = new Uint16Array((toFloat16Tensor(floatTensor('c', values), 'h').tensor.data as { bytes: Uint8Array }).bytes.buffer);
        expect([...bits]).toEqual(values.map(numberToFloat16));
      }),
      { numRuns: 500 },
    ));
  it('beyond ±65 504 overflows, below 2^-24 underflows, unless larger values carry it', () => {
    expect(toFloat16Tensor(floatTensor('c', [1e5]), 'h').obstacle).toBe('overflow');
    expect(toFloat16Tensor(floatTensor('c', [1e-12]), 'h').obstacle).toBe('underflow');
    expect(toFloat16Tensor(floatTensor('c', [1e-7, 2e-7]), 'h').obstacle).toBe('underflow');
    expect(toFloat16Tensor(floatTensor('c', [1, 1e-12]), 'h')).toMatchObject({ obstacle: null, flushed: 1 });
  });
});

describe('weights stored in float16', () => {
  it('halve the file, become float32 when loaded, and cost only precision', async () => {
    const model = small(net());
    const result = toFloat16(model, { compute: 'float32' });
    expect(result.converted).toHaveLength(2);
    expect(result.leftInFloat).toEqual([]);
    expect(serializeModel(result.model).length).toBeLessThan(0.62 * serializeModel(model).length);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(65);
    expect(Buffer.compare(serializeModel(toFloat16(model, { compute: 'float32' }).model), serializeModel(result.model))).toBe(0);
    // Folded: without the casts it would be the same arithmetic on rounded weights.
    const rounded = small(net());
    for (const name of ['w1', 'w2']) {
      const tensor = model.graph.initializers.get(name)!;
      const half = toFloat16Tensor(tensor, 'h').tensor;
      rounded.graph.initializers.set(name, floatTensor(name, floatData(half), tensor.dims));
    }
    rounded.graph.initializers.set('b1', model.graph.initializers.get('b1')!);
    expect(await agreement(rounded, result.model, feeds)).toBe(Number.POSITIVE_INFINITY);
  });
  it('stay float32 where they overflow, with the layer named', async () => {
    const model = small(net());
    const w2 = model.graph.initializers.get('w2')!;
    model.graph.initializers.set(
      'w2',
      floatTensor(
        'w2',
        floatData(w2).map((v) => v * 1e6),
        w2.dims,
      ),
    );
    const result = toFloat16(model, { compute: 'float32' });
    expect(result.leftInFloat).toMatchObject([{ node: model.graph.nodes[4]!.name, operator: 'Gemm', reason: 'overflow' }]);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(65);
  });
  it('stay float32 where the recipe leaves their layer out, in both forms', async () => {
    for (const compute of ['float32', 'float16'] as const) {
      const model = small(net());
      const result = toFloat16(model, { compute, exclude: { names: [], patterns: [], operators: ['Conv'] } });
      expect(result.leftInFloat).toEqual([{ node: model.graph.nodes[0]!.name, operator: 'Conv', reason: 'excluded-by-recipe' }]);
      expect(result.model.graph.initializers.get('w1')!.dataType).toBe(DataType.FLOAT);
      expect(result.model.graph.initializers.has('w2')).toBe(false);
      expect(await agreement(model, result.model, feeds)).toBeGreaterThan(50);
    }
  });
  it('none there are: refused', () => {
    const model = modelOf([node('Add', ['x', 'k'], ['y'])], { x: [2] }, ['y'], [scalar('k', 1)]);
    expect(() => toFloat16(model, { compute: 'float32' })).toThrow(/it has Add/);
  });
  it('of branches too', async () => {
    const branch = (name: string) =>
      modelOf([node('MatMul', ['x', name], ['t']), node('Add', ['t', 'k'], ['r'])], {}, ['r'], [weight('k', [300])]).graph;
    const model = modelOf(
      [node('If', ['c'], ['y'], attributes(graphAttr('then_branch', branch('w')), graphAttr('else_branch', branch('w'))))],
      { x: [2, 20], c: [] },
      ['y'],
      [weight('w', [20, 300])],
      { types: { c: DataType.BOOL } },
    );
    const result = toFloat16(model, { compute: 'float32' });
    expect(result.converted).toHaveLength(4);
    expect(
      await agreement(model, result.model, { x: floats(normals(40, 2), [2, 20]), c: { type: 'bool', dims: [], bytes: Uint8Array.of(1) } }),
    ).toBeGreaterThan(65);
  });
});

describe('a graph in float16', () => {
  const half = (model: Model, ranges?: Map<string, { min: number; max: number }>) =>
    toFloat16(model, { compute: 'float16', ...(ranges && { ranges }) });
  it('keeps inputs and outputs, casts at the edges alone', async () => {
    const model = small(net());
    const result = half(model);
    expect(operators(result.model)).toEqual(['Cast', 'Conv', 'Relu', 'GlobalAveragePool', 'Flatten', 'Gemm', 'Identity', 'Cast']);
    expect(result.model.graph.inputs).toEqual(model.graph.inputs);
    expect(result.model.graph.outputs).toEqual(model.graph.outputs);
    expect([...result.model.graph.initializers.values()].every((t) => t.dataType === DataType.FLOAT16)).toBe(true);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(50);
  });
  it('a layer whose values were observed too large stays in float32, between casts', async () => {
    const model = small(net());
    const result = half(model, new Map([['g', { min: -4e4, max: 0 }]]));
    expect(result.leftInFloat.map((n) => [n.operator, n.reason])).toEqual([
      ['Gemm', 'overflow'],
      ['Identity', 'overflow'],
    ]);
    expect(operators(result.model)).toEqual(['Cast', 'Conv', 'Relu', 'GlobalAveragePool', 'Flatten', 'Cast', 'Gemm', 'Identity']);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(50);
  });
  it('so does one with a constant that would vanish, and the result stays finite', async () => {
    const model = small(
      net({
        constants: [scalar('epsilon', 1e-12), scalar('zero', 0)],
        nodes: [
          node('Mul', ['g', 'zero'], ['z']),
          node('Add', ['z', 'epsilon'], ['e']),
          node('Div', ['e', 'e'], ['one']),
          node('Mul', ['g', 'one'], ['y']),
        ],
      }),
    );
    const result = half(model);
    expect(result.leftInFloat).toMatchObject([{ operator: 'Add', reason: 'underflow' }]);
    const plain = await run(result.model, feeds);
    expect(plain.y!.type).toBe('float32');
  });
  it('operators without float16, subgraphs and what they capture stay in float32', async () => {
    const branch = (opType: string) => modelOf([node(opType, ['g'], ['q'])], {}, ['q']).graph;
    const model = small(
      net({
        constants: [{ name: 'c', dataType: DataType.BOOL, dims: [], data: { kind: 'bytes', bytes: Uint8Array.of(0) } }, ints('axis', [1])],
        nodes: [
          node('If', ['c'], ['i'], attributes(graphAttr('then_branch', branch('Neg')), graphAttr('else_branch', branch('Exp')))),
          node('CumSum', ['i', 'one'], ['s']),
          node('Add', ['s', 'g'], ['y']),
        ],
      }),
    );
    model.graph.initializers.set('one', {
      name: 'one',
      dataType: DataType.INT64,
      dims: [],
      data: { kind: 'bytes', bytes: new Uint8Array(BigInt64Array.of(1n).buffer) },
    });
    const result = half(model);
    expect(result.leftInFloat.map((n) => n.operator)).toEqual(['If', 'CumSum']);
    expect(await agreement(model, result.model, feeds)).toBeGreaterThan(45);
  });
  it('Cast, ConstantOfShape and Resize take their part', async () => {
    const model = modelOf(
      [
        node('Cast', ['n'], ['f'], attributes(intAttr('to', DataType.FLOAT))),
        node('Shape', ['f'], ['s']),
        node('ConstantOfShape', ['s'], ['k'], attributes(tensorAttr('value', floatTensor('', [2.5], [1])))),
        node('Mul', ['f', 'k'], ['m']),
        node('Resize', ['m', '', 'scales'], ['y'], attributes(stringAttr('mode', 'nearest'))),
      ],
      { n: [1, 1, 4, 4] },
      ['y'],
      [floatTensor('scales', [1, 1, 2, 2])],
      { types: { n: DataType.INT32 } },
    );
    const result = half(model);
    expect(result.leftInFloat).toEqual([]);
    const n = { type: 'int32' as const, dims: [1, 1, 4, 4], bytes: new Uint8Array(Int32Array.from({ length: 16 }, (_, i) => i).buffer) };
    expect(await agreement(model, result.model, { n })).toBe(Number.POSITIVE_INFINITY);
  });
  it('a value that is used inside and handed out has both types', async () => {
    const model = modelOf([node('Relu', ['x'], ['y']), node('Exp', ['y'], ['z'])], { x: [6] }, ['y', 'z']);
    const result = half(model);
    expect(await agreement(model, result.model, { x: floats(normals(6, 3), [6]) })).toBeGreaterThan(55);
  });
});

const models = join(import.meta.dirname, '..', '..', '..', '..', '..', 'shared', 'models');
const names = existsSync(models) ? readdirSync(models).filter((name) => existsSync(join(models, name, 'model.onnx'))) : [];
describe.skipIf(names.length === 0)('real models (needs ../shared/models)', () => {
  it.each(names)('%s loads in both forms, with the inputs and outputs that it had', async (name) => {
    const model = await readModel(join(models, name, 'model.onnx'));
    const { model: prepared } = await prepare(model, { runner, equalize: false });
    const before = await runner.open(serializeModel(model), { threads: 1 });
    for (const compute of ['float32', 'float16'] as const) {
      if (name.includes('prequantized')) {
        expect(() => toFloat16(prepared, { compute: 'float32' })).toThrow(/nothing-to-quantize|Nothing/);
        continue;
      }
      const session = await runner.open(serializeModel(toFloat16(prepared, { compute }).model), { threads: 1 });
      expect(session.inputs).toEqual(before.inputs);
      expect(session.outputs).toEqual(before.outputs);
      session.close();
    }
    before.close();
  });
});
