/** Each kernel in plain TypeScript: short rather than fast, and written from the definition, not from the C++. */
import type { ConvGeometry, GptqOptions, Histogram, ObservedStatistics, ObserverOptions, Range } from './types.ts';

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
      for (let i = 0; i < x.length; i++)
        if (Math.floor(i / 64) % stride === 0 && Number.isFinite(x[i])) counts[Math.floor(x[i]! / width) - first]!++;
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

// --------------------------------------------------------------------------------------------------------------- thresholds

interface Extent {
  /** In bins from lo: the first bin in use, the end of the last, and where 0 lies. */
  first: number;
  end: number;
  zero: number;
  low: number;
  high: number;
}
/** What is in use, widened to 0. */
function extent({ lo, width, counts }: Histogram): Extent {
  const first = counts.findIndex((count) => count > 0);
  const end = counts.findLastIndex((count) => count > 0) + 1;
  const zero = -lo / width;
  return { first, end, zero, low: Math.min(zero, first), high: Math.max(zero, end) };
}
const toRange = ({ lo, width }: Histogram, low: number, high: number): Range => ({ min: lo + low * width + 0, max: lo + high * width + 0 });

export function percentileRange(histogram: Histogram, percentile: number): Range {
  const { counts } = histogram;
  const { zero, low, high } = extent(histogram);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const twoSided = low < zero && high > zero;
  const cut = (total * (1 - percentile / 100)) / (twoSided ? 2 : 1);
  // The position, from one end, below which `cut` values lie, values evenly spread over their bin.
  const quantile = (order: number[]) => {
    let left = cut;
    for (const [steps, i] of order.entries()) {
      const count = counts[i]!;
      if (count > left || steps === order.length - 1) return { bin: i, share: count > 0 ? Math.min(1, left / count) : 1 };
      left -= count;
    }
    throw new Error('an empty histogram');
  };
  const inUse = Array.from({ length: extent(histogram).end - extent(histogram).first }, (_, i) => extent(histogram).first + i);
  let [bottom, top] = [low, high];
  if (high > zero) {
    const { bin, share } = quantile(inUse.toReversed());
    top = bin + 1 - share;
  }
  if (low < zero) {
    const { bin, share } = quantile(inUse);
    bottom = bin + share;
  }
  return toRange(histogram, Math.min(bottom, zero), Math.max(top, zero));
}

/** KL(P‖Q) of clipping to bins [low, high), P and Q made as Migacz's slides make them; a group of outliers only has 1e-4 in Q. */
export function divergence({ counts }: Histogram, levels: number, low: number, high: number): number {
  const begin = Math.max(0, Math.floor(low));
  const end = Math.min(counts.length, Math.floor(high));
  if (begin >= end) return Number.POSITIVE_INFINITY;
  const q0 = Array.from(counts.slice(begin, end));
  const p = [...q0];
  for (let i = 0; i < begin; i++) p[0]! += counts[i]!;
  for (let i = end; i < counts.length; i++) p[p.length - 1]! += counts[i]!;
  const q = p.map(() => 0);
  let start = 0;
  for (let level = 0; level < levels; level++) {
    const edge = level + 1 === levels ? end : Math.min(end, Math.max(0, Math.floor(low + ((level + 1) * (high - low)) / levels)));
    const stop = Math.max(start, edge - begin);
    const mass = q0.slice(start, stop).reduce((sum, count) => sum + count, 0);
    const used = p.slice(start, stop).filter((count) => count > 0).length;
    for (let i = start; i < stop; i++) if (p[i]! > 0) q[i] = Math.max(mass, 1e-4) / used;
    start = stop;
  }
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const [pTotal, qTotal] = [sum(p), sum(q0)];
  if (qTotal === 0) return Number.POSITIVE_INFINITY;
  let kl = 0;
  for (const [i, count] of p.entries()) {
    if (count === 0) continue;
    kl += (count / pTotal) * Math.log(count / pTotal / (q[i]! / qTotal));
  }
  return kl;
}

