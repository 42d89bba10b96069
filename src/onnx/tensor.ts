/** Tensors' bytes as numbers and back. */
import { fileBytes } from './bytes.ts';
import type { Tensor, TensorData } from './model.ts';
import { DataType } from './model.ts';

/** Bits of one element; 0 for strings and for no type. */
const BITS: Record<DataType, number> = {
  [DataType.UNDEFINED]: 0,
  [DataType.FLOAT]: 32,
  [DataType.UINT8]: 8,
  [DataType.INT8]: 8,
  [DataType.UINT16]: 16,
  [DataType.INT16]: 16,
  [DataType.INT32]: 32,
  [DataType.INT64]: 64,
  [DataType.STRING]: 0,
  [DataType.BOOL]: 8,
  [DataType.FLOAT16]: 16,
  [DataType.DOUBLE]: 64,
  [DataType.UINT32]: 32,
  [DataType.UINT64]: 64,
  [DataType.COMPLEX64]: 64,
  [DataType.COMPLEX128]: 128,
  [DataType.BFLOAT16]: 16,
  [DataType.FLOAT8E4M3FN]: 8,
  [DataType.FLOAT8E4M3FNUZ]: 8,
  [DataType.FLOAT8E5M2]: 8,
  [DataType.FLOAT8E5M2FNUZ]: 8,
  [DataType.UINT4]: 4,
  [DataType.INT4]: 4,
  [DataType.FLOAT4E2M1]: 4,
  [DataType.FLOAT8E8M0]: 8,
  [DataType.UINT2]: 2,
  [DataType.INT2]: 2,
};

/** Whether a number is a TensorProto.DataType that this version knows. */
export function isDataType(value: number): value is DataType {
  return Object.hasOwn(BITS, value);
}

/** A type in numpy's words where it has any: float32, int64, bool; else ONNX's in lower case: bfloat16, float8e5m2, string. */
export function dataTypeName(dataType: DataType): string {
  const name = Object.entries(DataType).find(([, value]) => value === dataType)?.[0] ?? 'undefined';
  return name === 'FLOAT' ? 'float32' : name === 'DOUBLE' ? 'float64' : name.toLowerCase();
}

/** Bytes of one element; a fraction for 4-bit and 2-bit types, 0 for strings. */
export function elementSize(dataType: DataType): number {
  return BITS[dataType] / 8;
}

/** Elements of a tensor of these dimensions; a scalar has 1. */
export function elementCount(dims: readonly number[]): number {
  let count = 1;
  for (const dim of dims) count *= dim;
  return count;
}

/** Bytes of `count` elements in raw_data's layout, where 4-bit and 2-bit elements share bytes. */
export function byteLengthOf(dataType: DataType, count: number): number {
  return BITS[dataType] >= 8 ? (BITS[dataType] / 8) * count : Math.ceil((BITS[dataType] * count) / 8);
}

const FLOAT_TYPES: ReadonlySet<DataType> = new Set([DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE]);
/** FLOAT, FLOAT16, BFLOAT16, DOUBLE. */
export function isFloatType(dataType: DataType): boolean {
  return FLOAT_TYPES.has(dataType);
}

/** Mappings of tensors' stretches of files, as long as something holds on to them. By stretch, not by file: a file may be larger than an array. */
const mapped = new WeakMap<TensorData, WeakRef<Uint8Array>>();

/**
 * A tensor's bytes, little-endian and row-major. Never write to them: they may be a mapped file, where a write ends the process,
 * and other models may share them.
 */
export function tensorBytes(tensor: Tensor): Uint8Array {
  const { data } = tensor;
  if (data.kind === 'bytes') return data.bytes;
  let bytes = mapped.get(data)?.deref();
  if (!bytes) {
    bytes = fileBytes(data.path, data.offset, data.length);
    mapped.set(data, new WeakRef(bytes));
  }
  return bytes;
}

/** A typed view of bytes, or a copy where they don't lie on the type's boundary. */
function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
}

