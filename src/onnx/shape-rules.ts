/**
 * What each operator makes of its inputs' types and shapes, after ONNX's Operators.md (and ONNX Runtime's ContribOperators.md for
 * com.microsoft). A rule sets what it knows and leaves the rest; an operator without a row has unknown outputs.
 */
import { attrFloats, attrInt, attrInts, attrString } from './attributes.ts';
import { DataType, type Dim, type Node } from './model.ts';
import {
  broadcastElement,
  broadcastSizes,
  buildValue,
  castValue,
  combineValues,
  elementAt,
  mapValue,
  VALUE_LIMIT,
  type Value,
  valueOfTensor,
} from './shape-values.ts';
import { isDataType } from './tensor.ts';

/** What a rule sees of its node. Inputs and outputs by position; UNDEFINED = the element type is not known. */
export interface Scope {
  node: Node;
  /** Version of the default domain. */
  opset: number;
  has(input: number): boolean;
  elem(input: number): DataType;
  shape(input: number): readonly Dim[] | undefined;
  value(input: number): Value | undefined;
  set(output: number, elemType: DataType, shape?: readonly Dim[]): void;
  setValue(output: number, value: Value | undefined): void;
}
type Rule = (s: Scope) => void;

// --- dimensions

function broadcastDim(a: Dim, b: Dim): Dim {
  if (a === b || b === 1) return a;
  if (a === 1) return b;
  // One of them is not known: where the other is above 1, the unknown is 1 or the same.
  if (typeof a === 'number') return a;
  return typeof b === 'number' ? b : null;
}

/** Undefined where one of the ranks is unknown. */
function broadcast(...shapes: (readonly Dim[] | undefined)[]): Dim[] | undefined {
  let result: Dim[] | undefined;
  for (const shape of shapes) {
    if (!shape) return undefined;
    if (!result) {
      result = [...shape];
      continue;
    }
    const out: Dim[] = [];
    for (let i = 1; i <= Math.max(result.length, shape.length); i++) {
      out.unshift(broadcastDim(i > result.length ? 1 : result[result.length - i]!, i > shape.length ? 1 : shape[shape.length - i]!));
    }
    result = out;
  }
  return result;
}

/** An axis counted from the front; undefined where there is no such axis. */
function axisOf(axis: number, rank: number): number | undefined {
  const front = axis < 0 ? axis + rank : axis;
  return Number.isInteger(front) && front >= 0 && front < rank ? front : undefined;
}

function product(dims: readonly Dim[]): Dim {
  const others = dims.filter((dim) => dim !== 1);
  if (others.length === 0) return 1;
  if (others.length === 1) return others[0]!;
  if (others.includes(0)) return 0;
  return others.every((dim) => typeof dim === 'number') ? others.reduce((a, b) => a * b, 1) : null;
}

/** What is left of the elements of `from` for one dimension beside those of `to`. Equal names cancel. */
function quotient(from: readonly Dim[], to: readonly Dim[]): Dim {
  const rest = [...from];
  let divisor = 1;
  for (const dim of to) {
    if (typeof dim === 'number') divisor *= dim;
    else {
      const at = dim === null ? -1 : rest.indexOf(dim);
      if (at < 0) return null;
      rest.splice(at, 1);
    }
  }
  let dividend = 1;
  let name: string | undefined;
  for (const dim of rest) {
    if (typeof dim === 'number') dividend *= dim;
    else if (dim === null || name !== undefined) return null;
    else name = dim;
  }
  if (name !== undefined) return dividend === divisor ? name : null;
  return divisor > 0 && dividend % divisor === 0 ? dividend / divisor : null;
}

const unknowns = (rank: number): Dim[] => new Array<Dim>(rank).fill(null);

/** All elements as numbers, or undefined. */
function numbers(value: Value | undefined): number[] | undefined {
  return value?.elements.every((x) => typeof x === 'number') ? (value.elements as number[]) : undefined;
}
function scalar(value: Value | undefined): number | undefined {
  return value?.elements.length === 1 && typeof value.elements[0] === 'number' ? value.elements[0] : undefined;
}

/** Length of a one-dimensional input, where it is known and small enough to make a shape of. */
function lengthOf(s: Scope, input: number): number | undefined {
  const shape = s.shape(input);
  const length = shape?.length === 1 ? shape[0] : undefined;
  return typeof length === 'number' && length <= 32 ? length : undefined;
}

/** Axes from an attribute (older versions) or an input: a list, 'none' where left out, undefined where not known. */
function axesOf(s: Scope, input: number): number[] | 'none' | undefined {
  const attribute = attrInts(s.node, 'axes');
  if (attribute) return attribute;
  if (!s.has(input)) return 'none';
  return numbers(s.value(input));
}

// --- families

/** Output 0 as input `from`. */
const like =
  (from = 0): Rule =>
  (s) =>
    s.set(0, s.elem(from), s.shape(from));

/** Arithmetic with broadcasting over all inputs. */
const arithmetic: Rule = (s) => {
  const inputs = s.node.inputs.map((_, i) => i);
  s.set(0, s.elem(0), broadcast(...inputs.map((i) => s.shape(i))));
  s.setValue(
    0,
    combineValues(
      s.node.opType,
      inputs.map((i) => s.value(i)),
      s.elem(0),
    ),
  );
};

/** Broadcasting with a boolean result. */
const comparison: Rule = (s) => {
  s.set(0, DataType.BOOL, broadcast(s.shape(0), s.shape(1)));
  s.setValue(0, combineValues(s.node.opType, [s.value(0), s.value(1)], s.elem(0)));
};

const unary: Rule = (s) => {
  s.set(0, s.elem(0), s.shape(0));
  s.setValue(0, mapValue(s.node.opType, s.value(0)));
};

