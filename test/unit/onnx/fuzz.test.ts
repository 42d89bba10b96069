/** Hostile bytes: whatever is done to a good file, the answer is a model or a HalftoneError, soon, in little memory. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import { floatAttr, floatsAttr, graphAttr, intAttr, intsAttr, makeNode, stringAttr, tensorAttr } from '../../../src/onnx/graph.ts';
import { DataType, type Model } from '../../../src/onnx/model.ts';
import { upgradeOpset } from '../../../src/onnx/opset.ts';
import { parseModel, parseModelHeaders } from '../../../src/onnx/reader.ts';
import { inferShapes } from '../../../src/onnx/shapes.ts';
import { floatTensor, int64Tensor, tensorFromNumbers } from '../../../src/onnx/tensor.ts';
import { checkModel } from '../../../src/onnx/validate.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { graphOf, modelOf, value } from './build.ts';

/** A model with one of everything, so that mutations reach every branch. */
function sample(): Model {
  const branch = (name: string) =>
    graphOf({
      name,
      outputs: [value(`${name}o`, undefined)],
      initializers: [floatTensor(`${name}k`, [1])],
      nodes: [makeNode('Add', ['f', `${name}k`], [`${name}o`])],
    });
  const model = modelOf(
    graphOf({
      inputs: [value('x', ['N', 3, 8, 8]), value('c', [], DataType.BOOL), value('w', [4, 3, 1, 1])],
      outputs: [value('y', ['N', null]), value('z', undefined)],
      initializers: [
        floatTensor('w', new Float32Array(12).fill(0.1), [4, 3, 1, 1]),
        int64Tensor('shape', [0, -1]),
        tensorFromNumbers('half', DataType.FLOAT16, [2], [1, 2]),
        {
          name: 'words',
          dataType: DataType.STRING,
          dims: [2],
          data: { kind: 'bytes', bytes: new Uint8Array(0) },
          strings: [Buffer.from('a'), Buffer.from('b')],
        },
      ],
      nodes: [
        makeNode('Conv', ['x', 'w'], ['p'], {
          attributes: [intsAttr('pads', [0, 0, 1, 1]), intsAttr('strides', [2, 2]), stringAttr('auto_pad', 'NOTSET')],
        }),
        makeNode('Clip', ['p'], ['q'], { attributes: [floatAttr('min', 0), floatAttr('max', 6)] }),
        makeNode('Upsample', ['q'], ['u'], { attributes: [floatsAttr('scales', [1, 1, 2, 2]), stringAttr('mode', 'nearest')] }),
        makeNode('Slice', ['u'], ['s'], { attributes: [intsAttr('starts', [1]), intsAttr('ends', [2 ** 40]), intsAttr('axes', [2])] }),
        makeNode('Pad', ['s'], ['t'], { attributes: [intsAttr('pads', [0, 0, 1, 1, 0, 0, 1, 1])] }),
        makeNode('Constant', [], ['k'], { attributes: [tensorAttr('value', int64Tensor('', [2, 0, 1]))] }),
        makeNode('Unsqueeze', ['k'], ['kk'], { attributes: [intsAttr('axes', [0])] }),
        makeNode('Softmax', ['t'], ['f'], { attributes: [intAttr('axis', 1)] }),
        makeNode('Reshape', ['f', 'shape'], ['y']),
        makeNode('If', ['c'], ['z'], { attributes: [graphAttr('then_branch', branch('a')), graphAttr('else_branch', branch('b'))] }),
      ],
    }),
    { opset: 8, irVersion: 3 },
  );
  model.metadata.set('key', 'value');
  model.graph.valueInfo.set('p', value('p', ['N', 4, 4, 4]));
  return model;
}

const whole = serializeModel(sample());

/** All that is done to an uploaded model before it runs; anything but a HalftoneError is a bug. */
function handle(bytes: Uint8Array): string {
  try {
    parseModelHeaders(bytes);
    const model = parseModel(bytes);
    expect(Buffer.from(serializeModel(parseModel(serializeModel(model)))).equals(Buffer.from(serializeModel(model)))).toBe(true);
    inferShapes(model);
    checkModel(model);
    const upgraded = upgradeOpset(model, 13);
    inferShapes(upgraded);
    checkModel(upgraded);
    return 'ok';
  } catch (error) {
    if (error instanceof HalftoneError) return error.code;
    throw error;
  }
}

