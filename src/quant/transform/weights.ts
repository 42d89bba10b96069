import { quantizeLinearSync } from '../../../native/index.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import type { Tensor } from '../../onnx/model.ts';
import { floatData } from '../../onnx/tensor.ts';
import type { Unit } from '../plan/units.ts';

/** A constant in integers: real = scales[c] · (data − zeroPoints[c]), c along `axis` (null = one scale for all). */
export interface QuantizedWeight {
  type: 'int8' | 'uint8';
  dims: number[];
  data: Int8Array | Uint8Array;
  axis: number | null;
  scales: Float32Array;
  zeroPoints: Int32Array;
}

/** [outer, axisLength, inner] of a tensor seen along one axis. */
export function along(dims: number[], axis: number | null): { outer: number; length: number; inner: number } {
  if (axis === null) return { outer: 1, length: 1, inner: dims.reduce((a, b) => a * b, 1) };
  return {
    outer: dims.slice(0, axis).reduce((a, b) => a * b, 1),
    length: dims[axis]!,
    inner: dims.slice(axis + 1).reduce((a, b) => a * b, 1),
  };
}

interface ChannelRange {
  min: Float64Array;
  max: Float64Array;
}

/** Least and greatest value of each channel. */
export function channelRange(x: Float32Array, dims: number[], axis: number | null): ChannelRange {
  const { outer, length, inner } = along(dims, axis);
  const min = new Float64Array(length);
  const max = new Float64Array(length);
  for (let o = 0, at = 0; o < outer; o++) {
    for (let c = 0; c < length; c++) {
      for (let i = 0; i < inner; i++, at++) {
        const v = x[at]!;
        if (v < min[c]!) min[c] = v;
        if (v > max[c]!) max[c] = v;
      }
    }
  }
  return { min, max };
}

/** Codes that a weight may take in a channel whose products would saturate in 16 bits: 255 · (64 + 64) < 2¹⁵ (processors/README: 7 bits are safe). */
export const SEVEN_BITS = 64;
/** Two bits of the int32 range are left for the accumulator that the bias is added to. */
const BIAS_LIMIT = 2 ** 29;

/**
 * The scales of a weight. Symmetric int8 uses −127…127 (Jacob et al. 2018: no −128, so that a negated weight exists);
 * `sevenBits`: output channels that get −64…64 instead. With a bias, a channel's scale is raised until |bias| fits
 * int32 at scale_x · scale_w: a channel of tiny weights and a large bias would wrap around (runtime.md, 1: "expected 50, got 0").
 */
export function weightScales(
  x: Float32Array,
  dims: number[],
  axis: number | null,
  weights: ResolvedRecipe['weights'],
  options: { sevenBits?: ReadonlySet<number>; bias?: Float32Array; inputScale?: number; range?: ChannelRange } = {},
): { scales: Float32Array; zeroPoints: Int32Array } {
  const range = options.range ?? channelRange(x, dims, axis);
  const n = range.min.length;
  const scales = new Float32Array(n);
  const zeroPoints = new Int32Array(n);
  for (let c = 0; c < n; c++) {
    const largest = Math.max(-range.min[c]!, range.max[c]!);
    const narrow = weights.type === 'int8' && options.sevenBits?.has(c) === true;
    const low = narrow ? 1 - SEVEN_BITS : weights.type === 'uint8' ? 0 : -128;
    // Asymmetric: a code less at both ends for what rounding the zero point shifts.
    const steps = narrow ? 2 * SEVEN_BITS - 2 : 255;
    let scale = weights.symmetric ? largest / (narrow ? SEVEN_BITS : 127) : (range.max[c]! - range.min[c]!) / steps;
    if (options.bias && options.inputScale)
      scale = Math.max(scale, Math.abs(options.bias[axis === null ? 0 : c]!) / (BIAS_LIMIT * options.inputScale));
    // An all-zero channel: any scale does, a normal number keeps the kernels off denormals.
    if (!(scale > 1e-20)) scale = 1;
    scales[c] = scale;
    if (weights.symmetric) zeroPoints[c] = weights.type === 'uint8' ? 128 : 0;
    else zeroPoints[c] = Math.min(low + steps, Math.max(low, Math.round(low - range.min[c]! / scales[c]!)));
  }
  return { scales, zeroPoints };
}

