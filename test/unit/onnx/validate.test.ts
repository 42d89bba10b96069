import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { HalftoneError } from '../../../src/domain/errors.ts';
import { LIMITS } from '../../../src/domain/limits.ts';
import { graphAttr, intAttr, makeNode } from '../../../src/onnx/graph.ts';
import { DataType, type Model, type Node } from '../../../src/onnx/model.ts';
import { ProtoWriter } from '../../../src/onnx/protobuf.ts';
import { floatTensor } from '../../../src/onnx/tensor.ts';
import { checkModel, floatTypes, isAlreadyQuantized, refuseQuantized } from '../../../src/onnx/validate.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { floats, graphOf, modelOf, run, temporaryFolder, value } from './build.ts';

const folder = temporaryFolder();

const withNodes = (...nodes: Node[]): Model =>
  modelOf(graphOf({ inputs: [value('x', [4])], outputs: [value('y', [4])], initializers: [floatTensor('w', [1, 2, 3, 4])], nodes }));
const good = () => withNodes(makeNode('Add', ['x', 'w'], ['y'], { name: 'add' }));
const failure = (model: Model): { code: string; detail: string } => {
  try {
    checkModel(model);
  } catch (error) {
    const { code, detail } = error as HalftoneError;
    return { code, detail };
  }
  return { code: 'none', detail: '' };
};

