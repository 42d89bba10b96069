import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { intAttr, makeNode } from '../../../src/onnx/graph.ts';
import { DataType } from '../../../src/onnx/model.ts';
import {
  byteLengthOf,
  dataTypeName,
  elementSize,
  float16ToFloat32,
  float32ToFloat16,
  floatData,
  floatTensor,
  int64Tensor,
  intData,
  makeTensor,
  numberToBfloat16,
  scalarValue,
  tensorFromNumbers,
} from '../../../src/onnx/tensor.ts';
import { feed, graphOf, modelOf, run, value } from './build.ts';

const castModel = (from: DataType, to: DataType) =>
  modelOf(
    graphOf({
      inputs: [value('x', ['N'], from)],
      outputs: [value('y', ['N'], to)],
      nodes: [makeNode('Cast', ['x'], ['y'], { attributes: [intAttr('to', to)] })],
    }),
  );

describe('half precision, against the runtime’s Cast', () => {
  it('every float16 becomes the same float32', async () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const { y } = await run(castModel(DataType.FLOAT16, DataType.FLOAT), { x: feed('float16', [65536], bits) });
    const theirs = new Float32Array(y!.bytes.slice().buffer);
    const ours = float16ToFloat32(bits);
    for (let i = 0; i < 65536; i++) expect(Object.is(ours[i], theirs[i]) || (Number.isNaN(ours[i]) && Number.isNaN(theirs[i]))).toBe(true);
  });

  it('float32 becomes the same float16: ties, subnormals, overflow, and a million bit patterns', async () => {
    const patterns = new Uint32Array(1_000_000);
    for (let i = 0, x = 12345; i < patterns.length; i++) {
      x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
      // Half of them where half precision has numbers, on and beside its ties.
      patterns[i] = i % 2 ? x : (0x33000000 + (x % 0x14800000) - ((x >>> 3) % 3)) & (i % 4 ? 0xfffff000 : 0xffffffff);
    }
    const values = new Float32Array(patterns.buffer);
    const { y } = await run(castModel(DataType.FLOAT, DataType.FLOAT16), { x: feed('float32', [values.length], values) });
    const theirs = new Uint16Array(y!.bytes.slice().buffer);
    const ours = float32ToFloat16(values);
    let differing = 0;
    for (let i = 0; i < values.length; i++) if (ours[i] !== theirs[i] && !Number.isNaN(values[i])) differing++;
    expect(differing).toBe(0);
  });

  it('bfloat16 is the nearest, ties to even', () => {
    expect(numberToBfloat16(1)).toBe(0x3f80);
    expect(numberToBfloat16(1 + 2 ** -8)).toBe(0x3f80);
    expect(numberToBfloat16(1 + 3 * 2 ** -8)).toBe(0x3f82);
    expect(numberToBfloat16(Number.POSITIVE_INFINITY)).toBe(0x7f80);
    expect(numberToBfloat16(3.4e38)).toBe(0x7f80);
    expect(numberToBfloat16(Number.NaN) & 0x7fff).toBeGreaterThan(0x7f80);
  });
});

describe('tensors from numbers', () => {
  const bounds: [DataType, number, number][] = [
    [DataType.INT8, -128, 127],
    [DataType.UINT8, 0, 255],
    [DataType.INT16, -32768, 32767],
    [DataType.UINT16, 0, 65535],
    [DataType.INT32, -(2 ** 31), 2 ** 31 - 1],
    [DataType.UINT32, 0, 2 ** 32 - 1],
    [DataType.INT64, -(2 ** 53 - 1), 2 ** 53 - 1],
    [DataType.UINT64, 0, 2 ** 53 - 1],
    [DataType.BOOL, 0, 1],
  ];
  it.each(bounds)('type %i holds what it is given', (dataType, min, max) => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min, max })), (numbers) => {
        const tensor = tensorFromNumbers('t', dataType, [numbers.length], numbers);
        expect(intData(tensor)).toEqual(numbers);
      }),
    );
  });

  it('floats', () => {
    fc.assert(
      fc.property(fc.float32Array(), (numbers) => {
        expect(floatData(floatTensor('t', numbers))).toEqual(numbers);
        // At an odd place in a larger buffer, as tensors of a file are.
        const bytes = new Uint8Array(numbers.byteLength + 3);
        bytes.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), 3);
        expect(floatData({ ...floatTensor('t', numbers), data: { kind: 'bytes', bytes: bytes.subarray(3) } })).toEqual(numbers);
      }),
    );
    expect([...floatData(tensorFromNumbers('t', DataType.DOUBLE, [2], [0.5, -1e300]))]).toEqual([0.5, Number.NEGATIVE_INFINITY]);
    expect([...floatData(tensorFromNumbers('t', DataType.BFLOAT16, [2], [0.5, -3]))]).toEqual([0.5, -3]);
  });

  it('refuses what does not fit', () => {
    expect(() => makeTensor('t', DataType.FLOAT, [3], new Float32Array(2))).toThrow(RangeError);
    expect(() => floatData(int64Tensor('t', [1]))).toThrow(TypeError);
    expect(() => intData(floatTensor('t', [1]))).toThrow(TypeError);
  });

  it('scalars', () => {
    expect(scalarValue(floatTensor('t', [1.5], []))).toBe(1.5);
    expect(scalarValue(int64Tensor('t', [7]))).toBe(7);
    expect(scalarValue(int64Tensor('t', [7, 8]))).toBeUndefined();
    expect(scalarValue(undefined)).toBeUndefined();
  });

  it('sizes and names', () => {
    expect(byteLengthOf(DataType.INT4, 3)).toBe(2);
    expect(byteLengthOf(DataType.INT2, 5)).toBe(2);
    expect(elementSize(DataType.COMPLEX128)).toBe(16);
    expect(dataTypeName(DataType.FLOAT)).toBe('float32');
    expect(dataTypeName(DataType.BFLOAT16)).toBe('bfloat16');
  });
});