/** Rounds a constant to nearest, half to even, at given scales. */
export function roundWeight(
  x: Float32Array,
  dims: number[],
  axis: number | null,
  type: 'int8' | 'uint8',
  grid: { scales: Float32Array; zeroPoints: Int32Array },
): QuantizedWeight {
  const { length, inner } = along(dims, axis);
  const data = type === 'int8' ? new Int8Array(x.length) : new Uint8Array(x.length);
  quantizeLinearSync(x, data, grid.scales, grid.zeroPoints, length, inner);
  return { type, dims, data, axis, ...grid };
}

/** Forms of a weight that are kept: with 8 bits, and with 7 in some channels. */
const KEPT_FORMS = 2;
const forms = new WeakMap<Tensor, { ranges: Map<number | null, ChannelRange>; recent: QuantizedWeight[] }>();

/**
 * A unit's weight, rounded to nearest on the scales that `weightScales` gives. Many plans of one model are tried, and most
 * ask for the same form: it is the same object then.
 */
export function roundUnitWeight(
  unit: Unit,
  axis: number | null,
  weights: ResolvedRecipe['weights'],
  options: { sevenBits?: ReadonlySet<number>; bias?: Float32Array; inputScale?: number },
): QuantizedWeight {
  const tensor = unit.weight as Tensor;
  const x = unitWeight(unit);
  let known = forms.get(tensor);
  if (!known) {
    known = { ranges: new Map(), recent: [] };
    forms.set(tensor, known);
  }
  let range = known.ranges.get(axis);
  if (!range) {
    range = channelRange(x, tensor.dims, axis);
    known.ranges.set(axis, range);
  }
  const grid = weightScales(x, tensor.dims, axis, weights, { ...options, range });
  const same = (form: QuantizedWeight) =>
    form.type === weights.type &&
    form.axis === axis &&
    form.scales.every((scale, c) => scale === grid.scales[c]) &&
    form.zeroPoints.every((zeroPoint, c) => zeroPoint === grid.zeroPoints[c]);
  const before = known.recent.find(same);
  if (before) return before;
  const made = roundWeight(x, tensor.dims, axis, weights.type, grid);
  known.recent = [made, ...known.recent].slice(0, KEPT_FORMS);
  return made;
}

/** The float values that a quantized constant stands for. */
export function dequantizeWeight(weight: QuantizedWeight): Float32Array {
  const { outer, length, inner } = along(weight.dims, weight.axis);
  const x = new Float32Array(weight.data.length);
  for (let o = 0, at = 0; o < outer; o++) {
    for (let c = 0; c < length; c++) {
      for (let i = 0; i < inner; i++, at++) x[at] = (weight.data[at]! - weight.zeroPoints[c]!) * weight.scales[c]!;
    }
  }
  return x;
}

/** Bias in int32 at scale_x · scale_w of each output channel. */
export function quantizeBias(
  bias: Float32Array,
  inputScale: number,
  weightScales: Float32Array,
): { data: Int32Array; scales: Float32Array } {
  const scales = new Float32Array(bias.length);
  const data = new Int32Array(bias.length);
  for (let c = 0; c < bias.length; c++) {
    scales[c] = Math.fround(Math.fround(inputScale) * weightScales[weightScales.length === 1 ? 0 : c]!);
    data[c] = Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.round(bias[c]! / scales[c]!)));
  }
  return { data, scales };
}

/** Output channels of a unit's weight. */
export function outputChannels(unit: Unit): number {
  const axis = unit.row!.weight!.axis(unit.nodes[0]!, unit.weight!)!;
  return unit.weight!.dims[axis]!;
}

/** A unit's float weight. */
export function unitWeight(unit: Unit): Float32Array {
  return floatData(unit.weight as Tensor);
}
