import { attrFloat, attrInt } from '../../onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../onnx/model.ts';
import { elementCount, floatData, makeTensor } from '../../onnx/tensor.ts';
import type { Rewriter } from './rewriter.ts';

/** y = scale·x + shift by channel, in float64. */
export interface Affine {
  scale: Float64Array;
  shift: Float64Array;
}

/** A layer that is linear in its first input and has constant float32 weights: Conv, ConvTranspose, Gemm (transA = 0) or MatMul by a matrix. */
export interface Linear {
  node: Node;
  kind: 'Conv' | 'ConvTranspose' | 'Gemm' | 'MatMul';
  weight: Tensor;
  group: number;
  /** Output channels: axis 1 of a convolution's output, the last axis of a product's. */
  outputs: number;
  /** Input channels: axis 1 of a convolution's input, the last axis of a product's. */
  inputs: number;
  /** Rank of the output, null where the weight does not tell (MatMul takes any). */
  rank: number | null;
  /** The constant bias as it acts on the output (beta applied), null = none. */
  bias: Float64Array | null;
  alpha: number;
}

/** Reads a node as a linear layer; null where it is none, or its weights or bias are not constant float32. */
export function linearOf(rewriter: Rewriter, node: Node): Linear | null {
  if (node.domain !== '') return null;
  const kind = node.opType;
  if (kind !== 'Conv' && kind !== 'ConvTranspose' && kind !== 'Gemm' && kind !== 'MatMul') return null;
  const weight = rewriter.constant(node.inputs[1] ?? '');
  if (!weight || weight.dataType !== DataType.FLOAT) return null;
  const { dims } = weight;
  if (dims.some((dim) => dim <= 0)) return null;
  const base = { node, kind, weight, alpha: 1, group: 1 } as const;
  if (kind === 'MatMul') {
    if (dims.length !== 2) return null;
    return { ...base, inputs: dims[0]!, outputs: dims[1]!, rank: null, bias: null };
  }
  const biasName = node.inputs[2] ?? '';
  const biasTensor = rewriter.constant(biasName);
  if (biasName !== '' && biasTensor?.dataType !== DataType.FLOAT) return null;
  if (kind === 'Gemm') {
    if (dims.length !== 2 || attrInt(node, 'transA', 0) !== 0) return null;
    const transB = attrInt(node, 'transB', 0) !== 0;
    const outputs = dims[transB ? 0 : 1]!;
    const beta = attrFloat(node, 'beta', 1);
    const bias = biasTensor ? broadcastToColumns(biasTensor, outputs) : null;
    if (biasTensor && !bias) return null;
    bias?.forEach((value, i) => {
      bias[i] = value * beta;
    });
    return { ...base, inputs: dims[transB ? 1 : 0]!, outputs, rank: 2, bias, alpha: attrFloat(node, 'alpha', 1) };
  }
  if (dims.length < 3) return null;
  const group = attrInt(node, 'group', 1);
  if (group < 1) return null;
  const outputs = kind === 'Conv' ? dims[0]! : dims[1]! * group;
  const inputs = kind === 'Conv' ? dims[1]! * group : dims[0]!;
  if (outputs % group !== 0 || inputs % group !== 0) return null;
  const bias = biasTensor ? Float64Array.from(floatData(biasTensor)) : null;
  if (bias && bias.length !== outputs) return null;
  return { ...base, group, inputs, outputs, rank: dims.length, bias };
}

/** A Gemm's C as one value a column; null where it differs by row. */
function broadcastToColumns(c: Tensor, columns: number): Float64Array | null {
  const { dims } = c;
  const last = dims.at(-1) ?? 1;
  if (dims.length > 2 || (dims.length === 2 && dims[0] !== 1) || (last !== 1 && last !== columns)) return null;
  const values = floatData(c);
  return Float64Array.from({ length: columns }, (_, i) => values[last === 1 ? 0 : i]!);
}

/** How a layer's weights lie: [outer, inner, kernel], `outer` in groups that each see their own stretch of the far side's channels. */
export interface Geometry {
  outer: number;
  inner: number;
  /** Elements of one kernel window, which all join the same two channels. */
  kernel: number;
  /** Outer channels of one group. */
  outerPerGroup: number;
  /** Whether the outer axis is the output's; the inner one is then the input's, and the other way round. */
  outerIsOutput: boolean;
}