/** One dimension of a convolution or pool. */
function windowDim(
  size: Dim,
  kernel: Dim,
  stride: number,
  dilation: number,
  head: number,
  tail: number,
  autoPad: string,
  ceil: boolean,
): Dim {
  if (!(stride > 0) || !(dilation > 0)) return null;
  if (autoPad === 'SAME_UPPER' || autoPad === 'SAME_LOWER') {
    if (stride === 1) return size;
    return typeof size === 'number' ? Math.ceil(size / stride) : null;
  }
  if (typeof kernel !== 'number') return null;
  const [before, after] = autoPad === 'VALID' ? [0, 0] : [head, tail];
  const window = dilation * (kernel - 1) + 1;
  if (stride === 1 && before + after === window - 1) return size;
  if (typeof size !== 'number') return null;
  const room = size + before + after - window;
  if (room < 0) return null;
  if (!ceil) return Math.floor(room / stride) + 1;
  const out = Math.ceil(room / stride) + 1;
  // The last window has to start inside the input or the padding before it.
  return (out - 1) * stride >= size + before ? out - 1 : out;
}

/** Spatial dimensions after a convolution or pool; undefined where the attributes don't fit the rank. */
function windowed(node: Node, spatial: readonly Dim[], kernel: readonly Dim[], ceil = false): Dim[] | undefined {
  const rank = spatial.length;
  const strides = attrInts(node, 'strides', new Array<number>(rank).fill(1));
  const dilations = attrInts(node, 'dilations', new Array<number>(rank).fill(1));
  const pads = attrInts(node, 'pads', new Array<number>(2 * rank).fill(0));
  const autoPad = attrString(node, 'auto_pad', 'NOTSET');
  if (kernel.length !== rank || strides.length !== rank || dilations.length !== rank || pads.length !== 2 * rank) return undefined;
  return spatial.map((size, i) => windowDim(size, kernel[i]!, strides[i]!, dilations[i]!, pads[i]!, pads[rank + i]!, autoPad, ceil));
}

/** Convolution of input `x` with weights at input `w`. */
function conv(s: Scope, x: number, w: number, elemType: DataType): void {
  const input = s.shape(x);
  const weights = s.shape(w);
  if (!input || input.length < 3) {
    if (weights && weights.length >= 3) s.set(0, elemType, [input?.[0] ?? null, weights[0]!, ...unknowns(weights.length - 2)]);
    else s.set(0, elemType);
    return;
  }
  const kernel = attrInts(s.node, 'kernel_shape') ?? weights?.slice(2);
  const spatial = kernel && windowed(s.node, input.slice(2), kernel);
  s.set(0, elemType, [input[0]!, weights?.[0] ?? null, ...(spatial ?? unknowns(input.length - 2))]);
}

const convTranspose: Rule = (s) => {
  const input = s.shape(0);
  const weights = s.shape(1);
  const elemType = s.elem(0);
  if (!input || input.length < 3) return s.set(0, elemType);
  const rank = input.length - 2;
  const { node } = s;
  const group = attrInt(node, 'group', 1);
  const channels = weights && typeof weights[1] === 'number' ? weights[1] * group : null;
  const kernel = attrInts(node, 'kernel_shape') ?? weights?.slice(2) ?? unknowns(rank);
  const strides = attrInts(node, 'strides', new Array<number>(rank).fill(1));
  const dilations = attrInts(node, 'dilations', new Array<number>(rank).fill(1));
  const extra = attrInts(node, 'output_padding', new Array<number>(rank).fill(0));
  const pads = attrInts(node, 'pads', new Array<number>(2 * rank).fill(0));
  const autoPad = attrString(node, 'auto_pad', 'NOTSET');
  const given = attrInts(node, 'output_shape');
  const spatial = input.slice(2).map((size, i): Dim => {
    if (given?.length === rank) return given[i]!;
    if (given?.length === rank + 2) return given[i + 2]!;
    const k = kernel[i] ?? null;
    if (typeof size !== 'number') return null;
    if (autoPad === 'SAME_UPPER' || autoPad === 'SAME_LOWER') return size * (strides[i] ?? 1);
    if (typeof k !== 'number') return null;
    const [before, after] = autoPad === 'VALID' ? [0, 0] : [pads[i] ?? 0, pads[rank + i] ?? 0];
    return (strides[i] ?? 1) * (size - 1) + (extra[i] ?? 0) + (dilations[i] ?? 1) * (k - 1) + 1 - before - after;
  });
  s.set(0, elemType, [input[0]!, channels, ...spatial]);
};

/** Pools with a window; `x` is the input's position. Channels last where the attribute says so (com.microsoft). */
const pool =
  (indices = false): Rule =>
  (s) => {
    const input = s.shape(0);
    const kernel = attrInts(s.node, 'kernel_shape');
    const elemType = s.elem(0);
    const last = attrInt(s.node, 'channels_last', 0) === 1;
    let shape: Dim[] | undefined;
    if (input && input.length >= 3 && kernel) {
      const spatial = windowed(s.node, last ? input.slice(1, -1) : input.slice(2), kernel, attrInt(s.node, 'ceil_mode', 0) === 1);
      const inner = spatial ?? unknowns(input.length - 2);
      shape = last ? [input[0]!, ...inner, input.at(-1)!] : [input[0]!, input[1]!, ...inner];
    }
    s.set(0, elemType, shape);
    if (indices) s.set(1, DataType.INT64, shape);
  };

const globalPool: Rule = (s) => {
  const input = s.shape(0);
  const last = attrInt(s.node, 'channels_last', 0) === 1;
  if (!input || input.length < 2) return s.set(0, s.elem(0));
  const ones = new Array<Dim>(input.length - 2).fill(1);
  s.set(0, s.elem(0), last ? [input[0]!, ...ones, input.at(-1)!] : [input[0]!, input[1]!, ...ones]);
};

/** numpy.matmul of inputs a and b. */
function matmul(s: Scope, a: number, b: number, elemType: DataType, transA = false, transB = false): void {
  const x = s.shape(a);
  const y = s.shape(b);
  if (!x || !y || x.length === 0 || y.length === 0) {
    s.set(0, elemType);
    return;
  }
  const flip = (shape: readonly Dim[], trans: boolean) =>
    trans && shape.length >= 2 ? [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!] : [...shape];
  const left = x.length === 1 ? [1, ...x] : flip(x, transA);
  const right = y.length === 1 ? [...y, 1] : flip(y, transB);
  const outer = broadcast(left.slice(0, -2), right.slice(0, -2))!;
  s.set(0, elemType, [...outer, ...(x.length === 1 ? [] : [left.at(-2)!]), ...(y.length === 1 ? [] : [right.at(-1)!])]);
}