/** Every pair of ends: bins⁴ operations, so for small histograms only. */
export function entropyRange(histogram: Histogram, levels: number): Range {
  const { zero, low, high } = extent(histogram);
  let best = { low, high, kl: divergence(histogram, levels, low, high) };
  if (high - low <= levels) return toRange(histogram, low, high);
  const lows = low < zero ? Array.from({ length: Math.floor(zero) - low + 1 }, (_, i) => low + i) : [low];
  const highs = high > zero ? Array.from({ length: high - Math.ceil(zero) + 1 }, (_, i) => high - i) : [high];
  for (const a of lows)
    for (const b of highs) {
      if (b - a < levels) continue;
      const kl = divergence(histogram, levels, a, b);
      if (kl < best.kl) best = { low: a, high: b, kl };
    }
  return toRange(histogram, best.low, best.high);
}

/** Expected |x − Q(x)|^p a value when the range is [min, max], by the model that `mseRange` documents. */
export function expectedError(histogram: Histogram, levels: number, p: number, { min, max }: Range): number {
  const { lo, width, counts } = histogram;
  const inside = ((max - min) / (levels - 1) / 2) ** p / (p + 1);
  const zero = -lo / width;
  // Of the two bins that meet at zero the fuller one holds the zeros.
  const zeroBin = Number.isInteger(zero) ? ((counts[zero] ?? 0) >= (counts[zero - 1] ?? 0) ? zero : zero - 1) : -1;
  let total = 0;
  let error = 0;
  for (const [i, count] of counts.entries()) {
    const [low, high] = [lo + i * width, lo + (i + 1) * width];
    // The mean of distance^p over a bin that begins `from` and ends `to` away.
    const outside = (from: number, to: number) => (to ** (p + 1) - from ** (p + 1)) / ((p + 1) * width);
    total += count;
    if (low >= max) error += count * outside(low - max, high - max);
    else if (high <= min) error += count * outside(min - high, min - low);
    else error += count * (i === zeroBin ? Math.min(inside, width ** p / (p + 1)) : inside);
  }
  return error / total;
}

/** Every pair of bin edges. */
export function mseRange(
  histogram: Histogram,
  levels: number,
  { p = 2, includeZero = true }: { p?: number; includeZero?: boolean } = {},
): Range & { error: number } {
  const { first, end, zero, low, high } = extent(histogram);
  const edges = Array.from({ length: end - first + 1 }, (_, i) => first + i);
  const lows = includeZero ? [low, ...edges.filter((edge) => edge <= zero && edge > low)] : edges;
  const highs = includeZero ? [high, ...edges.filter((edge) => edge >= zero && edge < high)] : edges;
  let best: Range & { error: number } = { min: 0, max: 0, error: Number.POSITIVE_INFINITY };
  for (const a of lows)
    for (const b of highs) {
      if (a >= b) continue;
      const candidate = toRange(histogram, a, b);
      const error = expectedError(histogram, levels, p, candidate);
      if (error < best.error) best = { ...candidate, error };
    }
  return best;
}

// --------------------------------------------------------------------------------------------------------------- saturation

