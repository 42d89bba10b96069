import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { HalftoneError } from '../../../../src/domain/errors.ts';
import { DataType, type Model } from '../../../../src/onnx/model.ts';
import { floatTensor, makeTensor } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { gate } from '../../../../src/quant/gate/gate.ts';
import { integerUnits, selfQuantized } from '../../../../src/quant/gate/kernels.ts';
import { inFolder, profiled, quantize, randomFeeds } from '../emit/quantize.ts';
import { floats, ints, modelOf, node, runner, weight } from '../prepare/graphs.ts';

const GEMM = [weight('w', [6, 5]), weight('b', [5])];
const float = modelOf([node('Gemm', ['x', 'w', 'b'], ['h']), node('Sigmoid', ['h'], ['y'])], { x: ['N', 6] }, { y: ['N', 5] }, GEMM);
const x = (values: ArrayLike<number>, rows: number) => ({ x: floats(values, [rows, 6]) });
const ROW = [1, 2, 3, 4, 5, 6];

/** What the gate says of `shipped` beside `reference`, and what it left in its folder. */
async function pass(shipped: Model | Uint8Array, reference: Model = float, feeds = [x(ROW, 1)]) {
  return inFolder(async (workDir) => {
    const path = join(workDir, 'model.onnx');
    await writeFile(path, shipped instanceof Uint8Array ? shipped : serializeModel(shipped));
    const session = await runner.open(serializeModel(reference), { threads: 1 });
    try {
      const result = await gate(runner, path, session, feeds, { threads: 1, workDir }).catch((cause: unknown) => cause as HalftoneError);
      // A profile that nobody asked for in the end is removed a moment later.
      for (let i = 0; i < 10 && (await readdir(workDir)).length > 1; i++) await new Promise((resolve) => setTimeout(resolve, 20));
      return { result, left: await readdir(workDir) };
    } finally {
      session.close();
    }
  });
}
const code = async (...args: Parameters<typeof pass>) => ((await pass(...args)).result as HalftoneError).code;

describe('gate', () => {
  it('lets a sound file pass, with its outputs and the kernels that ran, and leaves nothing behind', async () => {
    const q = await quantize(float, { feeds: randomFeeds(float, 3) });
    for (const shipped of [float, q.qdq, q.qoperator]) {
      const { result, left } = await pass(shipped, float, [x(ROW, 1), x([...ROW, ...ROW], 2)]);
      if (result instanceof Error) throw result;
      expect(result.outputs.map((o) => o.y!.dims)).toEqual([
        [1, 5],
        [2, 5],
      ]);
      expect(Object.values(result.ran).reduce((a, b) => a + b, 0)).toBe(result.nodes.length);
      expect(Object.keys(result.ran)).toContain(shipped === float ? 'FusedGemm' : 'QLinearSigmoid');
      expect(left).toEqual(['model.onnx']);
    }
  });
  it.each([
    ['no ONNX file', new Uint8Array(100).fill(7)],
    ['an empty one', new Uint8Array()],
    ['an operator that there is not', modelOf([node('Gemmm', ['x', 'w'], ['y'])], { x: ['N', 6] }, ['y'], GEMM)],
    ['inputs that do not fit', modelOf([node('Gemm', ['x', 'v', 'b'], ['y'])], { x: ['N', 6] }, ['y'], [weight('v', [9, 5]), GEMM[1]!])],
  ])('refuses %s: gate-load, in the runtime’s words', async (_, shipped) => {
    const { result } = await pass(shipped);
    expect(result).toMatchObject({ name: 'HalftoneError', code: 'gate-load' });
    expect((result as HalftoneError).detail.length).toBeGreaterThan(40);
  });
  it('refuses what loads and does not run', async () => {
    const scales = { s: floatTensor('s', new Float32Array(5).fill(0.1)), z: makeTensor('z', DataType.UINT8, [5], new Uint8Array(5)) };
    const shipped = modelOf(
      [
        node('Gemm', ['x', 'w', 'b'], ['h']),
        node('Reshape', ['h', 'shape'], ['r']),
        node('QuantizeLinear', ['r', 's', 'z'], ['q'], { attributes: [] }),
        node('DequantizeLinear', ['q', 's', 'z'], ['d'], { attributes: [] }),
        node('Reshape', ['d', 'back'], ['y']),
      ],
      { x: ['N', 6] },
      { y: ['N', 5] },
      [...GEMM, scales.s, scales.z, ints('shape', [7, -1]), ints('back', [-1, 5])],
    );
    const { result, left } = await pass(shipped);
    expect(result).toMatchObject({ code: 'gate-load' });
    expect((result as HalftoneError).detail).toMatch(/loads but does not run/);
    expect(left).toEqual(['model.onnx']);
  });
  it('refuses other names, types and dimensions: gate-io-changed', async () => {
    const nodes = (output: string, input = 'x') => [node('Gemm', [input, 'w', 'b'], ['h']), node('Sigmoid', ['h'], [output])];
    expect(await code(modelOf(nodes('z'), { x: ['N', 6] }, { z: ['N', 5] }, GEMM))).toBe('gate-io-changed');
    expect(await code(modelOf(nodes('y', 'a'), { a: ['N', 6] }, { y: ['N', 5] }, GEMM))).toBe('gate-io-changed');
    expect(await code(modelOf(nodes('y'), { x: [1, 6] }, { y: [1, 5] }, GEMM))).toBe('gate-io-changed');
    expect(await code(modelOf(nodes('y'), { x: ['M', 6] }, { y: ['M', 5] }, GEMM))).toBe('gate-io-changed');
    expect(await code(modelOf(nodes('y'), { x: ['N', 6] }, ['y', 'h'], GEMM))).toBe('gate-io-changed');
    const cast = [node('Gemm', ['x', 'w', 'b'], ['h']), node('Greater', ['h', 'h'], ['y'])];
    expect(await code(modelOf(cast, { x: ['N', 6] }, { y: ['N', 5] }, GEMM, { types: { y: DataType.BOOL } }))).toBe('gate-io-changed');
  });
  it('refuses NaN and infinities that the float model does not give: gate-not-finite', async () => {
    const log = modelOf([node('Gemm', ['x', 'w', 'b'], ['h']), node('Log', ['h'], ['y'])], { x: ['N', 6] }, { y: ['N', 5] }, GEMM);
    const { result } = await pass(log, float, [x([-9, 9, -9, 9, -9, 9], 1)]);
    expect(result).toMatchObject({ code: 'gate-not-finite' });
    expect((result as HalftoneError).detail).toMatch(/y/);
    // The same from the float model is what the model says.
    expect((await pass(log, log, [x([-9, 9, -9, 9, -9, 9], 1)])).result).not.toBeInstanceOf(Error);
    const reciprocal = modelOf(
      [node('Gemm', ['x', 'w', 'b'], ['h']), node('Mul', ['h', 'big'], ['i']), node('Mul', ['i', 'big'], ['y'])],
      { x: ['N', 6] },
      { y: ['N', 5] },
      [...GEMM, floatTensor('big', [1e30], [])],
    );
    expect(await code(reciprocal)).toBe('gate-not-finite');
  });
  it('sees every feed', async () => {
    const sqrt = modelOf(
      [node('Gemm', ['x', 'w', 'b'], ['h']), node('Sqrt', ['x'], ['s']), node('ReduceSum', ['s'], ['t']), node('Add', ['h', 't'], ['y'])],
      { x: ['N', 6] },
      { y: ['N', 5] },
      GEMM,
    );
    expect((await pass(sqrt, float, [x(ROW, 1)])).result).not.toBeInstanceOf(Error);
    expect(
      await code(sqrt, float, [
        x(ROW, 1),
        x(
          ROW.map((v) => -v),
          1,
        ),
      ]),
    ).toBe('gate-not-finite');
  });
});