export function geometryOf(linear: Linear): Geometry {
  const { dims } = linear.weight;
  const [outer, inner] = [dims[0]!, dims[1]!];
  const kernel = elementCount(dims.slice(2));
  const transposed = linear.kind === 'Gemm' && attrInt(linear.node, 'transB', 0) !== 0;
  return { outer, inner, kernel, outerPerGroup: outer / linear.group, outerIsOutput: linear.kind === 'Conv' || transposed };
}

/** The weights times a factor for each output channel and one for each input channel (and a Gemm's alpha), rounded once. */
export function scaledWeights(linear: Linear, byOutput: Float64Array | null, byInput: Float64Array | null): Float32Array {
  const { outer, inner, kernel, outerPerGroup, outerIsOutput } = geometryOf(linear);
  const [byOuter, byInner] = outerIsOutput ? [byOutput, byInput] : [byInput, byOutput];
  const old = floatData(linear.weight);
  const weights = new Float32Array(old.length);
  for (let o = 0, at = 0; o < outer; o++) {
    const far = Math.floor(o / outerPerGroup) * inner;
    const factor = linear.alpha * (byOuter ? byOuter[o]! : 1);
    for (let i = 0; i < inner; i++) {
      const both = byInner ? factor * byInner[far + i]! : factor;
      for (const end = at + kernel; at < end; at++) weights[at] = old[at]! * both;
    }
  }
  return weights;
}

/** What a constant of each input channel adds to each output channel: Σ W·shift. */
function shiftedBias(linear: Linear, shift: Float64Array): Float64Array {
  const { outer, inner, kernel, outerPerGroup, outerIsOutput } = geometryOf(linear);
  const weights = floatData(linear.weight);
  const bias = new Float64Array(linear.outputs);
  for (let o = 0, at = 0; o < outer; o++) {
    const far = Math.floor(o / outerPerGroup) * inner;
    for (let i = 0; i < inner; i++) {
      let sum = 0;
      for (const end = at + kernel; at < end; at++) sum += weights[at]!;
      if (outerIsOutput) bias[o]! += sum * linear.alpha * shift[far + i]!;
      else bias[far + i]! += sum * linear.alpha * shift[o]!;
    }
  }
  return bias;
}

/**
 * Writes new weights and bias into the layer. The bias input is made where there is none and the new one is not all zero.
 * A Gemm comes out with alpha = beta = 1. Returns false, with nothing changed, where a value would leave float32's range
 * or a MatMul would need a bias.
 */
export function rewriteLinear(rewriter: Rewriter, linear: Linear, weights: Float32Array, bias: Float64Array | null): boolean {
  const { node, kind } = linear;
  const needed = bias !== null && (linear.bias !== null || bias.some((value) => value !== 0));
  if (needed && kind === 'MatMul') return false;
  const bias32 = needed ? new Float32Array(bias) : null;
  if (!allFinite(weights) || (bias32 && !allFinite(bias32))) return false;
  rewriter.replaceConstant(node, 1, makeTensor('', DataType.FLOAT, linear.weight.dims, weights), 'folded');
  if (bias32) rewriter.replaceConstant(node, 2, makeTensor('', DataType.FLOAT, [linear.outputs], bias32), 'bias');
  if (kind === 'Gemm') {
    node.attributes.delete('alpha');
    node.attributes.delete('beta');
  }
  return true;
}

function allFinite(values: Float32Array): boolean {
  // x − x is NaN for infinities and NaN, 0 for the rest: one sum instead of a call for each value.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! - values[i]!;
  return sum === 0;
}

/** Folds y ↦ scale·y + shift, by output channel, into the layer that makes y. False, with nothing changed, where it can't. */
export function foldOutputAffine(rewriter: Rewriter, linear: Linear, affine: Affine): boolean {
  const bias = Float64Array.from({ length: linear.outputs }, (_, i) => (linear.bias?.[i] ?? 0) * affine.scale[i]! + affine.shift[i]!);
  return rewriteLinear(rewriter, linear, scaledWeights(linear, affine.scale, null), bias);
}

