/** Element types as JavaScript sees them: views on a tensor's bytes, IEEE half floats, and the conversions that a data set may need. */
import type { ElementType, TensorValue } from '../domain/runner.ts';

/** Bytes of one element. */
export const ELEMENT_BYTES: Record<ElementType, number> = {
  bool: 1,
  int8: 1,
  uint8: 1,
  int16: 2,
  uint16: 2,
  float16: 2,
  int32: 4,
  uint32: 4,
  float32: 4,
  int64: 8,
  uint64: 8,
  float64: 8,
};

export const isFloat = (type: ElementType | 'other'): boolean => type === 'float16' || type === 'float32' || type === 'float64';

/** A half float's value (IEEE 754 binary16), exact. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A table turns the 65536 halves into floats: 256 KB once, a load each after. */
let halves: Float32Array | null = null;
function halfTable(): Float32Array {
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => halfToFloat(bits));
  return halves;
}

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);
/** The nearest half of a float32 value, ties to even; what is too large becomes infinite. */
export function floatToHalf(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14 a half is a multiple of 2^-24. Adding 0.5 to a float32 leaves 24 bits below 1: the sum rounds there, to even.
    scratch[0] = Math.abs(scratch[0]!) + 0.5;
    return sign | (scratchBits[0]! - 0x3f000000);
  }
  const rebased = magnitude - 0x38000000;
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
}

/** The bytes as an array of `length` elements, in place where they are aligned, else as a copy. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
}

/** A float tensor's values: float32 and float64 as they are (a view where possible), float16 widened to float32. */
export function floatValues(tensor: TensorValue): Float32Array | Float64Array {
  const bytes = aligned(tensor.bytes, ELEMENT_BYTES[tensor.type]);
  if (tensor.type === 'float32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  if (tensor.type === 'float64') return new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
  if (tensor.type !== 'float16') throw new TypeError(`${tensor.type} is not a float type`);
  const table = halfTable();
  const raw = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  const out = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = table[raw[i]!]!;
  return out;
}

type IntegerArray = Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | BigInt64Array | BigUint64Array;
/** An integer (or bool) tensor's values, a view where possible. */
export function integerValues(type: ElementType, raw: Uint8Array): IntegerArray {
  const size = ELEMENT_BYTES[type];
  const { buffer, byteOffset, byteLength } = aligned(raw, size);
  const length = byteLength / size;
  switch (type) {
    case 'int8':
      return new Int8Array(buffer, byteOffset, length);
    case 'int16':
      return new Int16Array(buffer, byteOffset, length);
    case 'uint16':
      return new Uint16Array(buffer, byteOffset, length);
    case 'int32':
      return new Int32Array(buffer, byteOffset, length);
    case 'uint32':
      return new Uint32Array(buffer, byteOffset, length);
    case 'int64':
      return new BigInt64Array(buffer, byteOffset, length);
    case 'uint64':
      return new BigUint64Array(buffer, byteOffset, length);
    case 'bool':
    case 'uint8':
      return new Uint8Array(buffer, byteOffset, length);
    default:
      throw new TypeError(`${type} is not an integer type`);
  }
}

/** Index of the first NaN or infinite value of a float tensor, −1 where there is none. Two passes only where there is one. */
export function firstNonFinite(type: ElementType, raw: Uint8Array): number {
  if (type === 'float16') {
    const bytes = aligned(raw, 2);
    const values = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    for (let i = 0; i < values.length; i++) if ((values[i]! & 0x7c00) === 0x7c00) return i;
    return -1;
  }
  const values = floatValues({ type, dims: [], bytes: raw });
  // x − x is 0 for finite numbers and NaN for the others; four sums keep the adder's pipeline full.
  let [a, b, c, d] = [0, 0, 0, 0];
  const even = values.length & ~3;
  for (let i = 0; i < even; i += 4) {
    a += values[i]! - values[i]!;
    b += values[i + 1]! - values[i + 1]!;
    c += values[i + 2]! - values[i + 2]!;
    d += values[i + 3]! - values[i + 3]!;
  }
  for (let i = even; i < values.length; i++) a += values[i]! - values[i]!;
  if (a + b + c + d === 0) return -1;
  return values.findIndex((value: number) => !Number.isFinite(value));
}

const INTEGER_BITS: Partial<Record<ElementType, { bits: number; signed: boolean }>> = {
  int8: { bits: 8, signed: true },
  int16: { bits: 16, signed: true },
  int32: { bits: 32, signed: true },
  int64: { bits: 64, signed: true },
  uint8: { bits: 8, signed: false },
  uint16: { bits: 16, signed: false },
  uint32: { bits: 32, signed: false },
  uint64: { bits: 64, signed: false },
};

/** Whether an array of type `from` may feed an input of type `to`: the same type, any float for any float, an integer for one that holds all its values. */
export function convertible(from: ElementType, to: ElementType): boolean {
  if (from === to || (isFloat(from) && isFloat(to))) return true;
  const [a, b] = [INTEGER_BITS[from], INTEGER_BITS[to]];
  if (a === undefined || b === undefined) return false;
  return a.signed === b.signed ? b.bits > a.bits : b.signed && b.bits > a.bits;
}

/** Converts values between types that `convertible` allows. Bytes of bools become 0 or 1. */
export function convert(from: ElementType, to: ElementType, raw: Uint8Array): Uint8Array {
  const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
  if (from === 'bool' && to === 'bool') return raw.every((byte) => byte < 2) ? raw : raw.map((byte) => (byte ? 1 : 0));
  if (from === to) return raw;
  if (isFloat(from)) {
    const values = floatValues({ type: from, dims: [], bytes: raw });
    if (to === 'float32') return bytesOf(values instanceof Float32Array ? values : Float32Array.from(values));
    if (to === 'float64') return bytesOf(Float64Array.from(values));
    const out = new Uint16Array(values.length);
    for (let i = 0; i < values.length; i++) out[i] = floatToHalf(values[i]!);
    return bytesOf(out);
  }
  const values = integerValues(from, raw);
  const out = new Uint8Array(values.length * ELEMENT_BYTES[to]);
  const target = integerValues(to, out);
  if (target instanceof BigInt64Array || target instanceof BigUint64Array)
    for (let i = 0; i < values.length; i++) target[i] = BigInt(values[i]!);
  else for (let i = 0; i < values.length; i++) target[i] = Number(values[i]!);
  return out;
}
