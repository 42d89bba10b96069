/** Every case is run in ONNX Runtime, and what was inferred must be what came out. */
import { describe, expect, it } from 'vitest';
import type { TensorValue } from '../../../src/domain/runner.ts';
import { floatsAttr, graphAttr, intAttr, intsAttr, makeNode, stringAttr, tensorAttr } from '../../../src/onnx/graph.ts';
import { type Attribute, DataType, type Dim, type Model, type Node, type Tensor } from '../../../src/onnx/model.ts';
import { inferShapes, inferShapesAndValues } from '../../../src/onnx/shapes.ts';
import { dataTypeName, floatTensor, int64Tensor, makeTensor, tensorFromNumbers } from '../../../src/onnx/tensor.ts';
import { floats, graphOf, modelOf, run, untyped, value } from './build.ts';

/** [operator, dims of its float inputs, constants as further inputs, attributes, opset] */
interface Case {
  op: string;
  inputs: number[][];
  constants?: (Tensor | null)[];
  attributes?: Attribute[];
  opset?: number;
  outputs?: number;
}
const ints = (values: number[], dims?: number[]) => int64Tensor(`c${values}`, values, dims ?? [values.length]);
const flts = (values: number[], dims?: number[]) => floatTensor(`f${values}`, values, dims ?? [values.length]);

function modelFor({ op, inputs, constants = [], attributes = [], opset = 17, outputs = 1 }: Case): Model {
  const kept = constants.map((tensor, i) => (tensor ? { ...tensor, name: `k${i}` } : null));
  const outs = Array.from({ length: outputs }, (_, i) => `y${i}`);
  return modelOf(
    graphOf({
      inputs: inputs.map((dims, i) => value(`x${i}`, dims)),
      outputs: outs.map(untyped),
      initializers: kept.filter((tensor) => tensor !== null),
      nodes: [
        makeNode(op, [...inputs.map((_, i) => `x${i}`), ...kept.map((tensor) => tensor?.name ?? '')], outs, { name: op, attributes }),
      ],
    }),
    { opset },
  );
}

/** Infers, runs and compares. */
async function compare(model: Model, feeds: Record<string, TensorValue>): Promise<void> {
  const types = inferShapes(model, new Map(Object.entries(feeds).map(([name, { dims }]) => [name, dims])));
  for (const [name, tensor] of Object.entries(await run(model, feeds))) {
    const type = types.get(name);
    expect({ name, type: type && dataTypeName(type.elemType), shape: type?.shape }).toEqual({
      name,
      type: tensor.type,
      shape: tensor.dims,
    });
  }
}

const conv = (op: string, x: number[], w: number[], attributes: Attribute[] = [], opset = 17): Case => ({
  op,
  inputs: [x],
  constants: [flts(new Array<number>(w.reduce((a, b) => a * b, 1)).fill(0.1), w)],
  attributes,
  opset,
});
const same = stringAttr('auto_pad', 'SAME_UPPER');