/** The layer's loops as they are written in a textbook: for each output value the list of (code, weight) in the kernel's order. */
function* products(x: Uint8Array, w: Int8Array, geometry: ConvGeometry): Generator<{ output: number; pairs: Array<[number, number]> }> {
  const { kind, inputShape, weightShape, zeroPoint = 0 } = geometry;
  if (kind === 'matmul') {
    const [m, k] = inputShape as [number, number];
    const n = weightShape[1]!;
    for (let row = 0; row < m; row++)
      for (let output = 0; output < n; output++)
        yield { output, pairs: Array.from({ length: k }, (_, i) => [x[row * k + i]!, w[i * n + output]!]) };
    return;
  }
  // One spatial axis is two of which the first is 1.
  const twoAxes = (values: number[], one: number) => (values.length === 1 ? [one, values[0]!] : values) as [number, number];
  const rank = inputShape.length - 1;
  const channels = inputShape[0]!;
  const [height, width] = twoAxes(inputShape.slice(1), 1);
  const [outputs, perGroup] = weightShape as [number, number];
  const [kh, kw] = twoAxes(weightShape.slice(2), 1);
  const [sh, sw] = twoAxes(geometry.strides ?? Array(rank).fill(1), 1);
  const [dh, dw] = twoAxes(geometry.dilations ?? Array(rank).fill(1), 1);
  const pads = geometry.pads ?? Array(2 * rank).fill(0);
  const [top, left] = twoAxes(pads.slice(0, rank), 0);
  const [bottom, right] = twoAxes(pads.slice(rank), 0);
  const group = geometry.group ?? 1;
  if (perGroup * group !== channels) throw new RangeError('group');
  for (let oy = 0; oy * sh + dh * (kh - 1) < height + top + bottom; oy++)
    for (let ox = 0; ox * sw + dw * (kw - 1) < width + left + right; ox++)
      for (let output = 0; output < outputs; output++) {
        const g = Math.floor(output / (outputs / group));
        const pairs: Array<[number, number]> = [];
        for (let ky = 0; ky < kh; ky++)
          for (let kx = 0; kx < kw; kx++)
            for (let c = 0; c < perGroup; c++) {
              const [iy, ix] = [oy * sh - top + ky * dh, ox * sw - left + kx * dw];
              const inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
              const code = inside ? x[((g * perGroup + c) * height + iy) * width + ix]! : zeroPoint;
              pairs.push([code, w[((output * perGroup + c) * kh + ky) * kw + kx]!]);
            }
        yield { output, pairs };
      }
}

/** One or two spatial axes. */
export function countSaturation(x: Uint8Array, w: Int8Array, geometry: ConvGeometry): Float64Array {
  const { kind, weightShape, group = 1 } = geometry;
  const outputs = kind === 'matmul' ? weightShape[1]! : weightShape[0]!;
  const counts = new Float64Array(outputs);
  if (kind === 'conv' && group > 1 && weightShape[1] === 1 && outputs === group) return counts;
  for (const { output, pairs } of products(x, w, geometry))
    for (let i = 0; i + 1 < pairs.length; i += 2) {
      const sum = pairs[i]![0] * pairs[i]![1] + pairs[i + 1]![0] * pairs[i + 1]![1];
      if (sum < -32768 || sum > 32767) counts[output]!++;
    }
  return counts;
}

// --------------------------------------------------------------------------------------------------------------------- GPTQ

export function gram(x: Float32Array, k: number, into: Float64Array): void {
  for (let row = 0; row < x.length; row += k)
    for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) into[i * k + j]! += x[row + i]! * x[row + j]!;
}

/** One or two spatial axes. */
export function convPatches(x: Float32Array, geometry: ConvGeometry, positions: Int32Array, group = 0): Float32Array {
  const { inputShape, weightShape } = geometry;
  const rank = inputShape.length - 1;
  const [height, width] = rank === 1 ? [1, inputShape[1]!] : [inputShape[1]!, inputShape[2]!];
  const [kh, kw] = rank === 1 ? [1, weightShape[2]!] : [weightShape[2]!, weightShape[3]!];
  const [sh, sw] = rank === 1 ? [1, geometry.strides?.[0] ?? 1] : (geometry.strides ?? [1, 1]);
  const [dh, dw] = rank === 1 ? [1, geometry.dilations?.[0] ?? 1] : (geometry.dilations ?? [1, 1]);
  const pads = geometry.pads ?? Array(2 * rank).fill(0);
  const [top, left, right] = rank === 1 ? [0, pads[0], pads[1]] : [pads[0], pads[1], pads[3]];
  const columns = Math.floor((width + left + right - dw! * (kw - 1) - 1) / sw!) + 1;
  const perGroup = weightShape[1]!;
  const patches: number[] = [];
  for (const position of positions)
    for (let c = group * perGroup; c < (group + 1) * perGroup; c++)
      for (let ky = 0; ky < kh; ky++)
        for (let kx = 0; kx < kw; kx++) {
          const iy = Math.floor(position / columns) * sh! - top + ky * dh!;
          const ix = (position % columns) * sw! - left + kx * dw!;
          patches.push(iy >= 0 && iy < height && ix >= 0 && ix < width ? x[(c * height + iy) * width + ix]! : 0);
        }
  return new Float32Array(patches);
}