function gemm(s: Scope, a: number, b: number, elemType: DataType): void {
  const x = s.shape(a);
  const y = s.shape(b);
  const rows = x?.length === 2 ? x[attrInt(s.node, 'transA', 0) ? 1 : 0]! : null;
  const columns = y?.length === 2 ? y[attrInt(s.node, 'transB', 0) ? 0 : 1]! : null;
  s.set(0, elemType, [rows, columns]);
}

/** Reductions: axes from an attribute or an input. */
const reduce: Rule = (s) => {
  const input = s.shape(0);
  const keep = attrInt(s.node, 'keepdims', 1) === 1;
  const axes = axesOf(s, 1);
  const elemType = s.elem(0);
  if (!input) return s.set(0, elemType);
  if (axes === undefined) {
    const count = lengthOf(s, 1);
    s.set(0, elemType, keep ? unknowns(input.length) : count === undefined ? undefined : unknowns(Math.max(0, input.length - count)));
    return;
  }
  const all = axes === 'none' || axes.length === 0;
  if (all && attrInt(s.node, 'noop_with_empty_axes', 0) === 1) return s.set(0, elemType, input);
  const gone = new Set(all ? input.map((_, i) => i) : axes.map((axis) => axisOf(axis, input.length)));
  s.set(0, elemType, keep ? input.map((dim, i) => (gone.has(i) ? 1 : dim)) : input.filter((_, i) => !gone.has(i)));
  const values = numbers(s.value(0));
  if (values && gone.size === input.length && values.length > 0) {
    const fold: Record<string, () => number> = {
      ReduceProd: () => values.reduce((a, b) => a * b, 1),
      ReduceSum: () => values.reduce((a, b) => a + b, 0),
      ReduceMax: () => Math.max(...values),
      ReduceMin: () => Math.min(...values),
    };
    const folded = fold[s.node.opType]?.();
    if (folded !== undefined) s.setValue(0, { dims: keep ? input.map(() => 1) : [], elements: [folded] });
  }
};

const argReduce: Rule = (s) => {
  const input = s.shape(0);
  const axis = input && axisOf(attrInt(s.node, 'axis', 0), input.length);
  if (!input || axis === undefined) return s.set(0, DataType.INT64);
  const keep = attrInt(s.node, 'keepdims', 1) === 1;
  s.set(0, DataType.INT64, keep ? input.map((dim, i) => (i === axis ? 1 : dim)) : input.filter((_, i) => i !== axis));
};

// --- moving data

const reshape: Rule = (s) => {
  const input = s.shape(0);
  const elemType = s.elem(0);
  const target = s.value(1);
  if (!target) {
    const rank = lengthOf(s, 1);
    s.set(0, elemType, rank === undefined ? undefined : unknowns(rank));
    return;
  }
  const allowZero = attrInt(s.node, 'allowzero', 0) === 1;
  const dims: Dim[] = target.elements.map((dim, i) => (dim === 0 && !allowZero ? (input?.[i] ?? null) : dim));
  const open = dims.flatMap((dim, i) => (dim === -1 || dim === null ? [i] : []));
  if (open.length === 1)
    dims[open[0]!] = input
      ? quotient(
          input,
          dims.filter((_, i) => i !== open[0]),
        )
      : null;
  const shape = dims.map((dim) => (dim === -1 ? null : dim));
  s.set(0, elemType, shape);
  const data = s.value(0);
  if (data && shape.every((dim) => typeof dim === 'number')) s.setValue(0, { dims: shape as number[], elements: data.elements });
};

const flatten: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, s.elem(0), [null, null]);
  const axis = attrInt(s.node, 'axis', 1);
  const at = axis < 0 ? axis + input.length : axis;
  s.set(0, s.elem(0), [product(input.slice(0, at)), product(input.slice(at))]);
};

const squeeze: Rule = (s) => {
  const input = s.shape(0);
  const axes = axesOf(s, 1);
  if (!input || axes === undefined) {
    const count = lengthOf(s, 1);
    return s.set(0, s.elem(0), input && count !== undefined && count <= input.length ? unknowns(input.length - count) : undefined);
  }
  // Without axes all ones go; a free dimension may be one, too.
  if (axes === 'none' && input.some((dim) => typeof dim !== 'number')) return s.set(0, s.elem(0));
  const gone = new Set(
    axes === 'none' ? input.flatMap((dim, i) => (dim === 1 ? [i] : [])) : axes.map((axis) => axisOf(axis, input.length)),
  );
  const shape = input.filter((_, i) => !gone.has(i));
  s.set(0, s.elem(0), shape);
  const data = s.value(0);
  if (data) s.setValue(0, { dims: data.dims.filter((_, i) => !gone.has(i)), elements: data.elements });
};

const unsqueeze: Rule = (s) => {
  const input = s.shape(0);
  const axes = axesOf(s, 1);
  if (!input || axes === undefined || axes === 'none') {
    const count = lengthOf(s, 1);
    return s.set(0, s.elem(0), input && count !== undefined ? unknowns(input.length + count) : undefined);
  }
  const rank = input.length + axes.length;
  const ones = new Set(axes.map((axis) => axisOf(axis, rank)));
  if (ones.has(undefined) || ones.size !== axes.length) return s.set(0, s.elem(0));
  const spread = <T>(dims: readonly T[], one: T): T[] => {
    const rest = [...dims];
    return Array.from({ length: rank }, (_, i) => (ones.has(i) ? one : rest.shift()!));
  };
  s.set(0, s.elem(0), spread<Dim>(input, 1));
  const data = s.value(0);
  if (data) s.setValue(0, { dims: spread<number>(data.dims, 1), elements: data.elements });
};

