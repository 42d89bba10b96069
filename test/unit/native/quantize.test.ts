import fc from 'fast-check';
import ort from 'onnxruntime-node';
import { afterEach, describe, expect, it } from 'vitest';
import {
  dequantizeLinear,
  dequantizeLinearSync,
  quantizeLinear,
  quantizeLinearSync,
  reference,
  setSimd,
  simd,
} from '../../../native/index.ts';
import { linearModel } from './linear-model.ts';

const levels = simd === 'avx2' ? (['avx2', 'scalar'] as const) : (['scalar'] as const);
afterEach(() => setSimd('auto'));

const arrayOf = { uint8: Uint8Array, int8: Int8Array };
type CodeName = keyof typeof arrayOf;
const limits = { uint8: [0, 255], int8: [-128, 127] } as const;

/** Values as x/scale meets them: ties (k + ½)·scale, the neighbours of ties, ordinary and extreme ones. */
const shape = fc.record({
  outer: fc.integer({ min: 1, max: 4 }),
  axisLength: fc.integer({ min: 1, max: 70 }),
  inner: fc.integer({ min: 1, max: 70 }),
});
const problem = fc
  .record({ shape, codes: fc.constantFrom<CodeName>('uint8', 'int8'), perAxis: fc.boolean(), seed: fc.integer() })
  .map(({ shape: { outer, axisLength, inner }, codes, perAxis, seed }) => {
    let state = seed | 1;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      return (state >>> 8) / 2 ** 24;
    };
    const [least, most] = limits[codes];
    const count = perAxis ? axisLength : 1;
    const scales = new Float32Array(count).map(() => (random() < 0.1 ? 2 ** -140 : 10 ** (random() * 6 - 4)));
    const zeroPoints = new Int32Array(count).map(() => least + Math.floor(random() * (most - least + 1)));
    const x = new Float32Array(outer * axisLength * inner).map((_, i) => {
      const scale = scales[perAxis ? Math.floor(i / inner) % axisLength : 0]!;
      const tie = (Math.floor(random() * 520 - 260) + 0.5) * scale;
      const kind = random();
      if (kind < 0.4) return tie;
      if (kind < 0.5) return tie * (1 + 2 ** -23);
      if (kind < 0.6) return tie * (1 - 2 ** -24);
      if (kind < 0.7)
        return [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e-45, -1e-45, 3e38, -3e38, 0, -0][
          Math.floor(random() * 9)
        ]!;
      return (random() * 600 - 300) * scale;
    });
    return { x, scales, zeroPoints, codes, perAxis, outer, axisLength, inner };
  });

const session = async (op: 'QuantizeLinear' | 'DequantizeLinear', codes: CodeName, axis: number | null) =>
  await ort.InferenceSession.create(linearModel(op, codes, axis), { intraOpNumThreads: 1 });