const CASES: [string, Case][] = [
  [
    'broadcast',
    {
      op: 'Add',
      inputs: [
        [2, 1, 4],
        [3, 1],
      ],
    },
  ],
  ['variadic', { op: 'Max', inputs: [[2, 1], [3], [1, 1, 1]] }],
  ['comparison', { op: 'Less', inputs: [[2, 3], [3]] }],
  ['conv', conv('Conv', [1, 3, 9, 8], [4, 3, 3, 3])],
  [
    'conv, strides, pads, dilations',
    conv('Conv', [1, 3, 9, 8], [4, 3, 3, 2], [intsAttr('strides', [2, 3]), intsAttr('pads', [1, 0, 2, 1]), intsAttr('dilations', [2, 1])]),
  ],
  ['conv, SAME', conv('Conv', [1, 3, 9, 8], [4, 3, 3, 3], [same, intsAttr('strides', [2, 2])])],
  ['conv 1-D, groups', conv('Conv', [1, 4, 9], [8, 2, 3], [intAttr('group', 2)])],
  [
    'transposed conv',
    conv(
      'ConvTranspose',
      [1, 3, 5, 4],
      [3, 2, 3, 3],
      [intsAttr('strides', [2, 2]), intsAttr('output_padding', [1, 0]), intsAttr('pads', [1, 0, 1, 1])],
    ),
  ],
  [
    'transposed conv, groups, SAME',
    conv('ConvTranspose', [1, 4, 5, 4], [4, 2, 3, 3], [same, intsAttr('strides', [2, 3]), intAttr('group', 2)]),
  ],
  [
    'transposed conv, output_shape',
    conv('ConvTranspose', [1, 3, 5, 4], [3, 2, 3, 3], [intsAttr('strides', [2, 2]), intsAttr('output_shape', [10, 9])]),
  ],
  [
    'max pool',
    { op: 'MaxPool', inputs: [[1, 2, 7, 7]], attributes: [intsAttr('kernel_shape', [3, 3]), intsAttr('strides', [2, 2])], outputs: 2 },
  ],
  [
    'max pool, ceil',
    {
      op: 'MaxPool',
      inputs: [[1, 2, 8, 6]],
      attributes: [intsAttr('kernel_shape', [3, 3]), intsAttr('strides', [2, 2]), intAttr('ceil_mode', 1)],
    },
  ],
  [
    'average pool, ceil, pads',
    {
      op: 'AveragePool',
      inputs: [[1, 2, 5, 6]],
      attributes: [intsAttr('kernel_shape', [2, 2]), intsAttr('strides', [3, 3]), intsAttr('pads', [1, 1, 1, 1]), intAttr('ceil_mode', 1)],
    },
  ],
  ['global pool', { op: 'GlobalAveragePool', inputs: [[2, 3, 4, 5]] }],
  [
    'matmul',
    {
      op: 'MatMul',
      inputs: [
        [5, 1, 2, 3],
        [4, 3, 6],
      ],
    },
  ],
  ['matmul, vectors', { op: 'MatMul', inputs: [[3], [2, 3, 4]] }],
  ['matmul, vector right', { op: 'MatMul', inputs: [[2, 4, 3], [3]] }],
  [
    'gemm',
    {
      op: 'Gemm',
      inputs: [
        [3, 2],
        [4, 3],
      ],
      attributes: [intAttr('transA', 1), intAttr('transB', 1)],
    },
  ],
  ['reshape, 0 and −1', { op: 'Reshape', inputs: [[2, 3, 4]], constants: [ints([0, -1])] }],
  ['flatten', { op: 'Flatten', inputs: [[2, 3, 4]], attributes: [intAttr('axis', 2)] }],
  ['flatten to a row', { op: 'Flatten', inputs: [[2, 3, 4]], attributes: [intAttr('axis', 0)] }],
  ['squeeze', { op: 'Squeeze', inputs: [[1, 3, 1, 4]], constants: [ints([-2])] }],
  ['squeeze all', { op: 'Squeeze', inputs: [[1, 3, 1, 4]] }],
  ['squeeze of opset 11', { op: 'Squeeze', inputs: [[1, 3, 1, 4]], attributes: [intsAttr('axes', [0])], opset: 11 }],
  ['unsqueeze', { op: 'Unsqueeze', inputs: [[3, 4]], constants: [ints([0, -1])] }],
  ['transpose', { op: 'Transpose', inputs: [[2, 3, 4]], attributes: [intsAttr('perm', [1, 2, 0])] }],
  ['transpose, default', { op: 'Transpose', inputs: [[2, 3, 4]] }],
  [
    'concat',
    {
      op: 'Concat',
      inputs: [
        [2, 3],
        [2, 5],
      ],
      attributes: [intAttr('axis', -1)],
    },
  ],
  ['split', { op: 'Split', inputs: [[2, 7]], constants: [ints([3, 4])], attributes: [intAttr('axis', 1)], outputs: 2 }],
  ['split evenly', { op: 'Split', inputs: [[6, 2]], outputs: 3, opset: 13 }],
  ['split in 18', { op: 'Split', inputs: [[7, 2]], outputs: 3, attributes: [intAttr('num_outputs', 3)], opset: 18 }],
  ['slice', { op: 'Slice', inputs: [[6, 7, 8]], constants: [ints([1, -3]), ints([2 ** 31, 5]), ints([0, 2]), ints([2, 1])] }],
  ['slice backwards', { op: 'Slice', inputs: [[6, 7]], constants: [ints([-1]), ints([-(2 ** 40)]), ints([1]), ints([-2])] }],
  [
    'slice of opset 9',
    { op: 'Slice', inputs: [[6, 7]], attributes: [intsAttr('starts', [1]), intsAttr('ends', [-1]), intsAttr('axes', [1])], opset: 9 },
  ],
  ['gather', { op: 'Gather', inputs: [[3, 4, 5]], constants: [ints([0, 2, 1, 1], [2, 2])], attributes: [intAttr('axis', 1)] }],
  ['gather one', { op: 'Gather', inputs: [[3, 4]], constants: [ints([0], [])] }],
  ['gather elements', { op: 'GatherElements', inputs: [[3, 4]], constants: [ints([0, 1], [2, 1])] }],
  ['gatherND', { op: 'GatherND', inputs: [[3, 4, 5]], constants: [ints([0, 1, 2, 3], [2, 2])] }],
  ['expand', { op: 'Expand', inputs: [[3, 1]], constants: [ints([2, 1, 4])] }],
  ['tile', { op: 'Tile', inputs: [[2, 3]], constants: [ints([2, 4])] }],
  ['pad', { op: 'Pad', inputs: [[2, 3]], constants: [ints([1, 0, 2, 3])] }],
  ['pad, cropping', { op: 'Pad', inputs: [[4, 3]], constants: [ints([-1, 0, 2, 3])] }],
  ['pad axes', { op: 'Pad', inputs: [[2, 3, 4]], constants: [ints([1, 2]), null, ints([1])], opset: 18 }],
  ['resize by scales', { op: 'Resize', inputs: [[1, 1, 5, 5]], constants: [null, flts([1, 1, 1.5, 2.3])] }],
  ['resize to sizes', { op: 'Resize', inputs: [[1, 1, 5, 5]], constants: [null, null, ints([1, 1, 7, 3])] }],
  [
    'resize, aspect kept',
    {
      op: 'Resize',
      inputs: [[1, 1, 5, 8]],
      constants: [null, null, ints([10, 10])],
      attributes: [intsAttr('axes', [2, 3]), stringAttr('keep_aspect_ratio_policy', 'not_larger')],
      opset: 18,
    },
  ],
  ['upsample', { op: 'Upsample', inputs: [[1, 1, 5, 5]], constants: [flts([1, 1, 2, 3])], opset: 9 }],
  ['depth to space', { op: 'DepthToSpace', inputs: [[1, 8, 2, 3]], attributes: [intAttr('blocksize', 2)] }],
  ['space to depth', { op: 'SpaceToDepth', inputs: [[1, 2, 4, 6]], attributes: [intAttr('blocksize', 2)] }],
  ['reduce', { op: 'ReduceMean', inputs: [[2, 3, 4]], attributes: [intsAttr('axes', [1, -1]), intAttr('keepdims', 0)] }],
  ['reduce all', { op: 'ReduceMax', inputs: [[2, 3, 4]] }],
  ['reduce by an input', { op: 'ReduceSum', inputs: [[2, 3, 4]], constants: [ints([1])] }],
  ['reduce nothing', { op: 'ReduceSum', inputs: [[2, 3]], attributes: [intAttr('noop_with_empty_axes', 1)] }],
  ['argmax', { op: 'ArgMax', inputs: [[2, 3, 4]], attributes: [intAttr('axis', 1), intAttr('keepdims', 0)] }],
  ['topk', { op: 'TopK', inputs: [[2, 9]], constants: [ints([4])], outputs: 2 }],
  ['shape from to', { op: 'Shape', inputs: [[2, 3, 4, 5]], attributes: [intAttr('start', 1), intAttr('end', -1)] }],
  ['softmax', { op: 'Softmax', inputs: [[2, 3]] }],
  ['layer norm', { op: 'LayerNormalization', inputs: [[2, 3, 4]], constants: [flts([1, 1, 1, 1])], outputs: 3 }],
  [
    'einsum',
    {
      op: 'Einsum',
      inputs: [
        [2, 3, 4],
        [2, 4, 5],
      ],
      attributes: [stringAttr('equation', 'bij, bjk -> bik')],
    },
  ],
  [
    'einsum, implicit',
    {
      op: 'Einsum',
      inputs: [
        [3, 4],
        [4, 5],
      ],
      attributes: [stringAttr('equation', 'ij,jk')],
    },
  ],
  [
    'quantize',
    { op: 'QuantizeLinear', inputs: [[2, 3]], constants: [flts([0.1], []), makeTensor('z', DataType.INT8, [], Int8Array.of(1))] },
  ],
  ['dynamic quantize', { op: 'DynamicQuantizeLinear', inputs: [[2, 3]], outputs: 3 }],
  ['cast', { op: 'Cast', inputs: [[2, 3]], attributes: [intAttr('to', DataType.INT32)] }],
  [
    'lstm',
    {
      op: 'LSTM',
      inputs: [[5, 2, 3]],
      constants: [flts(new Array<number>(96).fill(0.1), [2, 16, 3]), flts(new Array<number>(128).fill(0.1), [2, 16, 4])],
      attributes: [intAttr('hidden_size', 4), stringAttr('direction', 'bidirectional')],
      outputs: 3,
    },
  ],
  [
    'gru',
    {
      op: 'GRU',
      inputs: [[5, 2, 3]],
      constants: [flts(new Array<number>(36).fill(0.1), [1, 12, 3]), flts(new Array<number>(48).fill(0.1), [1, 12, 4])],
      attributes: [intAttr('hidden_size', 4)],
      outputs: 2,
    },
  ],
  [
    'grid sample',
    {
      op: 'GridSample',
      inputs: [
        [1, 2, 4, 4],
        [1, 3, 5, 2],
      ],
    },
  ],
];