const transpose: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, s.elem(0));
  const perm = attrInts(
    s.node,
    'perm',
    input.map((_, i) => input.length - 1 - i),
  );
  if (perm.length !== input.length || perm.some((axis) => axisOf(axis, input.length) === undefined)) return s.set(0, s.elem(0));
  s.set(
    0,
    s.elem(0),
    perm.map((axis) => input[axis]!),
  );
  const data = s.value(0);
  if (data?.dims.length === perm.length) {
    s.setValue(
      0,
      buildValue(
        perm.map((axis) => data.dims[axis]!),
        (index) => {
          const source = new Array<number>(perm.length);
          perm.forEach((axis, i) => {
            source[axis] = index[i]!;
          });
          return elementAt(data, source);
        },
      ),
    );
  }
};

const concat: Rule = (s) => {
  const count = s.node.inputs.length;
  const shapes = Array.from({ length: count }, (_, i) => s.shape(i));
  const known = shapes.find((shape) => shape !== undefined);
  const axis = known && axisOf(attrInt(s.node, 'axis', s.node.opType === 'Concat' ? 1 : 0), known.length);
  if (!known || axis === undefined) return s.set(0, s.elem(0));
  const shape = known.map((_, i): Dim => {
    const dims = shapes.map((one) => one?.[i] ?? null);
    if (i === axis)
      return dims.every((dim) => typeof dim === 'number') ? (dims as number[]).reduce((a, b) => a + b, 0) : count === 1 ? dims[0]! : null;
    return dims.find((dim) => typeof dim === 'number') ?? dims.find((dim) => dim !== null) ?? null;
  });
  s.set(0, s.elem(0), shape);
  const values = Array.from({ length: count }, (_, i) => s.value(i));
  // A part that is not known stays unknown element by element, as long as its length is known.
  if (known.length === 1 && values.some(Boolean)) {
    const elements: Dim[] = [];
    for (let i = 0; i < count; i++) {
      const length = shapes[i]?.[0];
      if (values[i]) elements.push(...values[i]!.elements);
      else if (typeof length === 'number' && length <= VALUE_LIMIT) elements.push(...unknowns(length));
      else return;
    }
    if (elements.length <= VALUE_LIMIT) s.setValue(0, { dims: [elements.length], elements });
  } else if (values.every((value): value is Value => value !== undefined && value.dims.length === known.length)) {
    const total = values.reduce((sum, value) => sum + value.dims[axis]!, 0);
    const dims = values[0]!.dims.map((dim, i) => (i === axis ? total : dim));
    s.setValue(
      0,
      buildValue(dims, (index) => {
        let at = index[axis]!;
        let part = 0;
        while (part < values.length - 1 && at >= values[part]!.dims[axis]!) at -= values[part++]!.dims[axis]!;
        return elementAt(
          values[part]!,
          index.map((n, i) => (i === axis ? at : n)),
        );
      }),
    );
  }
};

const split: Rule = (s) => {
  const input = s.shape(0);
  const outputs = s.node.outputs.length;
  const axis = input && axisOf(attrInt(s.node, 'axis', 0), input.length);
  const sizes = attrInts(s.node, 'split') ?? numbers(s.value(1));
  const given = s.has(1) || s.node.attributes.has('split');
  for (let i = 0; i < outputs; i++) {
    if (!input || axis === undefined) {
      s.set(i, s.elem(0));
      continue;
    }
    const whole = input[axis]!;
    let size: Dim = null;
    if (sizes) size = sizes[i] ?? null;
    else if (!given && typeof whole === 'number') {
      const chunk = Math.ceil(whole / outputs);
      size = Math.min(chunk, whole - chunk * i);
    }
    s.set(
      i,
      s.elem(0),
      input.map((dim, k) => (k === axis ? size : dim)),
    );
    const data = s.value(0);
    if (data?.dims.length === 1 && sizes) {
      const from = sizes.slice(0, i).reduce((a, b) => a + b, 0);
      const elements = data.elements.slice(from, from + (sizes[i] ?? 0));
      s.setValue(i, { dims: [elements.length], elements });
    }
  }
};

const slice: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, s.elem(0));
  const byAttribute = s.opset < 10;
  const part = (name: string, i: number): Dim[] | undefined => (byAttribute ? attrInts(s.node, name) : s.value(i)?.elements);
  const starts = part('starts', 1);
  const ends = part('ends', 2);
  const count = starts?.length ?? ends?.length ?? lengthOf(s, 1);
  const hasAxes = byAttribute ? s.node.attributes.has('axes') : s.has(3);
  const axes = hasAxes ? part('axes', 3) : count === undefined ? undefined : Array.from({ length: count }, (_, i) => i);
  if (!axes || axes.some((axis) => typeof axis !== 'number')) return s.set(0, s.elem(0), unknowns(input.length));
  const steps = !byAttribute && s.has(4) ? part('steps', 4) : axes.map(() => 1);
  const shape: Dim[] = [...input];
  const ranges: ({ start: number; step: number } | undefined)[] = input.map(() => ({ start: 0, step: 1 }));
  (axes as number[]).forEach((rawAxis, i) => {
    const axis = axisOf(rawAxis, input.length);
    if (axis === undefined) return;
    const dim = input[axis]!;
    const [start, end, step] = [starts?.[i] ?? null, ends?.[i] ?? null, steps?.[i] ?? null];
    ranges[axis] = undefined;
    shape[axis] = null;
    if (step === 1 && start === 0 && (end === dim || (typeof end === 'number' && end >= 2 ** 31 - 1))) {
      shape[axis] = dim;
      ranges[axis] = { start: 0, step: 1 };
      return;
    }
    if (typeof dim !== 'number' || typeof start !== 'number' || typeof end !== 'number' || typeof step !== 'number' || step === 0) return;
    const clamp = (at: number, low: number, high: number) => Math.min(Math.max(at < 0 ? at + dim : at, low), high);
    const from = step > 0 ? clamp(start, 0, dim) : clamp(start, 0, dim - 1);
    const to = step > 0 ? clamp(end, 0, dim) : clamp(end, -1, dim - 1);
    shape[axis] = Math.max(0, Math.ceil((to - from) / step));
    ranges[axis] = { start: from, step };
  });
  s.set(0, s.elem(0), shape);
  const data = s.value(0);
  if (data && data.dims.length === input.length && shape.every((dim) => typeof dim === 'number') && ranges.every(Boolean)) {
    s.setValue(
      0,
      buildValue(shape as number[], (index) =>
        elementAt(
          data,
          index.map((n, axis) => ranges[axis]!.start + n * ranges[axis]!.step),
        ),
      ),
    );
  }
};

