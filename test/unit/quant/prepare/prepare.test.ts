import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { TensorValue } from '../../../../src/domain/runner.ts';
import { cloneModel, floatAttr, intAttr, intsAttr } from '../../../../src/onnx/graph.ts';
import { feedInputs, type Model } from '../../../../src/onnx/model.ts';
import { readModel } from '../../../../src/onnx/reader.ts';
import { floatTensor, int64Tensor } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { prepare } from '../../../../src/quant/prepare/index.ts';
import { ensureSound } from '../../../../src/quant/prepare/pass.ts';
import {
  agreement,
  asFloats,
  floats,
  ints,
  longs,
  modelOf,
  node,
  normals,
  operators,
  randomSource,
  runner,
  scalar,
  sqnr,
  weight,
} from './graphs.ts';

const attributes = (...list: NonNullable<NonNullable<Parameters<typeof node>[3]>['attributes']>) => ({ attributes: list });

/** Opset 9, as an exporter writes it: constants as nodes, batch norms, hard swish in pieces, a shape chain, NHWC at the edge. */
function exported(): Model {
  const constant = (name: string, value: Parameters<typeof floatAttr>[1]) =>
    node('Constant', [], [name], attributes({ name: 'value', kind: 'tensor', value: floatTensor('', [value], [1]) }));
  const model = modelOf(
    [
      node('Transpose', ['x'], ['nchw'], attributes(intsAttr('perm', [0, 3, 1, 2]))),
      node('Transpose', ['nchw'], ['nhwc'], attributes(intsAttr('perm', [0, 2, 3, 1]))),
      node('Transpose', ['nhwc'], ['in'], attributes(intsAttr('perm', [0, 3, 1, 2]))),
      node('Conv', ['in', 'w1'], ['c1'], attributes(intsAttr('pads', [1, 1, 1, 1]))),
      node('BatchNormalization', ['c1', 'g', 'b', 'm', 'v'], ['n1']),
      constant('three', 3),
      constant('six', 6),
      constant('scale', 1.3),
      constant('shift', -0.4),
      node('Add', ['n1', 'three'], ['h1']),
      node('Clip', ['h1'], ['h2'], attributes(floatAttr('min', 0), floatAttr('max', 6))),
      node('Mul', ['n1', 'h2'], ['h3']),
      node('Div', ['h3', 'six'], ['h4']),
      node('Mul', ['scale', 'h4'], ['h5']),
      node('Add', ['h5', 'shift'], ['h6']),
      node('Conv', ['h6', 'w2', 'b2'], ['c2']),
      node('Dropout', ['c2'], ['d2']),
      node('ReduceMean', ['d2'], ['p'], attributes(intsAttr('axes', [2, 3]))),
      node('Shape', ['p'], ['s']),
      node('Gather', ['s', 'zero'], ['n']),
      node('Unsqueeze', ['n'], ['n0'], attributes(intsAttr('axes', [0]))),
      node('Concat', ['n0', 'minus'], ['target'], attributes(intAttr('axis', 0))),
      node('Reshape', ['p', 'target'], ['f']),
      node('Gemm', ['f', 'w3', 'b3'], ['y'], attributes(intAttr('transB', 1))),
    ],
    { x: ['N', 8, 8, 3] },
    { y: ['N', 10] },
    [
      weight('w1', [16, 3, 3, 3]),
      weight('g', [16], { mean: 1 }),
      weight('b', [16]),
      weight('m', [16]),
      weight('v', [16], { positive: true }),
      weight('w2', [24, 16, 1, 1]),
      weight('b2', [24]),
      weight('w3', [10, 24]),
      weight('b3', [10]),
      int64Tensor('zero', [0], []),
      ints('minus', [-1]),
    ],
    { opset: 9 },
  );
  return model;
}

describe('prepare', () => {
  it('brings an exporter’s graph into form; the batch stays free, the outputs stay', async () => {
    const model = exported();
    const bytes = serializeModel(model);
    const { model: prepared, notes, origin } = await prepare(model, { runner, equalize: false });
    expect(operators(prepared)).toEqual(['Transpose', 'Conv', 'Add', 'Clip', 'Mul', 'Conv', 'GlobalAveragePool', 'Reshape', 'Gemm']);
    for (const n of [1, 2, 5]) {
      const feeds = { x: floats(normals(n * 192, n), [n, 8, 8, 3]) };
      expect(await agreement(model, prepared, feeds)).toBeGreaterThan(105);
    }
    expect(prepared.opsets.get('')).toBe(13);
    expect(prepared.graph.inputs[0]!.type!.shape).toEqual(['N', 8, 8, 3]);
    expect(prepared.graph.outputs).toEqual(model.graph.outputs);
    // The model that came in is as it was, and the same model gives the same bytes.
    expect(Buffer.compare(serializeModel(model), bytes)).toBe(0);
    const again = await prepare(model, { runner, equalize: false });
    expect(Buffer.compare(serializeModel(again.model), serializeModel(prepared))).toBe(0);
    expect(notes.join('\n')).toMatch(/opset 9 upgraded to 13[\s\S]*1 batch norms folded/);
    const names = new Set(model.graph.nodes.map((n) => n.name));
    for (const n of prepared.graph.nodes) expect(names.has(origin.get(n.name) ?? '?'), n.name).toBe(true);
  });
  it('with equalization computes the same', async () => {
    const model = modelOf(
      [node('Conv', ['x', 'w1'], ['a']), node('Relu', ['a'], ['r']), node('Conv', ['r', 'w2'], ['y'])],
      { x: ['N', 3, 8, 8] },
      ['y'],
      [weight('w1', [8, 3, 3, 3]), weight('w2', [5, 8, 3, 3])],
    );
    const { model: prepared, notes } = await prepare(model, { runner, equalize: true });
    expect(notes).toContain('cross-layer equalization over 1 pairs of layers');
    expect(await agreement(model, prepared, { x: floats(normals(192, 1), [1, 3, 8, 8]) })).toBeGreaterThan(100);
  });
  it('does not believe inner shapes that the file states', async () => {
    const model = modelOf(
      [node('Relu', ['x'], ['a']), node('Shape', ['a'], ['s']), node('ConstantOfShape', ['s'], ['k']), node('Add', ['a', 'k'], ['y'])],
      { x: ['N', 3] },
      ['y'],
    );
    model.graph.valueInfo.set('a', { name: 'a', type: { elemType: 1, shape: [1, 3] } });
    const { model: prepared } = await prepare(model, { runner, equalize: false });
    expect(
      await agreement(modelOf([node('Relu', ['x'], ['y'])], { x: ['N', 3] }, ['y']), prepared, { x: floats(normals(12, 1), [4, 3]) }),
    ).toBe(Number.POSITIVE_INFINITY);
  });
  it('leaves a model without anything to do as it is', async () => {
    const model = modelOf([node('Add', ['x', 'k'], ['y'])], { x: ['N'] }, ['y'], [scalar('k', 1)], { opset: 17 });
    const { model: prepared, notes } = await prepare(model, { runner, equalize: false });
    expect(notes).toEqual([]);
    expect(Buffer.compare(serializeModel(prepared), serializeModel(cloneModel(model)))).toBe(0);
  });
});