describe('checkModel', () => {
  it('takes a good model, in any order, with subgraphs', () => {
    expect(failure(good()).code).toBe('none');
    expect(failure(withNodes(makeNode('Relu', ['a'], ['y']), makeNode('Relu', ['x'], ['a']))).code).toBe('none');
  });

  it.each([
    ['too old', LIMITS.oldestOpset - 1],
    ['too new', LIMITS.newestOpset + 1],
    ['absurd', -1],
  ])('opset %s', (_, opset) => {
    const model = good();
    model.opsets.set('', opset);
    expect(failure(model)).toMatchObject({
      code: 'opset-unsupported',
      detail: expect.stringContaining(`${LIMITS.oldestOpset} to ${LIMITS.newestOpset}`),
    });
  });

  it('no opset', () => {
    const model = good();
    model.opsets.clear();
    expect(failure(model).code).toBe('opset-unsupported');
  });

  it.each([
    ['custom domain', makeNode('MyOp', ['x'], ['y'], { name: 'mine', domain: 'my.company' })],
    ['no such operator', makeNode('Rellu', ['x'], ['y'], { name: 'mine' })],
    ['a name of objects', makeNode('constructor', ['x'], ['y'], { name: 'mine' })],
  ])('%s', (_, node) => {
    expect(failure(withNodes(node))).toMatchObject({ code: 'operator-unsupported', detail: expect.stringContaining("'mine'") });
  });

  it('takes the runtime’s operators and the model’s own functions', () => {
    expect(failure(withNodes(makeNode('Gelu', ['x'], ['y'], { domain: 'com.microsoft' }))).code).toBe('none');
    const model = withNodes(makeNode('MyOp', ['x'], ['y'], { domain: 'my.company' }));
    const w = new ProtoWriter().string(1, 'MyOp').string(10, 'my.company');
    model.unknown = [{ field: 25, wire: 2, bytes: Buffer.concat(w.parts() as Uint8Array[]) }];
    expect(failure(model).code).toBe('none');
  });

  it('a missing value, named with its node', () => {
    const { code, detail } = failure(withNodes(makeNode('Add', ['x', 'gone'], ['y'], { name: 'add' })));
    expect(code).toBe('graph-invalid');
    expect(detail).toContain("'gone'");
    expect(detail).toContain("'add'");
  });

  it.each([
    [
      'a cycle',
      withNodes(
        makeNode('Add', ['x', 'b'], ['a'], { name: 'one' }),
        makeNode('Relu', ['a'], ['b'], { name: 'two' }),
        makeNode('Relu', ['b'], ['y']),
      ),
      'one',
    ],
    [
      'a value made twice',
      withNodes(makeNode('Relu', ['x'], ['y'], { name: 'one' }), makeNode('Neg', ['x'], ['y'], { name: 'two' })),
      'two',
    ],
    [
      'a value that shadows an initializer',
      withNodes(makeNode('Relu', ['x'], ['w'], { name: 'one' }), makeNode('Neg', ['w'], ['y'])),
      'one',
    ],
    ['an output that nothing makes', withNodes(makeNode('Relu', ['x'], ['z'])), "'y'"],
  ])('%s', (_, model, named) => {
    expect(failure(model)).toMatchObject({ code: 'graph-invalid', detail: expect.stringContaining(named) });
  });

  it('looks into subgraphs', () => {
    const branch = (input: string) => graphOf({ outputs: [value('o', [4])], nodes: [makeNode('Relu', [input], ['o'], { name: 'inner' })] });
    const conditional = (input: string) => {
      const model = withNodes(
        makeNode('If', ['c'], ['y'], { attributes: [graphAttr('then_branch', branch(input)), graphAttr('else_branch', branch('x'))] }),
      );
      model.graph.inputs.push(value('c', [], DataType.BOOL));
      return model;
    };
    expect(failure(conditional('x')).code).toBe('none');
    expect(failure(conditional('gone'))).toMatchObject({ code: 'graph-invalid', detail: expect.stringContaining("'inner'") });
  });

  it('no outputs, no nodes', () => {
    const model = good();
    model.graph.outputs = [];
    expect(failure(model).code).toBe('graph-invalid');
    expect(failure(withNodes())).toMatchObject({ code: 'graph-invalid', detail: expect.stringContaining('no nodes') });
  });

  it.each([0, LIMITS.newestIrVersion + 1])('IR version %s, which the runtime refuses', async (irVersion) => {
    const model = { ...good(), irVersion };
    expect(failure(model)).toMatchObject({
      code: 'opset-unsupported',
      detail: expect.stringContaining(`1 to ${LIMITS.newestIrVersion}`),
    });
    // The runtime refuses a file without the field; the writer writes a 0, which it takes.
    if (irVersion > 0) await expect(run(model, { x: floats([4]) })).rejects.toThrow(/IR version/);
    await expect(run({ ...model, irVersion: LIMITS.newestIrVersion }, { x: floats([4]) })).resolves.toBeDefined();
  });

  it('two nodes of one name, which the runtime refuses; another graph’s may have it', async () => {
    const twins = withNodes(makeNode('Relu', ['x'], ['a'], { name: 'twin' }), makeNode('Neg', ['a'], ['y'], { name: 'twin' }));
    expect(failure(twins)).toMatchObject({ code: 'graph-invalid', detail: expect.stringContaining("'twin'") });
    await expect(run(twins, { x: floats([4]) })).rejects.toThrow('twin');
    expect(failure(withNodes(makeNode('Relu', ['x'], ['a']), makeNode('Neg', ['a'], ['y']))).code).toBe('none');
    const branch = () => graphOf({ outputs: [value('o', [4])], nodes: [makeNode('Relu', ['x'], ['o'], { name: 'twin' })] });
    const apart = withNodes(
      makeNode('If', ['c'], ['y'], { name: 'twin', attributes: [graphAttr('then_branch', branch()), graphAttr('else_branch', branch())] }),
    );
    apart.graph.initializers.set('c', { name: 'c', dataType: DataType.BOOL, dims: [], data: { kind: 'bytes', bytes: Uint8Array.of(1) } });
    expect(failure(apart).code).toBe('none');
    await expect(run(apart, { x: floats([4]) })).resolves.toBeDefined();
  });

  const norm = ['x', 'w', 'w', 'w', 'w'];
  it.each([
    ['Split', ['x'], ['y', ''], 'output 2 of 2'],
    ['Sum', ['x', '', 'w'], ['y'], 'input 2 of 3'],
    ['Max', ['x', ''], ['y'], 'input 2 of 2'],
    ['Concat', ['x', ''], ['y'], 'input 2 of 2'],
    ['Einsum', ['x', ''], ['y'], 'input 2 of 2'],
    ['BatchNormalization', norm, ['y', '', ''], 'output 2 of 3'],
    ['If', ['x'], ['y', ''], 'output 2 of 2'],
    ['Loop', ['', '', 'x'], ['y', ''], 'output 2 of 2'],
    ['Loop', ['', '', ''], ['y'], 'input 3 of 3'],
    ['Scan', ['', ''], ['y'], 'input 2 of 2'],
  ])('a gap in the lists of %s(%s) → %s', (opType, inputs, outputs, named) => {
    const { code, detail } = failure(withNodes(makeNode(opType, inputs, outputs, { name: 'gappy' })));
    expect([code, detail]).toEqual(['graph-invalid', expect.stringContaining(named)]);
    expect(detail).toContain("'gappy'");
  });

  it('what ONNX lets a node leave out may be left out', () => {
    for (const [opType, inputs, outputs] of [
      ['Clip', ['x', '', 'w'], ['y']],
      ['LSTM', ['x', 'w', 'w', '', '', 'w'], ['', '', 'y']],
      ['Dropout', ['x', '', ''], ['y', '']],
      ['LayerNormalization', ['x', 'w', ''], ['y', '', 'z']],
      ['MaxPool', ['x'], ['y', '']],
      ['Loop', ['', '', 'x'], ['y']],
      ['Scan', ['', 'x'], ['y']],
    ] as const)
      expect([opType, failure(withNodes(makeNode(opType, [...inputs], [...outputs]))).code]).toEqual([opType, 'none']);
  });

  // Should it fail, the runtime has learned to check, and checkLists can let such models through to it.
  it('the runtime dies of a gap', () => {
    const path = join(folder, 'gap.onnx');
    const model = withNodes(makeNode('Split', ['x'], ['y', ''], { name: 'gappy' }));
    model.graph.outputs = [value('y', [2])];
    writeFileSync(path, serializeModel(model));
    const program = `const { InferenceSession, Tensor } = require('onnxruntime-node');
      InferenceSession.create(${JSON.stringify(path)}).then((session) => session.run({ x: new Tensor('float32', [1, 2, 3, 4], [4]) }));`;
    const { status, signal } = spawnSync(process.execPath, ['-e', program], { stdio: 'ignore', timeout: 30_000 });
    expect({ status, crashed: signal !== null && signal !== 'SIGTERM' }).toEqual({ status: null, crashed: true });
  });
});

describe('what is quantized', () => {
  it.each(['QLinearConv', 'QuantizeLinear', 'DynamicQuantizeLinear', 'MatMulInteger', 'ConvInteger', 'DequantizeLinear'])(
    '%s',
    (opType) => {
      const model = withNodes(makeNode(opType, ['x'], ['y']));
      expect(isAlreadyQuantized(model)).toBe(true);
      expect(() => refuseQuantized(model)).toThrowError(
        expect.objectContaining({ code: 'already-quantized', detail: expect.stringContaining(`1 ${opType}`) }),
      );
    },
  );

  it('a float model is not', () => {
    expect(isAlreadyQuantized(good())).toBe(false);
    expect(() => refuseQuantized(good())).not.toThrow();
  });

  it('float types', () => {
    const model = withNodes(
      makeNode('Cast', ['x'], ['h'], { attributes: [intAttr('to', DataType.FLOAT16)] }),
      makeNode('Relu', ['h'], ['y']),
    );
    expect([...floatTypes(model)].sort()).toEqual([DataType.FLOAT, DataType.FLOAT16]);
  });
});