const gather: Rule = (s) => {
  const data = s.shape(0);
  const indices = s.shape(1);
  const axis = data && axisOf(attrInt(s.node, 'axis', 0), data.length);
  if (!data || !indices || axis === undefined) return s.set(0, s.elem(0));
  s.set(0, s.elem(0), [...data.slice(0, axis), ...indices, ...data.slice(axis + 1)]);
  const source = s.value(0);
  const wanted = s.value(1);
  if (source?.dims.length === data.length && wanted) {
    const dims = [...source.dims.slice(0, axis), ...wanted.dims, ...source.dims.slice(axis + 1)];
    s.setValue(
      0,
      buildValue(dims, (index) => {
        const at = elementAt(wanted, index.slice(axis, axis + wanted.dims.length));
        const size = source.dims[axis]!;
        if (typeof at !== 'number' || at < -size || at >= size) return null;
        return elementAt(source, [...index.slice(0, axis), at < 0 ? at + size : at, ...index.slice(axis + wanted.dims.length)]);
      }),
    );
  }
};

const expand: Rule = (s) => {
  const target = s.value(1);
  const rank = lengthOf(s, 1);
  const to = target?.elements ?? (rank === undefined ? undefined : unknowns(rank));
  s.set(0, s.elem(0), broadcast(s.shape(0), to));
  const data = s.value(0);
  const sizes = numbers(target);
  const dims = data && sizes && broadcastSizes(data.dims, sizes);
  if (data && dims)
    s.setValue(
      0,
      buildValue(dims, (index) => broadcastElement(data, index)),
    );
};

const tile: Rule = (s) => {
  const input = s.shape(0);
  const repeats = s.value(1)?.elements;
  if (!input) return s.set(0, s.elem(0));
  s.set(
    0,
    s.elem(0),
    input.map((dim, i) => product([dim, repeats?.[i] ?? null])),
  );
  const data = s.value(0);
  const times = numbers(s.value(1));
  if (data && times?.length === data.dims.length) {
    s.setValue(
      0,
      buildValue(
        data.dims.map((dim, i) => dim * times[i]!),
        (index) =>
          elementAt(
            data,
            index.map((n, i) => n % data.dims[i]!),
          ),
      ),
    );
  }
};

const pad: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, s.elem(0));
  const pads = attrInts(s.node, 'pads') ?? attrInts(s.node, 'paddings') ?? s.value(1)?.elements;
  const axes = s.has(3) ? numbers(s.value(3)) : input.map((_, i) => i);
  if (!pads || !axes || pads.length !== 2 * axes.length) return s.set(0, s.elem(0), unknowns(input.length));
  const shape: Dim[] = [...input];
  axes.forEach((axis, i) => {
    const at = axisOf(axis, input.length);
    if (at === undefined) return;
    const [dim, before, after] = [input[at]!, pads[i]!, pads[axes.length + i]!];
    if (before === 0 && after === 0) return;
    shape[at] = typeof dim === 'number' && typeof before === 'number' && typeof after === 'number' ? dim + before + after : null;
  });
  s.set(0, s.elem(0), shape);
};

/** Upsample and Resize: `scales` and `sizes` by position or attribute. */
const resize: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, s.elem(0));
  const upsample = s.node.opType === 'Upsample' || s.opset < 11;
  const scales = attrFloats(s.node, 'scales') ?? numbers(s.value(upsample ? 1 : 2));
  const sizes = upsample ? undefined : s.value(3)?.elements;
  const axes = attrInts(
    s.node,
    'axes',
    input.map((_, i) => i),
  ).map((axis) => axisOf(axis, input.length));
  const policy = attrString(s.node, 'keep_aspect_ratio_policy', 'stretch');
  const shape: Dim[] = [...input];
  const unknownSize = !(scales && scales.length === axes.length) && !(sizes && sizes.length === axes.length);
  let common: number | undefined;
  if (sizes && policy !== 'stretch') {
    const ratios = axes.map((axis, i) =>
      axis !== undefined && typeof sizes[i] === 'number' && typeof input[axis] === 'number' ? sizes[i] / input[axis] : Number.NaN,
    );
    common = policy === 'not_larger' ? Math.min(...ratios) : Math.max(...ratios);
  }
  axes.forEach((axis, i) => {
    if (axis === undefined) return;
    const dim = input[axis]!;
    if (unknownSize) shape[axis] = null;
    else if (common !== undefined) shape[axis] = typeof dim === 'number' && Number.isFinite(common) ? Math.round(dim * common) : null;
    else if (sizes?.length === axes.length) shape[axis] = sizes[i]!;
    else if (scales![i] !== 1) shape[axis] = typeof dim === 'number' ? Math.floor(dim * scales![i]!) : null;
  });
  s.set(0, s.elem(0), shape);
};

const depthToSpace: Rule = (s) => {
  const input = s.shape(0);
  const block = attrInt(s.node, 'blocksize', 1);
  if (input?.length !== 4) return s.set(0, s.elem(0));
  const [n, c, h, w] = input as [Dim, Dim, Dim, Dim];
  const times = (dim: Dim, by: number) => (typeof dim === 'number' ? dim * by : null);
  if (s.node.opType === 'DepthToSpace') s.set(0, s.elem(0), [n, times(c, 1 / (block * block)), times(h, block), times(w, block)]);
  else s.set(0, s.elem(0), [n, times(c, block * block), times(h, 1 / block), times(w, 1 / block)]);
};

// --- shapes as values

const shapeOf: Rule = (s) => {
  const input = s.shape(0);
  if (!input) return s.set(0, DataType.INT64, [null]);
  const clamp = (at: number) => Math.min(Math.max(at < 0 ? at + input.length : at, 0), input.length);
  const elements = input.slice(clamp(attrInt(s.node, 'start', 0)), clamp(attrInt(s.node, 'end', input.length)));
  s.set(0, DataType.INT64, [elements.length]);
  s.setValue(0, { dims: [elements.length], elements });
};

