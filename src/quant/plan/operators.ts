import { attrFloat, attrInt, attrInts, attrString } from '../../onnx/graph.ts';
import { DataType, type Node, type Tensor, type TensorType } from '../../onnx/model.ts';
import { isFiniteTensor } from '../../onnx/tensor.ts';

/**
 * The operators that ONNX Runtime's CPU provider has an integer kernel for: which inputs are quantized, where the weight's
 * channels are, what must share a scale, and the kernel's conditions. The one place that knows an operator by its name:
 * a new operator is one more row. Measured with ONNX Runtime 1.30 (ids in runtime/facts.ts).
 */
export interface OperatorRow {
  /** Indices of the inputs that carry activations; 'all' for variadic operators. A constant among them is quantized per tensor. */
  activations: number[] | 'all';
  /** The constant weight: its input, and its channel axis (null = not a form the kernel takes). */
  weight?: { input: number; axis: (node: Node, weight: Tensor) => number | null; reduce: (node: Node, weight: Tensor) => number[] };
  /** The bias, quantized as int32 at scale_x · scale_w. */
  bias?: number;
  /** Output and first input have one scale and zero point: the operator only moves data. */
  moves?: true;
  /** Better with one scale for all inputs and the output (Concat), when their ranges and folded activations allow it. */
  prefersOneScale?: true;
  /** A ReLU or Clip after it folds into its output's quantization. */
  folds?: true;
  /**
   * Whether it runs in integers with a float output, when nothing needs that quantized and its only reader is a `next`.
   * The runtime joins some operators to a float product before it looks for a quantized one, which is then lost.
   */
  floatOutput?: (next: string, hasBias: boolean) => boolean;
  /**
   * What keeps the runtime from quantizing the operator by itself where the plan left it in float between quantized ones:
   * `axis` = the DequantizeLinear before it has a vector scale; `after` = LeakyRelu(1) behind it; none needed otherwise.
   */
  guard: 'axis' | 'after' | null;
  /** The runtime makes it an integer operator even where one of its activations is a float constant (seen: Where; not Add, Mul, Concat). */
  takesFloatConstant?: true;
  /** Kernel of the QOperator format, and its domain. Absent: the operator runs on integers under its own name. */
  kernel?: { op: string; domain: '' | 'com.microsoft' };
  /** Null when the kernel takes this node, else why not. */
  refuses?: (node: Node, context: OperatorContext) => string | null;
}

export interface OperatorContext {
  types: ReadonlyMap<string, TensorType>;
  constant: (value: string) => Tensor | undefined;
}

const isFloatTensor = (context: OperatorContext, value: string | undefined) =>
  value !== undefined && context.types.get(value)?.elemType === DataType.FLOAT;
const rankOf = (context: OperatorContext, value: string | undefined) => (value ? context.types.get(value)?.shape?.length : undefined);
const allBut = (rank: number, axis: number) => Array.from({ length: rank }, (_, i) => i).filter((i) => i !== axis);

const mover = (guard: OperatorRow['guard'] = 'axis', refuses?: OperatorRow['refuses']): OperatorRow => ({
  activations: [0],
  moves: true,
  guard,
  ...(refuses && { refuses }),
});
const elementwise = (op: string): OperatorRow => ({
  activations: 'all',
  folds: true,
  guard: 'after',
  kernel: { op, domain: 'com.microsoft' },
});