describe('a mutated model', () => {
  it('is good as long as nothing is done to it', () => {
    expect(handle(whole)).toBe('ok');
  });

  it('cut off anywhere', () => {
    for (let length = 0; length < whole.length; length++) handle(whole.subarray(0, length));
  });

  it('with each of its bytes set to telling values', () => {
    for (let at = 0; at < whole.length; at++) {
      for (const byte of [at % 2 ? 0x00 : 0xff, whole[at]! ^ 1]) {
        const bytes = whole.slice();
        bytes[at] = byte;
        handle(bytes);
      }
    }
  });

  it('with stretches overwritten, doubled, dropped', () => {
    const place = fc.nat(whole.length - 1);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom('set', 'drop', 'double'), place, fc.uint8Array({ minLength: 1, maxLength: 12 })), {
          minLength: 1,
          maxLength: 4,
        }),
        (edits) => {
          let bytes = Buffer.from(whole);
          for (const [kind, at, content] of edits) {
            const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at + content.length)];
            if (kind === 'set') bytes = Buffer.concat([head, content, tail]);
            else if (kind === 'drop') bytes = Buffer.concat([head, tail]);
            else bytes = Buffer.concat([bytes.subarray(0, at + content.length), bytes.subarray(at)]);
          }
          handle(bytes);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('with other numbers in it: shapes, axes, pads, strides of any size', () => {
    const wild = fc.oneof(fc.integer({ min: -5, max: 9 }), fc.constantFrom(0, -1, 2 ** 31, 2 ** 53 - 1, -(2 ** 53) + 1)).map(BigInt);
    fc.assert(
      fc.property(fc.array(fc.array(wild, { maxLength: 9 }), { minLength: 6, maxLength: 6 }), wild, (lists, single) => {
        const model = sample();
        let i = 0;
        for (const node of model.graph.nodes) {
          for (const attribute of node.attributes.values()) {
            if (attribute.kind === 'ints') attribute.value = lists[i++ % lists.length]!;
            if (attribute.kind === 'int') attribute.value = single;
          }
        }
        model.graph.initializers.set('shape', int64Tensor('shape', lists[0]!));
        handle(serializeModel(model));
      }),
      { numRuns: 500 },
    );
  });

  it('with attributes of other kinds', () => {
    const model = sample();
    for (const [n, node] of model.graph.nodes.entries()) {
      for (const name of node.attributes.keys()) {
        for (const attribute of [
          intAttr(name, 1),
          floatAttr(name, 1),
          stringAttr(name, 'x'),
          intsAttr(name, []),
          floatsAttr(name, [Number.NaN]),
        ]) {
          const changed = sample();
          changed.graph.nodes[n]!.attributes.set(name, attribute);
          handle(serializeModel(changed));
        }
      }
    }
  });

  it('with inputs swapped for others', () => {
    const names = ['x', 'c', 'w', 'shape', 'half', 'words', 'p', 'q', 'u', 's', 't', 'k', 'kk', 'f', 'y', 'z', '', 'no such'];
    fc.assert(
      fc.property(
        fc.nat(9),
        fc.array(fc.constantFrom(...names), { maxLength: 5 }),
        fc.constantFrom(
          'Conv',
          'Concat',
          'Gather',
          'Expand',
          'Tile',
          'Range',
          'Where',
          'TopK',
          'Resize',
          'LSTM',
          'Einsum',
          'OneHot',
          'ConstantOfShape',
          'Loop',
          'Scan',
        ),
        (n, inputs, opType) => {
          const model = sample();
          model.graph.nodes[n]!.inputs = inputs;
          handle(serializeModel(model));
          model.graph.nodes[n]!.opType = opType;
          handle(serializeModel(model));
        },
      ),
      { numRuns: 600 },
    );
  });
});

/** Attributes of all kinds that the writer writes. */
const anyAttribute = (name: string) =>
  fc.oneof(
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((v) => intAttr(name, v)),
    fc.float({ noNaN: true }).map((v) => floatAttr(name, v)),
    fc.string({ unit: 'binary' }).map((v) => stringAttr(name, v)),
    fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })).map((v) => intsAttr(name, v)),
    fc.array(fc.float({ noNaN: true })).map((v) => floatsAttr(name, v)),
    fc.float32Array().map((v) => tensorAttr(name, floatTensor('', v))),
  );

describe('a generated model', () => {
  it('comes back as it went, whatever is in it', () => {
    const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 8 });
    const node = fc
      .tuple(
        name,
        fc.array(fc.string({ unit: 'grapheme', maxLength: 5 }), { maxLength: 4 }),
        fc.array(name, { minLength: 1, maxLength: 2 }),
        fc.array(anyAttribute('a'), { maxLength: 1 }),
      )
      .map(([opType, inputs, outputs, attributes]) => makeNode(opType, inputs, outputs, { attributes, name: `n${opType}` }));
    const dim = fc.oneof(fc.nat(), fc.constant(null), name);
    const info = fc.tuple(name, fc.option(fc.array(dim, { maxLength: 5 }), { nil: undefined })).map(([n, shape]) => value(n, shape));
    fc.assert(
      fc.property(
        fc.array(node, { maxLength: 6 }),
        fc.array(info, { maxLength: 3 }),
        fc.dictionary(name, fc.float32Array({ maxLength: 8 })),
        fc.string(),
        (nodes, infos, tensors, doc) => {
          const model = modelOf(
            graphOf({
              nodes,
              inputs: infos,
              outputs: infos,
              initializers: Object.entries(tensors).map(([n, data]) => floatTensor(n, data)),
            }),
          );
          model.docString = doc;
          model.metadata.set(doc, doc);
          const bytes = serializeModel(model);
          const back = parseModel(bytes);
          expect(Buffer.from(serializeModel(back)).equals(Buffer.from(bytes))).toBe(true);
          expect(back.graph.nodes).toEqual(model.graph.nodes);
          expect(back.graph.inputs).toEqual(model.graph.inputs);
          expect(back.docString).toBe(doc);
        },
      ),
      { numRuns: 200 },
    );
  });
});