const constantOfShape: Rule = (s) => {
  const attribute = s.node.attributes.get('value');
  const tensor = attribute?.kind === 'tensor' ? attribute.value : undefined;
  const elemType = tensor?.dataType ?? DataType.FLOAT;
  const target = s.value(0);
  const rank = lengthOf(s, 0);
  s.set(0, elemType, target?.elements ?? (rank === undefined ? undefined : unknowns(rank)));
  const dims = numbers(target);
  const fill = tensor ? valueOfTensor(tensor)?.elements[0] : 0;
  if (dims && fill !== undefined)
    s.setValue(
      0,
      buildValue(dims, () => fill),
    );
};

const range: Rule = (s) => {
  const [start, limit, delta] = [scalar(s.value(0)), scalar(s.value(1)), scalar(s.value(2))];
  const limitName = s.value(1)?.elements[0];
  if (start === undefined || limit === undefined || delta === undefined || delta === 0) {
    s.set(0, s.elem(0), [start === 0 && delta === 1 && typeof limitName === 'string' ? limitName : null]);
    return;
  }
  const count = Math.max(0, Math.ceil((limit - start) / delta));
  s.set(0, s.elem(0), [count]);
  s.setValue(
    0,
    buildValue([count], ([i]) => start + i! * delta),
  );
};

const cast: Rule = (s) => {
  const to = attrInt(s.node, 'to', 0);
  if (!isDataType(to)) return;
  s.set(0, to, s.shape(0));
  const value = s.value(0);
  if (value) s.setValue(0, castValue(value, to));
};

const where: Rule = (s) => {
  s.set(0, s.elem(1) || s.elem(2), broadcast(s.shape(0), s.shape(1), s.shape(2)));
  const [condition, yes, no] = [s.value(0), s.value(1), s.value(2)];
  if (!condition || !yes || !no) return;
  const some = broadcastSizes(condition.dims, yes.dims);
  const dims = some && broadcastSizes(some, no.dims);
  if (!dims) return;
  s.setValue(
    0,
    buildValue(dims, (index) => {
      const chosen = broadcastElement(condition, index);
      const [a, b] = [broadcastElement(yes, index), broadcastElement(no, index)];
      return typeof chosen === 'number' ? (chosen ? a : b) : a === b ? a : null;
    }),
  );
};

// --- recurrent, attention, the rest

/** LSTM, GRU, RNN and com.microsoft.DynamicQuantizeLSTM. */
const recurrent: Rule = (s) => {
  const input = s.shape(0);
  const elemType = s.elem(0);
  const hidden: Dim = attrInt(s.node, 'hidden_size') ?? s.shape(2)?.[2] ?? null;
  const directions = attrString(s.node, 'direction', 'forward') === 'bidirectional' ? 2 : 1;
  const batchFirst = attrInt(s.node, 'layout', 0) === 1;
  const [seq, batch]: Dim[] = batchFirst ? [input?.[1] ?? null, input?.[0] ?? null] : [input?.[0] ?? null, input?.[1] ?? null];
  s.set(0, elemType, batchFirst ? [batch!, seq!, directions, hidden] : [seq!, directions, batch!, hidden]);
  const state: Dim[] = batchFirst ? [batch!, directions, hidden] : [directions, batch!, hidden];
  s.set(1, elemType, state);
  s.set(2, elemType, state);
};

const topK: Rule = (s) => {
  const input = s.shape(0);
  const axis = input && axisOf(attrInt(s.node, 'axis', -1), input.length);
  const k: Dim = attrInt(s.node, 'k') ?? s.value(1)?.elements[0] ?? null;
  const shape = input && axis !== undefined ? input.map((dim, i) => (i === axis ? k : dim)) : undefined;
  s.set(0, s.elem(0), shape);
  s.set(1, DataType.INT64, shape);
};

const oneHot: Rule = (s) => {
  const indices = s.shape(0);
  const axis = indices && axisOf(attrInt(s.node, 'axis', -1), indices.length + 1);
  if (!indices || axis === undefined) return s.set(0, s.elem(2));
  s.set(0, s.elem(2), [...indices.slice(0, axis), s.value(1)?.elements[0] ?? null, ...indices.slice(axis)]);
};

const gatherND: Rule = (s) => {
  const data = s.shape(0);
  const indices = s.shape(1);
  const depth = indices?.at(-1);
  const batch = attrInt(s.node, 'batch_dims', 0);
  if (!data || !indices || typeof depth !== 'number') return s.set(0, s.elem(0));
  s.set(0, s.elem(0), [...indices.slice(0, -1), ...data.slice(batch + depth)]);
};

const einsum: Rule = (s) => {
  const equation = attrString(s.node, 'equation', '').replaceAll(' ', '');
  const [left = '', right] = equation.split('->');
  const terms = left.split(',');
  if (equation.includes('.') || terms.length !== s.node.inputs.length) return s.set(0, s.elem(0));
  const sizes = new Map<string, Dim>();
  const counts = new Map<string, number>();
  terms.forEach((term, i) => {
    [...term].forEach((letter, axis) => {
      const dim = s.shape(i)?.[axis] ?? null;
      sizes.set(letter, sizes.has(letter) ? broadcastDim(sizes.get(letter)!, dim) : dim);
      counts.set(letter, (counts.get(letter) ?? 0) + 1);
    });
  });
  const result =
    right ??
    [...counts]
      .filter(([, count]) => count === 1)
      .map(([letter]) => letter)
      .sort()
      .join('');
  s.set(
    0,
    s.elem(0),
    [...result].map((letter) => sizes.get(letter) ?? null),
  );
};

const quantize: Rule = (s) => {
  const stated = attrInt(s.node, 'output_dtype', 0);
  s.set(0, s.has(2) ? s.elem(2) : stated !== 0 && isDataType(stated) ? stated : DataType.UINT8, s.shape(0));
};

const dequantize: Rule = (s) => {
  const stated = attrInt(s.node, 'output_dtype', 0);
  s.set(0, stated !== 0 && isDataType(stated) ? stated : s.elem(1), s.shape(0));
};

