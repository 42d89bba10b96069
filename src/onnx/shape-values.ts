/**
 * Small tensors whose elements are known before running: the integers that shapes are computed from. An element is a number, the
 * name of a dimension, or null where nothing is known of it; booleans are 0 and 1.
 */
import { DataType, type Dim, type Tensor } from './model.ts';
import { elementCount, isFloatType, numberData } from './tensor.ts';

export interface Value {
  dims: number[];
  elements: Dim[];
}

/** Larger tensors are data, not shapes: following them would cost what running them costs. */
export const VALUE_LIMIT = 1024;

export function valueOfTensor(tensor: Tensor): Value | undefined {
  const count = elementCount(tensor.dims);
  if (count > VALUE_LIMIT || tensor.dataType === DataType.STRING) return undefined;
  // External data may not be there when only headers are read, and shapes are never put there.
  if (tensor.data.kind === 'file') return undefined;
  try {
    return { dims: tensor.dims, elements: Array.from(numberData(tensor)) };
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

/** Row-major strides. */
function stridesOf(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length).fill(1);
  for (let i = dims.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * dims[i + 1]!;
  return strides;
}

/** A value of the dimensions `dims` whose element at an index is `at(index)`; undefined beyond the limit. */
export function buildValue(dims: number[], at: (index: readonly number[]) => Dim | undefined): Value | undefined {
  const count = elementCount(dims);
  if (!(count <= VALUE_LIMIT) || dims.some((dim) => !Number.isSafeInteger(dim) || dim < 0)) return undefined;
  const elements: Dim[] = [];
  const index = new Array<number>(dims.length).fill(0);
  for (let n = 0; n < count; n++) {
    elements.push(at(index) ?? null);
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      if (index[axis]! < dims[axis]!) break;
      index[axis] = 0;
    }
  }
  return { dims, elements };
}

/** The element at an index, axes of size 1 repeated as in broadcasting (leading axes of the index beyond the value's rank are dropped). */
export function broadcastElement(value: Value, index: readonly number[]): Dim {
  const strides = stridesOf(value.dims);
  let at = 0;
  const skip = index.length - value.dims.length;
  for (let axis = 0; axis < value.dims.length; axis++) at += (value.dims[axis] === 1 ? 0 : index[axis + skip]!) * strides[axis]!;
  return value.elements[at] ?? null;
}

export function elementAt(value: Value, index: readonly number[]): Dim {
  const strides = stridesOf(value.dims);
  let at = 0;
  for (let axis = 0; axis < value.dims.length; axis++) at += index[axis]! * strides[axis]!;
  return value.elements[at] ?? null;
}

/** Dimensions of a broadcast of known dimensions; undefined where they don't fit. */
export function broadcastSizes(a: readonly number[], b: readonly number[]): number[] | undefined {
  const out: number[] = [];
  for (let i = 1; i <= Math.max(a.length, b.length); i++) {
    const x = a[a.length - i] ?? 1;
    const y = b[b.length - i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    out.unshift(x === 1 ? y : x);
  }
  return out;
}

const number = (apply: (a: number, b: number) => number) => (a: Dim, b: Dim) =>
  typeof a === 'number' && typeof b === 'number' ? finite(apply(a, b)) : null;
const finite = (value: number): number | null => (Number.isNaN(value) ? null : value);
const truth = (apply: (a: number, b: number) => boolean) => number((a, b) => (apply(a, b) ? 1 : 0));

/** What a binary operator makes of two elements. Names survive where the operation leaves them as they are (N + 0, N × 1, …). */
function binary(opType: string, integer: boolean): ((a: Dim, b: Dim) => Dim) | undefined {
  switch (opType) {
    case 'Add':
      return (a, b) => (a === 0 ? b : b === 0 ? a : number((x, y) => x + y)(a, b));
    case 'Sub':
      return (a, b) => (b === 0 ? a : typeof a === 'string' && a === b ? 0 : number((x, y) => x - y)(a, b));
    case 'Mul':
      return (a, b) => (a === 1 ? b : b === 1 ? a : number((x, y) => x * y)(a, b));
    case 'Div':
      return (a, b) =>
        b === 1 ? a : typeof a === 'string' && a === b ? 1 : b === 0 ? null : number((x, y) => (integer ? Math.trunc(x / y) : x / y))(a, b);
    case 'Mod':
      return (a, b) => (b === 0 ? null : number((x, y) => x - Math.floor(x / y) * y)(a, b));
    case 'Pow':
      return number((x, y) => x ** y);
    case 'Max':
      return number(Math.max);
    case 'Min':
      return number(Math.min);
    case 'Equal':
      return (a, b) => (typeof a === 'string' && a === b ? 1 : truth((x, y) => x === y)(a, b));
    case 'Less':
      return truth((x, y) => x < y);
    case 'LessOrEqual':
      return truth((x, y) => x <= y);
    case 'Greater':
      return truth((x, y) => x > y);
    case 'GreaterOrEqual':
      return truth((x, y) => x >= y);
    case 'And':
      return truth((x, y) => x !== 0 && y !== 0);
    case 'Or':
      return truth((x, y) => x !== 0 || y !== 0);
    case 'Xor':
      return truth((x, y) => (x !== 0) !== (y !== 0));
    default:
      return undefined;
  }
}

/** Folds a broadcasting operator over its inputs; undefined where one of them is not known at all or the operator is none of these. */
export function combineValues(opType: string, inputs: readonly (Value | undefined)[], elemType: DataType): Value | undefined {
  const apply = binary(opType, !isFloatType(elemType));
  if (!apply || inputs.length === 0) return undefined;
  let result = inputs[0];
  for (const other of inputs.slice(1)) {
    if (!result || !other) return undefined;
    const [a, b]: [Value, Value] = [result, other];
    const dims = broadcastSizes(a.dims, b.dims);
    if (!dims) return undefined;
    result = buildValue(dims, (index) => apply(broadcastElement(a, index), broadcastElement(b, index)));
  }
  return result;
}

const UNARY: Record<string, (x: number) => number> = {
  Neg: (x) => -x,
  Abs: Math.abs,
  Floor: Math.floor,
  Ceil: Math.ceil,
  Sqrt: Math.sqrt,
  Exp: Math.exp,
  Log: Math.log,
  Reciprocal: (x) => 1 / x,
  Not: (x) => (x === 0 ? 1 : 0),
  Relu: (x) => Math.max(0, x),
  Round: (x) => {
    const floor = Math.floor(x);
    const rest = x - floor;
    return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
  },
};

export function mapValue(opType: string, value: Value | undefined): Value | undefined {
  const apply = UNARY[opType];
  if (!apply || !value) return undefined;
  return { dims: value.dims, elements: value.elements.map((x) => (typeof x === 'number' ? finite(apply(x)) : null)) };
}

/** Cast: numbers are truncated on their way to integers, names stay names. */
export function castValue(value: Value, to: DataType): Value {
  if (isFloatType(to)) return value;
  if (to === DataType.BOOL)
    return { dims: value.dims, elements: value.elements.map((x) => (typeof x === 'number' ? (x === 0 ? 0 : 1) : null)) };
  return { dims: value.dims, elements: value.elements.map((x) => (typeof x === 'number' ? Math.trunc(x) : x)) };
}
