/** Each kernel in plain TypeScript: short rather than fast, and written from the definition, not from the C++. */
import type { ObservedStatistics, ObserverOptions } from './types.ts';

// ------------------------------------------------------------------------------------------------------------- quantization

/** Round half to even. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const fraction = x - floor;
  if (fraction !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

export function quantizeLinear(
  x: Float32Array,
  out: Uint8Array | Int8Array,
  scales: Float32Array,
  zeroPoints: Int32Array,
  axisLength: number,
  inner: number,
): void {
  const [least, most] = out instanceof Int8Array ? [-128, 127] : [0, 255];
  for (let i = 0; i < x.length; i++) {
    const c = axisLength === 1 ? 0 : Math.floor(i / inner) % axisLength;
    const code = roundHalfEven(Math.fround(x[i]! / scales[c]!)) + zeroPoints[c]!;
    out[i] = Number.isNaN(code) ? least : Math.min(most, Math.max(least, code));
  }
}

export function dequantizeLinear(
  x: Uint8Array | Int8Array,
  out: Float32Array,
  scales: Float32Array,
  zeroPoints: Int32Array,
  axisLength: number,
  inner: number,
): void {
  for (let i = 0; i < x.length; i++) {
    const c = axisLength === 1 ? 0 : Math.floor(i / inner) % axisLength;
    out[i] = Math.fround(x[i]! - zeroPoints[c]!) * scales[c]!;
  }
}

// -------------------------------------------------------------------------------------------------------------- observation

export function range(x: Float32Array): { min: number; max: number; nans: number; infs: number } {
  const result = { min: Number.POSITIVE_INFINITY, max: Number.NEGATIVE_INFINITY, nans: 0, infs: 0 };
  for (const v of x) {
    if (Number.isNaN(v)) result.nans++;
    else if (!Number.isFinite(v)) result.infs++;
    else {
      result.min = Math.min(result.min, v + 0);
      result.max = Math.max(result.max, v + 0);
    }
  }
  return result;
}

/** Keeps every value and computes at the end: the definition of what the streaming Observer must come to. */
export class Observer {
  readonly #options: ObserverOptions;
  readonly #runs: Array<{ x: Float32Array; dims: number[] }> = [];

  constructor(options: ObserverOptions) {
    this.#options = options;
  }

  observe(x: Float32Array, dims: number[]): void {
    this.#runs.push({ x: x.slice(), dims: [...dims] });
  }

  result(): ObservedStatistics {
    const { bins, channelAxis, histogramStride = 1 } = this.#options;
    const ranges = this.#runs.map(({ x }) => range(x));
    const finiteRuns = ranges.filter(({ min, max }) => min <= max);
    const mean = (values: number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
    let count = 0;
    let sum = 0;
    let sumSquares = 0;
    for (const { x } of this.#runs) {
      count += x.length;
      for (const v of x) {
        if (!Number.isFinite(v)) continue;
        sum += v;
        sumSquares += v * v;
      }
    }
    const min = Math.min(...ranges.map((r) => r.min));
    const max = Math.max(...ranges.map((r) => r.max));
    return {
      count,
      nans: ranges.reduce((total, r) => total + r.nans, 0),
      infs: ranges.reduce((total, r) => total + r.infs, 0),
      min,
      max,
      meanMin: mean(finiteRuns.map((r) => r.min)),
      meanMax: mean(finiteRuns.map((r) => r.max)),
      sum,
      sumSquares,
      histogram: bins > 0 && min <= max ? this.#histogram(min, max, bins, histogramStride) : null,
      channels: channelAxis === undefined ? null : this.#channels(channelAxis),
    };
  }

  #histogram(min: number, max: number, bins: number, stride: number): { lo: number; width: number; counts: Float64Array } {
    // No finer than float32's own 24 bits at the range's larger end, and not below the smallest normal number.
    const magnitude = Math.max(Math.abs(min), Math.abs(max));
    let width = 2 ** -126;
    while (magnitude / width >= 2 ** 23 || Math.floor(max / width) - Math.floor(min / width) >= bins) width *= 2;
    const first = Math.floor(min / width);
    const counts = new Float64Array(bins);
    for (const { x } of this.#runs)
      for (let i = 0; i < x.length; i += stride) if (Number.isFinite(x[i])) counts[Math.floor(x[i]! / width) - first]!++;
    return { lo: first * width, width, counts };
  }

  #channels(channelAxis: number): { min: Float64Array; max: Float64Array; mean: Float64Array } | null {
    const first = this.#runs[0];
    if (!first) return null;
    const axis = channelAxis < 0 ? channelAxis + first.dims.length : channelAxis;
    const channels = first.dims[axis]!;
    const min = new Float64Array(channels).fill(Number.POSITIVE_INFINITY);
    const max = new Float64Array(channels).fill(Number.NEGATIVE_INFINITY);
    const sum = new Float64Array(channels);
    const count = new Float64Array(channels);
    for (const { x, dims } of this.#runs) {
      const inner = dims.slice(axis + 1).reduce((product, dim) => product * dim, 1);
      for (let i = 0; i < x.length; i++) {
        const c = Math.floor(i / inner) % channels;
        const v = x[i]! + 0;
        if (!Number.isFinite(v)) continue;
        min[c] = Math.min(min[c]!, v);
        max[c] = Math.max(max[c]!, v);
        sum[c]! += v;
        count[c]!++;
      }
    }
    return { min, max, mean: sum.map((s, c) => s / count[c]!) };
  }
}