describe('quantizeLinear', () => {
  it('gives what ONNX Runtime gives, and what the reference gives, at every SIMD level', async () => {
    const sessions = {
      uint8: { tensor: await session('QuantizeLinear', 'uint8', null), axis: await session('QuantizeLinear', 'uint8', 1) },
      int8: { tensor: await session('QuantizeLinear', 'int8', null), axis: await session('QuantizeLinear', 'int8', 1) },
    };
    await fc.assert(
      fc.asyncProperty(problem, async ({ x, scales, zeroPoints, codes, perAxis, outer, axisLength, inner }) => {
        const Codes = arrayOf[codes];
        const dims = perAxis ? [axisLength] : [];
        const { y } = await sessions[codes][perAxis ? 'axis' : 'tensor'].run({
          x: new ort.Tensor('float32', x, [outer, axisLength, inner]),
          scale: new ort.Tensor('float32', scales, dims),
          zeroPoint: new ort.Tensor(codes, Codes.from(zeroPoints), dims),
        });
        const expected = Codes.from(y!.data as Uint8Array | Int8Array);
        const [axis, run] = perAxis ? [axisLength, inner] : [1, 1];
        const oracle = new Codes(x.length);
        reference.quantizeLinear(x, oracle, scales, zeroPoints, axis, run);
        expect(oracle).toEqual(expected);
        for (const level of levels) {
          setSimd(level);
          const out = new Codes(x.length);
          await quantizeLinear(x, out, scales, zeroPoints, axis, run);
          expect(out, level).toEqual(expected);
          const sync = new Codes(x.length);
          quantizeLinearSync(x, sync, scales, zeroPoints, axis, run);
          expect(sync).toEqual(expected);
        }
      }),
      { numRuns: 80 },
    );
  });

  it('handles the channel innermost', async () => {
    const axisLength = 77;
    const x = new Float32Array(axisLength * 9).map((_, i) => Math.sin(i) * 3);
    const scales = new Float32Array(axisLength).map((_, i) => 0.001 * (i + 1));
    const zeroPoints = new Int32Array(axisLength).map((_, i) => i - 30);
    const oracle = new Int8Array(x.length);
    reference.quantizeLinear(x, oracle, scales, zeroPoints, axisLength, 1);
    for (const level of levels) {
      setSimd(level);
      const out = new Int8Array(x.length);
      await quantizeLinear(x, out, scales, zeroPoints, axisLength, 1);
      expect(out).toEqual(oracle);
    }
  });

  it('refuses what does not fit', async () => {
    const [x, out, scale, zero] = [new Float32Array(6), new Uint8Array(6), new Float32Array([1]), new Int32Array([0])];
    await expect(quantizeLinear(x, new Uint8Array(5), scale, zero, 1, 1)).rejects.toThrow('6 floats, but 5 codes');
    await expect(quantizeLinear(x, out, scale, zero, 2, 1)).rejects.toThrow('axisLength is 2');
    await expect(quantizeLinear(x, out, new Float32Array(4), new Int32Array(4), 4, 1)).rejects.toThrow('no multiple');
    await expect(quantizeLinear(x, out, scale, new Int32Array([-1]), 1, 1)).rejects.toThrow('zero point -1 is outside 0..255');
    expect(() => quantizeLinearSync(x, [] as unknown as Uint8Array, scale, zero, 1, 1)).toThrow(TypeError);
    await quantizeLinear(new Float32Array(0), new Uint8Array(0), scale, zero, 1, 1);
  });
});

describe('dequantizeLinear', () => {
  it('gives what ONNX Runtime gives', async () => {
    for (const codes of ['uint8', 'int8'] as const) {
      const all = new arrayOf[codes](256 * 6).map((_, i) => limits[codes][0] + (i % 256));
      for (const perAxis of [false, true]) {
        const count = perAxis ? 6 : 1;
        const scales = new Float32Array(count).map((_, i) => 0.1234567 * (i + 1));
        const zeroPoints = new Int32Array(count).map((_, i) => limits[codes][0] + 40 * i);
        const dims = perAxis ? [count] : [];
        const { y } = await (await session('DequantizeLinear', codes, perAxis ? 1 : null)).run({
          x: new ort.Tensor(codes, all, [1, 6, 256]),
          scale: new ort.Tensor('float32', scales, dims),
          zeroPoint: new ort.Tensor(codes, arrayOf[codes].from(zeroPoints), dims),
        });
        const expected = new Float32Array(y!.data as Float32Array);
        const [out, sync, oracle] = [new Float32Array(all.length), new Float32Array(all.length), new Float32Array(all.length)];
        await dequantizeLinear(all, out, scales, zeroPoints, count, 256);
        dequantizeLinearSync(all, sync, scales, zeroPoints, count, 256);
        reference.dequantizeLinear(all, oracle, scales, zeroPoints, count, 256);
        expect(out).toEqual(expected);
        expect(sync).toEqual(expected);
        expect(oracle).toEqual(expected);
      }
    }
  });
});