describe('each operator', () => {
  it.each(CASES)('%s', async (_, one) => {
    await compare(modelFor(one), Object.fromEntries(one.inputs.map((dims, i) => [`x${i}`, floats(dims)])));
  });
});

describe('shapes that are computed', () => {
  const nodes = (...list: Node[]) => list;
  const flattenAll = (): Model =>
    modelOf(
      graphOf({
        inputs: [value('x', ['N', 3, 'H', 'W'])],
        outputs: [untyped('y')],
        initializers: [int64Tensor('zero', [0], []), int64Tensor('axis', [0]), int64Tensor('rest', [-1]), int64Tensor('two', [2])],
        nodes: nodes(
          makeNode('Shape', ['x'], ['shape']),
          makeNode('Gather', ['shape', 'zero'], ['n']),
          makeNode('Unsqueeze', ['n', 'axis'], ['n1']),
          makeNode('Concat', ['n1', 'rest'], ['target'], { attributes: [intAttr('axis', 0)] }),
          makeNode('GlobalAveragePool', ['x'], ['pooled']),
          makeNode('Reshape', ['pooled', 'target'], ['y']),
        ),
      }),
    );

  it('stay symbolic where they are free', () => {
    expect(inferShapes(flattenAll()).get('y')).toEqual({ elemType: DataType.FLOAT, shape: ['N', 3] });
    expect(inferShapes(flattenAll(), new Map([['x', [5, 3, 9, 9]]])).get('y')?.shape).toEqual([5, 3]);
    expect(inferShapesAndValues(flattenAll()).values.get('target')?.elements).toEqual(['N', -1]);
  });

  it('half of an axis, through arithmetic, Cast, Slice, Range and Where', async () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', ['N', 10])],
        outputs: ['part', 'range', 'filled', 'tiled', 'chosen', 'padded'].map(untyped),
        initializers: [
          int64Tensor('one', [1], []),
          int64Tensor('i2', [2], []),
          int64Tensor('axis0', [0]),
          int64Tensor('axis1', [1]),
          int64Tensor('zero', [0], []),
          floatTensor('half', [0.5], []),
          int64Tensor('minus', [-1]),
        ],
        nodes: nodes(
          makeNode('Shape', ['x'], ['shape']),
          makeNode('Gather', ['shape', 'one'], ['width']),
          makeNode('Cast', ['width'], ['widthF'], { attributes: [intAttr('to', DataType.FLOAT)] }),
          makeNode('Mul', ['widthF', 'half'], ['halfF']),
          makeNode('Floor', ['halfF'], ['floored']),
          makeNode('Cast', ['floored'], ['h'], { attributes: [intAttr('to', DataType.INT64)] }),
          makeNode('Unsqueeze', ['h', 'axis0'], ['h1']),
          makeNode('Slice', ['x', 'axis0', 'h1', 'axis1'], ['part']),
          makeNode('Range', ['zero', 'h', 'i2'], ['range']),
          makeNode('ConstantOfShape', ['shape'], ['filled'], { attributes: [tensorAttr('value', int64Tensor('', [3]))] }),
          makeNode('Div', ['shape', 'i2'], ['halves']),
          makeNode('Max', ['halves', 'one'], ['repeats']),
          makeNode('Tile', ['x', 'repeats'], ['tiled']),
          makeNode('Equal', ['h1', 'minus'], ['isFree']),
          makeNode('Where', ['isFree', 'axis1', 'h1'], ['size']),
          makeNode('Concat', ['size', 'minus'], ['target'], { attributes: [intAttr('axis', 0)] }),
          makeNode('Reshape', ['x', 'target'], ['chosen']),
          makeNode('Concat', ['axis0', 'h1', 'axis1', 'axis0'], ['pads'], { attributes: [intAttr('axis', 0)] }),
          makeNode('Pad', ['x', 'pads'], ['padded']),
        ),
      }),
    );
    await compare(model, { x: floats([4, 10]) });
  });

  it('PyTorch’s pads: reshaped, reversed, transposed', async () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', [1, 2, 3, 4])],
        outputs: [untyped('y')],
        initializers: [
          int64Tensor('given', [1, 2, 0, 1]),
          int64Tensor('four', [4]),
          int64Tensor('pairs', [-1, 2]),
          int64Tensor('m1', [-1]),
          int64Tensor('end', [-(2 ** 40)]),
          int64Tensor('ax', [0]),
        ],
        nodes: [
          makeNode('ConstantOfShape', ['four'], ['zeros'], { attributes: [tensorAttr('value', int64Tensor('', [0]))] }),
          makeNode('Concat', ['given', 'zeros'], ['all'], { attributes: [intAttr('axis', 0)] }),
          makeNode('Reshape', ['all', 'pairs'], ['p2']),
          makeNode('Slice', ['p2', 'm1', 'end', 'ax', 'm1'], ['reversed']),
          makeNode('Transpose', ['reversed'], ['t'], { attributes: [intsAttr('perm', [1, 0])] }),
          makeNode('Reshape', ['t', 'm1'], ['flat']),
          makeNode('Pad', ['x', 'flat'], ['y']),
        ],
      }),
    );
    await compare(model, { x: floats([1, 2, 3, 4]) });
    expect(inferShapes(model).get('y')?.shape).toEqual([1, 2, 4, 7]);
  });
});