function as<T>(make: new (buffer: ArrayBuffer, offset: number, length: number) => T, bytes: Uint8Array, size: number): T {
  const source = aligned(bytes, size);
  return new make(source.buffer as ArrayBuffer, source.byteOffset, source.byteLength / size);
}

/**
 * A FLOAT, FLOAT16, BFLOAT16 or DOUBLE tensor as float32 (doubles are rounded). May share memory with the tensor: never write to it.
 * Throws TypeError for other types.
 */
export function floatData(tensor: Tensor): Float32Array {
  const bytes = tensorBytes(tensor);
  switch (tensor.dataType) {
    case DataType.FLOAT:
      return as(Float32Array, bytes, 4);
    case DataType.DOUBLE:
      return Float32Array.from(as(Float64Array, bytes, 8));
    case DataType.FLOAT16:
      return float16ToFloat32(as(Uint16Array, bytes, 2));
    case DataType.BFLOAT16: {
      const bits = as(Uint16Array, bytes, 2);
      const out = new Uint32Array(bits.length);
      for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16;
      return new Float32Array(out.buffer);
    }
    default:
      throw new TypeError(`tensor '${tensor.name}' has type ${tensor.dataType}, which is not a float`);
  }
}

/** By a tensor's data, which copies of a model share. */
const finite = new WeakMap<Tensor['data'], boolean>();

/** Whether a float tensor holds no NaN and no infinity. One pass over its values, once for all copies of a model. */
export function isFiniteTensor(tensor: Tensor): boolean {
  let answer = finite.get(tensor.data);
  if (answer === undefined) {
    // 0 · x is 0 but for NaN and infinities, and what is not 0 stays so.
    let sum = 0;
    for (const value of floatData(tensor)) sum += 0 * value;
    answer = sum === 0;
    finite.set(tensor.data, answer);
  }
  return answer;
}

/**
 * An integer or boolean tensor as numbers. INT64 and UINT64 beyond ±2^53 lose their last bits (ONNX's "to the end" markers in
 * Slice are such values, and stay as large as they need to be). Throws TypeError for other types.
 */
export function intData(tensor: Tensor): number[] {
  const bytes = tensorBytes(tensor);
  switch (tensor.dataType) {
    case DataType.INT64:
      return Array.from(as(BigInt64Array, bytes, 8), Number);
    case DataType.UINT64:
      return Array.from(as(BigUint64Array, bytes, 8), Number);
    case DataType.INT32:
      return Array.from(as(Int32Array, bytes, 4));
    case DataType.UINT32:
      return Array.from(as(Uint32Array, bytes, 4));
    case DataType.INT16:
      return Array.from(as(Int16Array, bytes, 2));
    case DataType.UINT16:
      return Array.from(as(Uint16Array, bytes, 2));
    case DataType.INT8:
      return Array.from(as(Int8Array, bytes, 1));
    case DataType.UINT8:
    case DataType.BOOL:
      return Array.from(bytes);
    case DataType.UINT4:
    case DataType.INT4: {
      const out: number[] = [];
      const count = elementCount(tensor.dims);
      for (let i = 0; i < count; i++) {
        const nibble = (bytes[i >> 1]! >> (4 * (i & 1))) & 15;
        out.push(tensor.dataType === DataType.INT4 && nibble > 7 ? nibble - 16 : nibble);
      }
      return out;
    }
    default:
      throw new TypeError(`tensor '${tensor.name}' has type ${tensor.dataType}, which is not an integer`);
  }
}

/** Any numeric tensor as numbers; see `floatData` and `intData` for what is lost. Doubles stay exact. */
export function numberData(tensor: Tensor): ArrayLike<number> {
  if (tensor.dataType === DataType.DOUBLE) return as(Float64Array, tensorBytes(tensor), 8);
  return isFloatType(tensor.dataType) ? floatData(tensor) : intData(tensor);
}