export const OPERATORS: Readonly<Record<string, OperatorRow>> = {
  Conv: {
    activations: [0],
    weight: { input: 1, axis: () => 0, reduce: (_, weight) => allBut(weight.dims.length, 0) },
    bias: 2,
    folds: true,
    guard: 'axis',
    kernel: { op: 'QLinearConv', domain: '' },
    refuses: (node, context) => {
      const rank = rankOf(context, node.inputs[0]) ?? context.constant(node.inputs[1]!)?.dims.length;
      return rank === 3 || rank === 4 ? null : 'only 1-D and 2-D convolutions have an integer kernel';
    },
  },
  Gemm: {
    activations: [0],
    weight: {
      input: 1,
      axis: (node) => (attrInt(node, 'transB', 0) ? 0 : 1),
      reduce: (node) => (attrInt(node, 'transB', 0) ? [1] : [0]),
    },
    bias: 2,
    folds: true,
    floatOutput: (next) => next !== 'Relu' && next !== 'Clip',
    guard: 'axis',
    kernel: { op: 'QGemm', domain: 'com.microsoft' },
    refuses: (node, context) => {
      if (attrFloat(node, 'alpha', 1) !== 1 || attrFloat(node, 'beta', 1) !== 1) return 'alpha and beta must be 1';
      if (attrInt(node, 'transA', 0)) return 'transA has no integer kernel';
      const bias = node.inputs[2] ? context.constant(node.inputs[2]) : undefined;
      if (node.inputs[2] && bias?.dims.length !== 1) return 'the bias is not a constant vector';
      return null;
    },
  },
  MatMul: {
    activations: 'all',
    weight: { input: 1, axis: (_, weight) => (weight.dims.length === 2 ? 1 : null), reduce: () => [0] },
    folds: true,
    // The sum with anything makes it a Gemm, which has one bias.
    floatOutput: (next, hasBias) => next !== 'Relu' && next !== 'Clip' && (next !== 'Add' || hasBias),
    guard: 'axis',
    kernel: { op: 'QLinearMatMul', domain: '' },
    refuses: (node, context) => (context.constant(node.inputs[0]!) ? 'the first input is a constant' : null),
  },
  Add: elementwise('QLinearAdd'),
  Mul: elementwise('QLinearMul'),
  AveragePool: {
    activations: [0],
    folds: true,
    guard: 'after',
    kernel: { op: 'QLinearAveragePool', domain: 'com.microsoft' },
    refuses: (node) => (attrInts(node, 'dilations', []).some((d) => d !== 1) ? 'dilated average pooling has no integer kernel' : null),
  },
  GlobalAveragePool: { activations: [0], folds: true, guard: 'after', kernel: { op: 'QLinearGlobalAveragePool', domain: 'com.microsoft' } },
  Concat: {
    activations: 'all',
    prefersOneScale: true,
    folds: true,
    guard: 'after',
    kernel: { op: 'QLinearConcat', domain: 'com.microsoft' },
  },
  Sigmoid: { activations: [0], guard: 'after', kernel: { op: 'QLinearSigmoid', domain: 'com.microsoft' } },
  LeakyRelu: { activations: [0], guard: 'after', kernel: { op: 'QLinearLeakyRelu', domain: 'com.microsoft' } },
  Softmax: { activations: [0], guard: 'after', kernel: { op: 'QLinearSoftmax', domain: 'com.microsoft' } },
  Where: { activations: [1, 2], guard: 'after', takesFloatConstant: true, kernel: { op: 'QLinearWhere', domain: 'com.microsoft' } },
  MaxPool: mover('axis', (node) => (node.outputs.length > 1 && node.outputs[1] ? 'the indices output has no integer form' : null)),
  Resize: mover('axis', (node) => (attrString(node, 'mode', 'nearest') === 'nearest' ? null : 'only nearest resizing runs on integers')),
  Split: mover(),
  Gather: mover(),
  Slice: mover(),
  Transpose: mover(),
  Reshape: mover(),
  Flatten: mover(),
  Squeeze: mover(),
  Unsqueeze: mover(),
  Expand: mover(),
  Tile: mover(),
  DepthToSpace: mover(),
};

/** Float operators that the runtime would quantize by itself (weights per tensor) between a DequantizeLinear and a QuantizeLinear. */
export const SELF_QUANTIZING = new Set(['Conv', 'ConvTranspose', 'Gemm', 'MatMul']);

/** Activations that fold into the quantization of their producer's output: the range that they leave. */
export function foldedRange(node: Node, constant: (value: string) => number | undefined): { lo: number; hi: number } | null {
  if (node.domain !== '') return null;
  if (node.opType === 'Relu') return { lo: 0, hi: Number.POSITIVE_INFINITY };
  if (node.opType !== 'Clip') return null;
  const bound = (name: string | undefined, open: number) => (name ? constant(name) : open);
  const lo = bound(node.inputs[1], Number.NEGATIVE_INFINITY);
  const hi = bound(node.inputs[2], Number.POSITIVE_INFINITY);
  return lo === undefined || hi === undefined || !(lo < hi) ? null : { lo, hi };
}

/**
 * The row for a node, or why it has none.
 * `inputs`: the activation inputs that are not constant; `constants`: those that are.
 */
export function match(
  node: Node,
  context: OperatorContext,
): { row: OperatorRow; inputs: number[]; constants: number[]; weight: Tensor | null } | { reason: string } {
  const row = node.domain === '' ? OPERATORS[node.opType] : undefined;
  if (!row) return { reason: 'no-integer-kernel' };
  const refusal = row.refuses?.(node, context);
  if (refusal) return { reason: refusal };
  let weight: Tensor | null = null;
  const candidates = row.activations === 'all' ? node.inputs.map((_, i) => i) : row.activations;
  if (row.weight) {
    weight = context.constant(node.inputs[row.weight.input]!) ?? null;
    if (weight && (weight.dataType !== DataType.FLOAT || row.weight.axis(node, weight) === null))
      return { reason: 'the weight has a form without an integer kernel' };
    // MatMul alone also takes two activations; everything else needs its weight as a constant.
    if (!weight && node.opType !== 'MatMul') return { reason: 'the weight is not a constant' };
  }
  const data = candidates.filter((i) => node.inputs[i] && !(weight && i === row.weight!.input));
  const constants = data.filter((i) => context.constant(node.inputs[i]!));
  const inputs = data.filter((i) => !constants.includes(i));
  if (!inputs.length) return { reason: 'all inputs are constants' };
  if (data.some((i) => !isFloatTensor(context, node.inputs[i]))) return { reason: 'not float' };
  // A mask of −∞ has no grid: its scale would be infinite.
  if (constants.some((i) => !isFiniteTensor(context.constant(node.inputs[i]!)!))) return { reason: 'a constant holds NaN or Inf' };
  return { row, inputs, constants, weight };
}