export function convGram(x: Float32Array, geometry: ConvGeometry, positions: Int32Array, into: Float64Array): void {
  const k = geometry.weightShape.slice(1).reduce((product, dim) => product * dim, 1);
  for (let g = 0; g < (geometry.group ?? 1); g++)
    gram(convPatches(x, geometry, positions, g), k, into.subarray(g * k * k, (g + 1) * k * k));
}

/** As the paper has it: the inverse by Gauss–Jordan, its upper Cholesky factor, and each column's error spread over the rest. */
export function gptqRound(w: Float32Array, hessian: Float64Array, scales: Float32Array, options: GptqOptions = {}): Int8Array {
  const { dampening = 0.01, min = -127, max = 127 } = options;
  const k = w.length / scales.length;
  const groups = hessian.length / (k * k);
  if (groups > 1) {
    const rows = scales.length / groups;
    const codes = new Int8Array(w.length);
    for (let g = 0; g < groups; g++) {
      const [weights, matrix] = [w.subarray(g * rows * k, (g + 1) * rows * k), hessian.subarray(g * k * k, (g + 1) * k * k)];
      codes.set(gptqRound(weights, matrix, scales.subarray(g * rows, (g + 1) * rows), options), g * rows * k);
    }
    return codes;
  }
  let mean = 0;
  for (let i = 0; i < k; i++) mean += hessian[i * k + i]! / k;
  const damped = Array.from({ length: k }, (_, i) =>
    Array.from({ length: k }, (_, j) => hessian[i * k + j]! + (i === j ? (mean > 0 ? dampening * mean : 1) : 0)),
  );
  const inverse = invert(damped);
  // H⁻¹ = UᵀU
  const u = damped.map((row) => row.map(() => 0));
  for (let i = 0; i < k; i++)
    for (let j = i; j < k; j++) {
      let sum = inverse[i]![j]!;
      for (let t = 0; t < i; t++) sum -= u[t]![i]! * u[t]![j]!;
      u[i]![j] = i === j ? Math.sqrt(sum) : sum / u[i]![i]!;
    }
  const codes = new Int8Array(w.length);
  for (const [o, scale] of scales.entries()) {
    const row = Array.from(w.subarray(o * k, (o + 1) * k));
    for (let j = 0; j < k; j++) {
      const code = Math.min(max, Math.max(min, roundHalfEven(row[j]! / scale)));
      codes[o * k + j] = code;
      const error = (row[j]! - code * scale) / u[j]![j]!;
      for (let t = j + 1; t < k; t++) row[t]! -= error * u[j]![t]!;
    }
  }
  return codes;
}

function invert(matrix: number[][]): number[][] {
  const n = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let i = column; i < n; i++) if (Math.abs(rows[i]![column]!) > Math.abs(rows[pivot]![column]!)) pivot = i;
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    const scale = rows[column]![column]!;
    rows[column] = rows[column]!.map((value) => value / scale);
    for (let i = 0; i < n; i++) {
      if (i === column) continue;
      const factor = rows[i]![column]!;
      rows[i] = rows[i]!.map((value, j) => value - factor * rows[column]![j]!);
    }
  }
  return rows.map((row) => row.slice(n));
}