describe('kernels', () => {
  const model = modelOf(
    [
      node('MatMul', ['x', 'w'], ['p'], { name: 'mm' }),
      node('Add', ['p', 'b'], ['a'], { name: 'bias' }),
      node('Sigmoid', ['a'], ['s'], { name: 'sig' }),
      node('Transpose', ['s'], ['t'], { name: 'turn' }),
      node('Sigmoid', ['t'], ['y'], { name: 'last' }),
    ],
    { x: [4, 6] },
    ['y'],
    GEMM,
  );
  const ran = (...nodes: [string, string][]) => nodes.map(([name, operator]) => ({ name, operator, us: 1 }));
  it('are told from a real profile', async () => {
    const feeds = randomFeeds(model, 2);
    const all = await quantize(model, { feeds });
    expect(integerUnits(all.quantization, (await profiled(all.qdq, feeds)).nodes)).toEqual(['mm', 'sig', 'turn', 'last']);
    const some = await quantize(model, { feeds, float: (u) => u.name === 'sig' });
    const { nodes } = await profiled(some.qdq, feeds);
    expect(integerUnits(some.quantization, nodes)).toEqual(['mm', 'turn', 'last']);
    expect(selfQuantized(some.quantization, nodes)).toEqual([]);
  });
  it('a planned layer that ran in float is none, by whatever name it ran', async () => {
    const { quantization } = await quantize(model, { feeds: randomFeeds(model, 2) });
    const others: [string, string][] = [
      ['sig_token_1', 'QLinearSigmoid'],
      ['last', 'QLinearSigmoid'],
    ];
    for (const [name, operator] of [
      ['mm', 'MatMul'],
      ['mm/MatMulAddFusion', 'Gemm'],
      ['fused bias', 'FusedGemm'],
      ['a_nchwc', 'Conv'],
    ] as [string, string][]) {
      expect(integerUnits(quantization, ran([name, operator], ...others))).toEqual(['sig', 'turn', 'last']);
    }
    expect(integerUnits(quantization, ran(...others))).toEqual(['sig', 'turn', 'last']);
    expect(integerUnits(quantization, ran(['mm/MatMulAddFusion_token_3', 'QGemm'], ...others))).toEqual(['mm', 'sig', 'turn', 'last']);
  });
  it('a float layer that ran in integers is a fault', async () => {
    const { quantization } = await quantize(model, { feeds: randomFeeds(model, 2), float: (u) => u.name === 'mm' || u.name === 'turn' });
    expect(selfQuantized(quantization, ran(['mm', 'MatMul'], ['sig', 'QLinearSigmoid']))).toEqual([]);
    expect(selfQuantized(quantization, ran(['mm/MatMulAddFusion', 'QGemm'], ['sig', 'QLinearSigmoid']))).toEqual(['mm']);
    expect(selfQuantized(quantization, ran(['bias', 'QLinearAdd']))).toEqual(['mm']);
  });
});