describe('subgraphs', () => {
  it('If: what its branches agree on', () => {
    const branch = (op: string, dims: Dim[]) => graphOf({ outputs: [value('o', dims)], nodes: [makeNode(op, ['x'], ['o'])] });
    const model = modelOf(
      graphOf({
        inputs: [value('c', [], DataType.BOOL), value('x', ['N', 4])],
        outputs: [untyped('y')],
        nodes: [
          makeNode('If', ['c'], ['y'], {
            attributes: [
              graphAttr('then_branch', branch('Relu', ['N', 4])),
              graphAttr(
                'else_branch',
                graphOf({
                  outputs: [untyped('o2')],
                  initializers: [floatTensor('k', [1, 2, 3, 4], [1, 4])],
                  nodes: [makeNode('Identity', ['k'], ['o2'])],
                }),
              ),
            ],
          }),
        ],
      }),
    );
    expect(inferShapes(model).get('y')).toEqual({ elemType: DataType.FLOAT, shape: [null, 4] });
  });

  it('Loop: rank of what it stacks', async () => {
    const body = graphOf({
      inputs: [value('i', [], DataType.INT64), value('go', [], DataType.BOOL), value('v', [3])],
      outputs: [value('go', [], DataType.BOOL), untyped('v2'), untyped('each')],
      nodes: [makeNode('Add', ['v', 'x'], ['v2']), makeNode('Mul', ['v2', 'x'], ['each'])],
    });
    body.outputs[0] = value('go2', [], DataType.BOOL);
    body.nodes.unshift(makeNode('Identity', ['go'], ['go2']));
    const model = modelOf(
      graphOf({
        inputs: [value('x', [3])],
        outputs: [untyped('last'), untyped('stack')],
        initializers: [int64Tensor('trips', [4], []), makeTensor('yes', DataType.BOOL, [], Uint8Array.of(1))],
        nodes: [makeNode('Loop', ['trips', 'yes', 'x'], ['last', 'stack'], { attributes: [graphAttr('body', body)] })],
      }),
    );
    const types = inferShapes(model);
    expect(types.get('last')?.elemType).toBe(DataType.FLOAT);
    expect(types.get('stack')?.shape).toEqual([null, 3]);
    expect((await run(model, { x: floats([3]) })).stack?.dims).toEqual([4, 3]);
  });
});

