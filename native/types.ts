/** Shapes that cross into the addon. Those of src/domain/runner.ts are declared again: native/ stands alone and imports nothing of src/. */

/** Element types, named as numpy names them. */
export type ElementType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'bool';

/** A dense tensor: little-endian bytes, row-major. */
export interface TensorValue {
  type: ElementType;
  dims: number[];
  bytes: Uint8Array;
}

/** Equal bins: `counts[i]` values in [lo + i·width, lo + (i+1)·width). */
export interface Histogram {
  lo: number;
  width: number;
  counts: Float64Array;
}

export interface ObserverOptions {
  /** Histogram bins: a power of two from 16 to 65536; 0 = no histogram. */
  bins: number;
  /** Axis whose entries get statistics of their own; may be negative; absent = none. */
  channelAxis?: number;
  /** Of each run the histogram counts pieces 0, s, 2s, … of 64 elements only; all other statistics see every element. Default 1. */
  histogramStride?: number;
}

/**
 * What an observer gathered. NaN and infinities are counted (`nans`, `infs`, and in `count`) and otherwise left out.
 * While there is no finite value: min +Infinity, max −Infinity, means NaN, histogram null.
 */
export interface ObservedStatistics {
  /** All values seen, finite or not. */
  count: number;
  nans: number;
  infs: number;
  min: number;
  max: number;
  /** Mean over runs of each run's minimum and maximum. */
  meanMin: number;
  meanMax: number;
  sum: number;
  sumSquares: number;
  /**
   * On an absolute grid: width is the least power of two for which [min, max] takes at most `bins` bins, lo the multiple of it
   * at or below min. It depends on the values only, not on their order.
   */
  histogram: Histogram | null;
  channels: { min: Float64Array; max: Float64Array; mean: Float64Array } | null;
}

export interface Range {
  min: number;
  max: number;
}

/**
 * Where a weighted operator's products pair up. `inputShape` is one sample's: [C, H, W] (or [C, L]) for a convolution,
 * [M, K] for a matrix product; `weightShape` is ONNX's: [O, C/group, kH, kW] (or [O, C/group, k]), [K, N].
 */
export interface ConvGeometry {
  kind: 'conv' | 'matmul';
  inputShape: number[];
  weightShape: number[];
  /** ONNX's attributes; for 'matmul' absent. Missing = ones, zeros, ones, 1. */
  strides?: number[];
  /** Begins, then ends, as ONNX's `pads`. */
  pads?: number[];
  dilations?: number[];
  group?: number;
  /** The input's zero point: padding's code. Default 0. */
  zeroPoint?: number;
}

export interface GptqOptions {
  /** Share of the Hessian's mean diagonal that is added to it. Default 0.01. */
  dampening?: number;
  /** Least and greatest code. Default −127, 127. */
  min?: number;
  max?: number;
}