const batchNormalization: Rule = (s) => {
  s.set(0, s.elem(0), s.shape(0));
  for (let i = 1; i < s.node.outputs.length; i++) s.set(i, s.elem(4), s.shape(4));
};

const layerNormalization: Rule = (s) => {
  const input = s.shape(0);
  s.set(0, s.elem(0), input);
  const axis = input && axisOf(attrInt(s.node, 'axis', -1), input.length);
  const statistics = input && axis !== undefined ? input.map((dim, i) => (i < axis ? dim : 1)) : undefined;
  s.set(1, DataType.FLOAT, statistics);
  s.set(2, DataType.FLOAT, statistics);
};

/** com.microsoft.Attention and QAttention: input [B, S, D] and weights [D, Q + K + V]; later opsets' ai.onnx.Attention takes Q, K, V. */
const attention: Rule = (s) => {
  const input = s.shape(0);
  if (s.node.domain === '') {
    const value = s.shape(2);
    const heads = attrInt(s.node, 'q_num_heads');
    const kvHeads = attrInt(s.node, 'kv_num_heads');
    if (input?.length === 4 && value?.length === 4) s.set(0, s.elem(0), [input[0]!, input[1]!, input[2]!, value[3]!]);
    else if (input?.length === 3 && value?.length === 3 && heads && kvHeads && typeof value[2] === 'number') {
      s.set(0, s.elem(0), [input[0]!, input[1]!, (value[2] / kvHeads) * heads]);
    } else s.set(0, s.elem(0));
    return;
  }
  const columns = s.shape(1)?.[1];
  const sizes = attrInts(s.node, 'qkv_hidden_sizes');
  const hidden = sizes?.[2] ?? (typeof columns === 'number' ? columns / 3 : null);
  const elemType = s.node.opType === 'QAttention' ? s.elem(3) : s.elem(0);
  s.set(0, elemType, input?.length === 3 ? [input[0]!, input[1]!, hidden] : undefined);
};

const embedLayerNormalization: Rule = (s) => {
  const ids = s.shape(0);
  s.set(0, s.elem(2), ids?.length === 2 ? [ids[0]!, ids[1]!, s.shape(2)?.[1] ?? null] : undefined);
  s.set(1, DataType.INT32, ids ? [ids[0]!] : undefined);
};

const gridSample: Rule = (s) => {
  const input = s.shape(0);
  const grid = s.shape(1);
  s.set(0, s.elem(0), input && grid ? [input[0]!, input[1]!, ...grid.slice(1, -1)] : undefined);
};

/** The last axis holds real and imaginary parts; a length or one side only changes the axis that is transformed. */
const dft: Rule = (s) => {
  const input = s.shape(0);
  const axis = s.opset >= 20 ? (s.has(2) ? scalar(s.value(2)) : -2) : attrInt(s.node, 'axis', 1);
  const at = input && axis !== undefined ? axisOf(axis, input.length) : undefined;
  if (!input || at === undefined) return s.set(0, s.elem(0), input && unknowns(input.length));
  const oneSided = attrInt(s.node, 'onesided', 0) === 1;
  const real = oneSided && attrInt(s.node, 'inverse', 0) === 1;
  const shape = input.map((dim, i) => (i === at && (oneSided || s.has(1)) ? null : dim));
  s.set(0, s.elem(0), [...shape.slice(0, -1), real ? 1 : 2]);
};

const sizeOf: Rule = (s) => {
  s.set(0, DataType.INT64, []);
  const input = s.shape(0);
  if (input) s.setValue(0, { dims: [], elements: [product(input)] });
};

/** MatMulNBits, MatMulBnb4: the weights' size is in attributes. */
const packedMatMul: Rule = (s) => {
  const input = s.shape(0);
  s.set(0, s.elem(0), input && input.length > 0 ? [...input.slice(0, -1), attrInt(s.node, 'N') ?? null] : undefined);
};

const ofType =
  (elemType: DataType, from = 0): Rule =>
  (s) =>
    s.set(0, elemType, s.shape(from));

const randomLike: Rule = (s) => {
  const stated = attrInt(s.node, 'dtype', 0);
  s.set(0, stated !== 0 && isDataType(stated) ? stated : s.elem(0), s.shape(0));
};

const identity: Rule = (s) => {
  s.set(0, s.elem(0), s.shape(0));
  s.setValue(0, s.value(0));
};

/** QLinear* with per-operand (value, scale, zero point): output as broadcast of the values at these positions. */
const qlinear =
  (...values: number[]): Rule =>
  (s) =>
    s.set(0, s.elem(0), broadcast(...values.map((i) => s.shape(i))));

/** A rule under several names. */
const rows = (names: string, rule: Rule): [string, Rule][] => names.split(/\s+/).map((name) => [name, rule]);