/**
 * Folds x ↦ scale·x + shift, by input channel, into the layer that takes x. A shift is only right where no padding is
 * added to the layer's input: the caller sees to that.
 */
export function foldInputAffine(rewriter: Rewriter, linear: Linear, affine: Affine): boolean {
  const bias = shiftedBias(linear, affine.shift).map((value, i) => value + (linear.bias?.[i] ?? 0));
  return rewriteLinear(rewriter, linear, scaledWeights(linear, null, affine.scale), bias);
}

/**
 * Reads a node as an affine function of one of its inputs, by channel: BatchNormalization in inference, or Mul, Add, Sub,
 * Div with a constant that is a scalar or has one value a channel. `rank` and `channelAxis` are those of the data.
 * Returns the affine function and which input is the data; null where it is none.
 */
export function affineOf(
  rewriter: Rewriter,
  node: Node,
  data: string,
  layout: { rank: number; channelAxis: number; channels: number },
): Affine | null {
  if (node.domain !== '') return null;
  if (node.opType === 'BatchNormalization')
    return layout.channelAxis === 1 && node.inputs[0] === data ? batchNormAffine(rewriter, node, layout.channels) : null;
  const { opType, inputs } = node;
  if (opType !== 'Mul' && opType !== 'Add' && opType !== 'Sub' && opType !== 'Div') return null;
  const side = inputs[0] === data ? 0 : 1;
  const tensor = rewriter.constant(inputs[1 - side]!);
  if (tensor?.dataType !== DataType.FLOAT || inputs[side] !== data) return null;
  const values = channelValues(tensor, layout);
  if (!values) return null;
  const fill = (value: number) => new Float64Array(layout.channels).fill(value);
  switch (opType) {
    case 'Mul':
      return { scale: values, shift: fill(0) };
    case 'Add':
      return { scale: fill(1), shift: values };
    case 'Sub':
      return side === 0 ? { scale: fill(1), shift: values.map((value) => -value) } : { scale: fill(-1), shift: values };
    case 'Div':
      return side === 0 && values.every((value) => value !== 0) ? { scale: values.map((value) => 1 / value), shift: fill(0) } : null;
  }
}

/** A constant that broadcasts along everything but the channel axis, as one value a channel; null where it is not such a one. */
function channelValues(tensor: Tensor, layout: { rank: number; channelAxis: number; channels: number }): Float64Array | null {
  const { dims } = tensor;
  if (dims.length > layout.rank) return null;
  const offset = layout.rank - dims.length;
  for (const [i, dim] of dims.entries()) {
    const allowed = i + offset === layout.channelAxis ? dim === layout.channels || dim === 1 : dim === 1;
    if (!allowed) return null;
  }
  const values = floatData(tensor);
  return Float64Array.from({ length: layout.channels }, (_, i) => values[values.length === 1 ? 0 : i]!);
}

/** scale = γ/√(σ² + ε), shift = β − μ·scale; null in training mode or where a parameter is not constant. */
function batchNormAffine(rewriter: Rewriter, node: Node, channels: number): Affine | null {
  if (attrInt(node, 'training_mode', 0) !== 0 || node.outputs.slice(1).some((output) => output !== '' && rewriter.isUsed(output)))
    return null;
  const parameters: Float32Array[] = [];
  for (let i = 1; i <= 4; i++) {
    const tensor = rewriter.constant(node.inputs[i] ?? '');
    if (tensor?.dataType !== DataType.FLOAT) return null;
    const values = floatData(tensor);
    if (values.length !== channels) return null;
    parameters.push(values);
  }
  const [gamma, beta, mean, variance] = parameters as [Float32Array, Float32Array, Float32Array, Float32Array];
  // The attribute is a float32: 1e-5 as the file holds it, not as this comment does.
  const epsilon = Math.fround(attrFloat(node, 'epsilon', 1e-5));
  const scale = Float64Array.from(gamma, (g, i) => g / Math.sqrt(variance[i]! + epsilon));
  return { scale, shift: Float64Array.from(beta, (b, i) => b - mean[i]! * scale[i]!) };
}