describe('the check after each pass', () => {
  const relu = () => modelOf([node('Relu', ['x'], ['a']), node('Neg', ['a'], ['y'])], { x: [2] }, ['y']);
  it('finds what a pass broke', () => {
    expect(() => ensureSound(relu(), 'none')).not.toThrow();
    const unordered = relu();
    unordered.graph.nodes.reverse();
    expect(() => ensureSound(unordered, 'p')).toThrow(/pass p .* uses a before it is made/);
    const twice = relu();
    twice.graph.nodes.push(node('Exp', ['x'], ['a'], { name: 'e' }));
    expect(() => ensureSound(twice, 'p')).toThrow(/a is made twice/);
    const nameless = relu();
    nameless.graph.nodes[1]!.name = nameless.graph.nodes[0]!.name;
    expect(() => ensureSound(nameless, 'p')).toThrow(/taken twice/);
    const lost = relu();
    lost.graph.nodes.pop();
    expect(() => ensureSound(lost, 'p')).toThrow(/outputs uses y/);
  });
});

const models = join(import.meta.dirname, '..', '..', '..', '..', '..', 'shared', 'models');
const names = existsSync(models) ? readdirSync(models).filter((name) => existsSync(join(models, name, 'model.onnx'))) : [];
/** Sizes of free dimensions that the models take: batch 1, or pictures and sequences of a size they were made for. */
const SIZES: Record<string, number> = { T: 32, H: 24, W: 24, sequence: 576, 'p2o.DynamicDimension.1': 96, 'p2o.DynamicDimension.2': 96 };

/** Random feeds: integers small enough for any table, floats like a normalised picture. */
function randomFeeds(model: Model, batch: number, seed: number): Record<string, TensorValue> {
  const random = randomSource(seed);
  const feeds: Record<string, TensorValue> = {};
  for (const input of feedInputs(model.graph)) {
    const dims = input.type!.shape!.map((dim, axis) => (typeof dim === 'number' ? dim : (SIZES[dim ?? ''] ?? (axis <= 1 ? batch : 1))));
    const count = dims.reduce((a, b) => a * b, 1);
    if (input.type!.elemType === 1) feeds[input.name] = floats(normals(count, seed, 0.5), dims);
    else if (input.type!.elemType === 7)
      feeds[input.name] = longs(
        input.name === 'sr' ? [16000] : Array.from({ length: count }, () => (input.name.includes('mask') ? 1 : Math.floor(random() * 150))),
        dims,
      );
    else
      feeds[input.name] = {
        type: 'int32',
        dims,
        bytes: new Uint8Array(Int32Array.from({ length: count }, () => Math.floor(random() * 256)).buffer),
      };
  }
  return feeds;
}

describe.skipIf(names.length === 0)('real models (needs ../shared/models)', () => {
  it.each(names)('%s computes the same, at other batch sizes, too', async (name) => {
    const model = await readModel(join(models, name, 'model.onnx'));
    const { model: prepared } = await prepare(model, { runner, equalize: false });
    const [before, after] = [
      await runner.open(serializeModel(model), { threads: 1 }),
      await runner.open(serializeModel(prepared), { threads: 1 }),
    ];
    try {
      expect(after.inputs).toEqual(before.inputs);
      expect(after.outputs).toEqual(before.outputs);
      for (const batch of [1, 2]) {
        const feeds = randomFeeds(model, batch, batch);
        let want: Record<string, TensorValue>;
        try {
          want = await before.run(feeds);
        } catch (error) {
          // Some models state a free batch and compute with a fixed one; then there is nothing to compare.
          if (batch > 1) continue;
          throw error;
        }
        const got = await after.run(feeds);
        for (const [output, value] of Object.entries(want)) {
          expect(got[output]!.dims).toEqual(value.dims);
          if (value.type === 'float32')
            expect(sqnr(asFloats(value), asFloats(got[output]!)), `${output} at batch ${batch}`).toBeGreaterThan(80);
          else expect(Buffer.compare(got[output]!.bytes, value.bytes)).toBe(0);
        }
      }
    } finally {
      before.close();
      after.close();
    }
  });
});