/** Rules by operator; ai.onnx and com.microsoft share no name with two meanings among them. */
export const RULES: Record<string, Rule> = Object.fromEntries<Rule>([
  ...rows(
    `Relu LeakyRelu ThresholdedRelu Elu Selu Celu HardSigmoid HardSwish Sigmoid Softplus Softsign Tanh Gelu Mish Swish Erf Exp Log Sqrt Neg Abs
     Floor Ceil Round Reciprocal Sign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Not BitwiseNot Shrink
     FastGelu QuickGelu BiasGelu BiasAdd`,
    unary,
  ),
  ...rows(
    `Softmax LogSoftmax Hardmax InstanceNormalization GroupNormalization LpNormalization LRN MeanVarianceNormalization RMSNormalization
     ScatterElements Scatter ScatterND TensorScatter CumSum Trilu ReverseSequence RotaryEmbedding ImageScaler
     QLinearSigmoid QLinearLeakyRelu QLinearSoftmax CumProd`,
    like(),
  ),
  ...rows('Clip Dropout', (s) => {
    s.set(0, s.elem(0), s.shape(0));
    s.set(1, DataType.BOOL, s.shape(0));
    s.setValue(0, s.node.opType === 'Dropout' ? s.value(0) : undefined);
  }),
  ...rows('Add Sub Mul Div Mod Pow Max Min Sum Mean PRelu BitShift BitwiseAnd BitwiseOr BitwiseXor And Or Xor', arithmetic),
  ...rows('Equal Less LessOrEqual Greater GreaterOrEqual', comparison),
  ...rows('IsNaN IsInf', ofType(DataType.BOOL)),
  ['Identity', identity],
  ['Cast', cast],
  ['CastLike', (s) => s.set(0, s.elem(1), s.shape(0))],
  ['Where', where],
  ['Conv', (s) => conv(s, 0, 1, s.elem(0))],
  ['FusedConv', (s) => conv(s, 0, 1, s.elem(0))],
  ['ConvInteger', (s) => conv(s, 0, 1, DataType.INT32)],
  ['QLinearConv', (s) => (attrInt(s.node, 'channels_last', 0) ? s.set(0, s.elem(7)) : conv(s, 0, 3, s.elem(7)))],
  ['ConvTranspose', convTranspose],
  ['MaxPool', pool(true)],
  ...rows('AveragePool LpPool QLinearAveragePool', pool()),
  ...rows('GlobalAveragePool GlobalMaxPool GlobalLpPool QLinearGlobalAveragePool', globalPool),
  ['MatMul', (s) => matmul(s, 0, 1, s.elem(0))],
  ['FusedMatMul', (s) => matmul(s, 0, 1, s.elem(0), attrInt(s.node, 'transA', 0) === 1, attrInt(s.node, 'transB', 0) === 1)],
  ['MatMulInteger', (s) => matmul(s, 0, 1, DataType.INT32)],
  ['MatMulIntegerToFloat', (s) => matmul(s, 0, 1, s.elem(2))],
  ['DynamicQuantizeMatMul', (s) => matmul(s, 0, 1, s.elem(0))],
  ['QLinearMatMul', (s) => matmul(s, 0, 3, s.elem(7))],
  ...rows('MatMulNBits MatMulBnb4', packedMatMul),
  ['Gemm', (s) => gemm(s, 0, 1, s.elem(0))],
  ['FusedGemm', (s) => gemm(s, 0, 1, s.elem(0))],
  ['QGemm', (s) => gemm(s, 0, 3, s.has(8) ? s.elem(8) : DataType.FLOAT)],
  ['BatchNormalization', batchNormalization],
  ...rows('LayerNormalization SimplifiedLayerNormalization', layerNormalization),
  ...rows('SkipLayerNormalization SkipSimplifiedLayerNormalization', (s) => {
    s.set(0, s.elem(0), s.shape(0));
    s.set(3, s.elem(0), s.shape(0));
  }),
  ['EmbedLayerNormalization', embedLayerNormalization],
  ...rows('Attention QAttention', attention),
  ...rows('ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare', reduce),
  ...rows('ArgMax ArgMin', argReduce),
  ['Reshape', reshape],
  ['Flatten', flatten],
  ['Squeeze', squeeze],
  ['Unsqueeze', unsqueeze],
  ['Transpose', transpose],
  ['Concat', concat],
  ['Split', split],
  ['Slice', slice],
  ['Gather', gather],
  ['GatherElements', (s) => s.set(0, s.elem(0), s.shape(1))],
  ['GatherND', gatherND],
  ['Expand', expand],
  ['Tile', tile],
  ['Pad', pad],
  ...rows('Resize Upsample', resize),
  ...rows('DepthToSpace SpaceToDepth', depthToSpace),
  ['Shape', shapeOf],
  ['Size', sizeOf],
  ['ConstantOfShape', constantOfShape],
  ['Range', range],
  ...rows('LSTM GRU RNN DynamicQuantizeLSTM', recurrent),
  ['TopK', topK],
  ['OneHot', oneHot],
  ['Einsum', einsum],
  ['NonZero', (s) => s.set(0, DataType.INT64, [s.shape(0)?.length ?? null, null])],
  ['NonMaxSuppression', (s) => s.set(0, DataType.INT64, [null, 3])],
  ['QuantizeLinear', quantize],
  ['DequantizeLinear', dequantize],
  [
    'DynamicQuantizeLinear',
    (s) => {
      s.set(0, DataType.UINT8, s.shape(0));
      s.set(1, DataType.FLOAT, []);
      s.set(2, DataType.UINT8, []);
    },
  ],
  ...rows('QLinearAdd QLinearMul', qlinear(0, 3)),
  ['QLinearWhere', (s) => s.set(0, s.elem(1), broadcast(s.shape(0), s.shape(1), s.shape(4)))],
  [
    'QLinearConcat',
    (s) => {
      const shapes: (readonly Dim[] | undefined)[] = [];
      for (let i = 2; i < s.node.inputs.length; i += 3) shapes.push(s.shape(i));
      const first = shapes[0];
      const axis = first && axisOf(attrInt(s.node, 'axis', 0), first.length);
      if (!first || axis === undefined) return s.set(0, s.elem(1));
      const along = shapes.map((shape) => shape?.[axis] ?? null);
      const total = along.every((dim) => typeof dim === 'number') ? along.reduce((a, b) => a + b, 0) : null;
      s.set(
        0,
        s.elem(1),
        first.map((dim, i) => (i === axis ? total : dim)),
      );
    },
  ],
  ...rows('RandomNormalLike RandomUniformLike EyeLike Bernoulli', randomLike),
  ['GridSample', gridSample],
  ['DFT', dft],
  ['Compress', (s) => s.set(0, s.elem(0), attrInt(s.node, 'axis') === undefined ? [null] : s.shape(0) && unknowns(s.shape(0)!.length))],
  [
    'MaxRoiPool',
    (s) => s.set(0, s.elem(0), [s.shape(1)?.[0] ?? null, s.shape(0)?.[1] ?? null, ...(attrInts(s.node, 'pooled_shape') ?? [null, null])]),
  ],
  [
    'RoiAlign',
    (s) =>
      s.set(0, s.elem(0), [
        s.shape(1)?.[0] ?? null,
        s.shape(0)?.[1] ?? null,
        attrInt(s.node, 'output_height', 1),
        attrInt(s.node, 'output_width', 1),
      ]),
  ],
  ['Det', (s) => s.set(0, s.elem(0), s.shape(0)?.slice(0, -2))],
]);