/** The value of a tensor of one element; undefined where it has more, or is not a number. */
export function scalarValue(tensor: Tensor | undefined): number | undefined {
  if (!tensor || elementCount(tensor.dims) !== 1 || tensor.dataType === DataType.STRING) return undefined;
  try {
    return numberData(tensor)[0];
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

type NumberArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/**
 * A tensor over an array's memory (not copied: don't write to it afterwards). The array must be as long as the dimensions say;
 * a Uint8Array also serves as the raw bytes of any type, a Uint16Array as the bits of FLOAT16 and BFLOAT16.
 */
export function makeTensor(name: string, dataType: DataType, dims: readonly number[], data: NumberArray): Tensor {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  const needed = byteLengthOf(dataType, elementCount(dims));
  if (bytes.length !== needed) throw new RangeError(`tensor '${name}' [${dims.join(', ')}] needs ${needed} bytes, got ${bytes.length}`);
  return { name, dataType, dims: [...dims], data: { kind: 'bytes', bytes } };
}

/** An INT64 tensor; one-dimensional unless `dims` says otherwise. */
export function int64Tensor(name: string, values: readonly (number | bigint)[], dims: readonly number[] = [values.length]): Tensor {
  return makeTensor(name, DataType.INT64, dims, BigInt64Array.from(values, BigInt));
}

/** A FLOAT tensor; one-dimensional unless `dims` says otherwise. */
export function floatTensor(name: string, values: ArrayLike<number>, dims: readonly number[] = [values.length]): Tensor {
  return makeTensor(name, DataType.FLOAT, dims, values instanceof Float32Array ? values : Float32Array.from(values));
}

/** A tensor of any float or integer type from numbers: rounded to the type, not clipped (the caller knows its range). */
export function tensorFromNumbers(name: string, dataType: DataType, dims: readonly number[], values: ArrayLike<number>): Tensor {
  switch (dataType) {
    case DataType.FLOAT:
      return makeTensor(name, dataType, dims, Float32Array.from(values));
    case DataType.DOUBLE:
      return makeTensor(name, dataType, dims, Float64Array.from(values));
    case DataType.FLOAT16:
      return makeTensor(name, dataType, dims, Uint16Array.from(values, numberToFloat16));
    case DataType.BFLOAT16:
      return makeTensor(name, dataType, dims, Uint16Array.from(values, numberToBfloat16));
    case DataType.INT64:
      return makeTensor(name, dataType, dims, BigInt64Array.from(Array.from(values), BigInt));
    case DataType.UINT64:
      return makeTensor(name, dataType, dims, BigUint64Array.from(Array.from(values), BigInt));
    case DataType.INT32:
      return makeTensor(name, dataType, dims, Int32Array.from(values));
    case DataType.UINT32:
      return makeTensor(name, dataType, dims, Uint32Array.from(values));
    case DataType.INT16:
      return makeTensor(name, dataType, dims, Int16Array.from(values));
    case DataType.UINT16:
      return makeTensor(name, dataType, dims, Uint16Array.from(values));
    case DataType.INT8:
      return makeTensor(name, dataType, dims, Int8Array.from(values));
    case DataType.UINT8:
    case DataType.BOOL:
      return makeTensor(name, dataType, dims, Uint8Array.from(values));
    default:
      throw new TypeError(`a tensor of type ${dataType} can't be made from numbers`);
  }
}

/** IEEE 754 binary16 → number, exactly. */
export function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** Bits of binary16 numbers → float32, exactly. */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = float16ToNumber(bits[i]!);
  return out;
}

/** float32 → bits of the nearest binary16 numbers; see `numberToFloat16`. */
export function float32ToFloat16(values: Float32Array): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = numberToFloat16(values[i]!);
  return out;
}

const word = new DataView(new ArrayBuffer(4));

/** Number → nearest binary16 (by way of float32, as float tensors are converted), ties to even; beyond 65520 to infinity. */
export function numberToFloat16(value: number): number {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result is subnormal: units of 2^-24.
    const units = Math.abs(word.getFloat32(0)) * 2 ** 24;
    const floor = Math.floor(units);
    const rest = units - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** Number → nearest bfloat16 (by way of float32), ties to even. */
export function numberToBfloat16(value: number): number {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