describe('what is not known', () => {
  it('an unknown operator, and all that hangs on it', () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', [2, 3])],
        outputs: [untyped('z')],
        nodes: [
          makeNode('Mystery', ['x'], ['y'], { domain: 'my.company' }),
          makeNode('Relu', ['y'], ['z']),
          makeNode('Add', ['z', 'x'], ['w']),
        ],
      }),
    );
    const types = inferShapes(model);
    expect(types.get('y')).toBeUndefined();
    expect(types.get('w')?.shape).toBeUndefined();
  });

  it('what the file states fills gaps, and yields to what is inferred', () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', ['N', 3])],
        outputs: [value('z', ['batch', 7])],
        nodes: [makeNode('Mystery', ['x'], ['y'], { domain: 'my.company' }), makeNode('Relu', ['y'], ['z']), makeNode('Neg', ['x'], ['w'])],
      }),
    );
    model.graph.valueInfo.set('y', value('y', ['N', 7]));
    model.graph.valueInfo.set('w', value('w', [1, 3]));
    const types = inferShapes(model, new Map([['x', [5, 3]]]));
    expect(types.get('y')?.shape).toEqual([5, 7]);
    expect(types.get('z')?.shape).toEqual([5, 7]);
    expect(types.get('w')?.shape).toEqual([5, 3]);
  });

  it('a residual on a free size keeps its channels', () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', ['N', 8, 'H', 'W'])],
        outputs: [untyped('y')],
        initializers: [
          floatTensor('w', new Float32Array(576), [8, 8, 3, 3]),
          tensorFromNumbers('b', DataType.FLOAT, [8], new Array(8).fill(0)),
        ],
        nodes: [
          makeNode('Conv', ['x', 'w', 'b'], ['c'], { attributes: [intsAttr('pads', [1, 1, 1, 1])] }),
          makeNode('Add', ['c', 'x'], ['y']),
        ],
      }),
    );
    expect(inferShapes(model).get('y')?.shape).toEqual(['N', 8, 'H', 'W']);
  });

  it('scales of Upsample before opset 9 stand in an attribute', () => {
    const model = modelOf(
      graphOf({
        inputs: [value('x', [1, 2, 3, 4])],
        outputs: [untyped('y')],
        nodes: [makeNode('Upsample', ['x'], ['y'], { attributes: [floatsAttr('scales', [1, 1, 2, 3])] })],
      }),
      { opset: 8 },
    );
    expect(inferShapes(model).get('y')?.shape).toEqual([1, 2, 6, 12]);
  });
});
