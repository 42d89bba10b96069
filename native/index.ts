/**
 * The kernels: this file validates, C++ computes on plain structs off the main thread. Each kernel has a plain TypeScript
 * reference of the same meaning in reference.ts, the oracle of its test.
 *
 * A buffer handed to an asynchronous kernel must be neither changed nor transferred until its promise is settled.
 */
import { constants } from 'node:buffer';
import { packGeometry } from './geometry.ts';
import { addon } from './load.ts';
import * as reference from './reference.ts';
import type { ConvGeometry, GptqOptions, Histogram, ObservedStatistics, ObserverOptions, Range } from './types.ts';

export * from './ort.ts';
export type * from './types.ts';
export { reference };

interface NativeObserver {
  observe(x: Float32Array, dims: Float64Array): Promise<void>;
  merge(other: object): void;
  result(): ObservedStatistics;
}
type Codes = Uint8Array | Int8Array;
type QuantizeArguments = [x: Float32Array, out: Codes, scales: Float32Array, zeroPoints: Int32Array, axisLength: number, inner: number];
type DequantizeArguments = [x: Codes, out: Float32Array, scales: Float32Array, zeroPoints: Int32Array, axisLength: number, inner: number];

const native = addon as unknown as {
  simdName(): 'avx2' | 'neon' | 'scalar';
  setSimd(level: string): boolean;
  cpuFeatures(): string[];
  mapFile(path: string, offset: number, length: number, longest: number): Uint8Array;
  tryLock(fd: number, mode: string): boolean;
  quantizeLinear(...args: QuantizeArguments): Promise<void>;
  quantizeLinearSync(...args: QuantizeArguments): void;
  dequantizeLinear(...args: DequantizeArguments): Promise<void>;
  dequantizeLinearSync(...args: DequantizeArguments): void;
  range(x: Float32Array): Promise<{ min: number; max: number; nans: number; infs: number }>;
  percentileRange(lo: number, width: number, counts: Float64Array, percentile: number): Range;
  entropyRange(lo: number, width: number, counts: Float64Array, levels: number): Range;
  mseRange(lo: number, width: number, counts: Float64Array, levels: number, p: number, includeZero: boolean): Range & { error: number };
  countSaturation(x: Uint8Array, w: Int8Array, geometry: Float64Array, counts: Float64Array): Promise<void>;
  gram(x: Float32Array, rows: number, k: number, into: Float64Array): Promise<void>;
  convGram(x: Float32Array, geometry: Float64Array, positions: Int32Array, into: Float64Array): Promise<void>;
  convPatches(x: Float32Array, geometry: Float64Array, positions: Int32Array, group: number, patches: Float32Array): Promise<void>;
  gptqRound(
    w: Float32Array,
    hessian: Float64Array,
    scales: Float32Array,
    k: number,
    dampening: number,
    min: number,
    max: number,
    out: Int8Array,
  ): Promise<void>;
  Observer: new (bins: number, channelAxis: number | undefined, histogramStride: number) => NativeObserver;
};

/** An error made in C++ has no JavaScript frames: it gets those of the call that started the work. */
async function traced<T>(work: Promise<T>): Promise<T> {
  const call = new Error();
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && call.stack)
      error.stack = `${error.name}: ${error.message}\n${call.stack.split('\n').slice(2).join('\n')}`;
    throw error;
  }
}

function requireType(value: unknown, classes: Array<new (...args: never[]) => unknown>, what: string): void {
  if (!classes.some((type) => value instanceof type))
    throw new TypeError(`${what} must be a ${classes.map((type) => type.name).join(' or ')}`);
}
function requireInteger(value: number, least: number, most: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < least || value > most)
    throw new RangeError(`${what} must be an integer from ${least} to ${most}, not ${value}`);
}

// ------------------------------------------------------------------------------------------------------------------ machine

/** What the kernels use on this processor when nothing was lowered by `setSimd`. */
export const simd: 'avx512' | 'avx2' | 'neon' | 'scalar' = native.simdName();

/** Lowers or restores the instruction set of kernels started from now on; results are the same bits. For tests and benches. */
export function setSimd(level: 'auto' | 'scalar' | 'avx2'): void {
  if (level !== 'auto' && level !== 'scalar' && level !== 'avx2') throw new TypeError(`unknown SIMD level '${level}'`);
  if (!native.setSimd(level)) throw new Error(`this processor has no ${level}`);
}

/**
 * Instruction-set extensions that this processor has and the operating system enables, lower case as /proc/cpuinfo names them:
 * from CPUID on x86-64, from the auxiliary vector on arm64 Linux, from sysctl on macOS.
 */
export function cpuFeatures(): string[] {
  return native.cpuFeatures();
}

// -------------------------------------------------------------------------------------------------------------------- files

/**
 * Maps `length` bytes of a file from `offset` (any, default 0; default the rest) into memory, read-only, without reading them.
 * The mapping is released when the array (and every view of its buffer) is collected. One array holds at most
 * `buffer.constants.MAX_LENGTH` bytes (4 GB on Node 20); a longer file is mapped in parts.
 *
 * Writing to it kills the process (SIGSEGV), and so does reading a page that another process has cut off the file meanwhile
 * (SIGBUS): map only files that nobody truncates, such as stored objects and a job's own working copies.
 *
 * @throws Error with `code` when the file cannot be opened or mapped, RangeError when the bytes are outside the file.
 */
export function mapFile(path: string, offset = 0, length?: number): Uint8Array {
  if (typeof path !== 'string' || path.includes('\0')) throw new TypeError('path must be a string without NUL');
  requireInteger(offset, 0, Number.MAX_SAFE_INTEGER, 'offset');
  if (length !== undefined) requireInteger(length, 0, constants.MAX_LENGTH, 'length');
  return native.mapFile(path, offset, length ?? -1, constants.MAX_LENGTH);
}

/**
 * flock(2) on an open file: advisory, between processes, dropped by the kernel when the holder dies or closes the file.
 * Resolves to whether the lock was taken; with `wait` it is tried again every few milliseconds until it is (a blocking flock
 * would hold one of libuv's four threads, and the process could not exit before it returned).
 */
export async function lockFile(fd: number, mode: 'shared' | 'exclusive' | 'unlock', wait: boolean): Promise<boolean> {
  requireInteger(fd, 0, 2 ** 31 - 1, 'fd');
  if (mode !== 'shared' && mode !== 'exclusive' && mode !== 'unlock') throw new TypeError(`unknown lock mode '${mode}'`);
  for (let pause = 2; ; pause = Math.min(50, pause * 2)) {
    if (native.tryLock(fd, mode)) return true;
    if (!wait) return false;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// ------------------------------------------------------------------------------------------------------------- quantization

function checkLinear(
  floats: Float32Array,
  codes: Codes,
  scales: Float32Array,
  zeroPoints: Int32Array,
  axisLength: number,
  inner: number,
): void {
  requireType(floats, [Float32Array], 'the float side');
  requireType(codes, [Uint8Array, Int8Array], 'the integer side');
  requireType(scales, [Float32Array], 'scales');
  requireType(zeroPoints, [Int32Array], 'zeroPoints');
  if (codes.length !== floats.length) throw new RangeError(`${floats.length} floats, but ${codes.length} codes`);
  requireInteger(axisLength, 1, Number.MAX_SAFE_INTEGER, 'axisLength');
  requireInteger(inner, 1, Number.MAX_SAFE_INTEGER, 'inner');
  if (scales.length !== axisLength || zeroPoints.length !== axisLength)
    throw new RangeError(`axisLength is ${axisLength}, but there are ${scales.length} scales and ${zeroPoints.length} zero points`);
  // Per tensor any view is the same.
  if (axisLength > 1 && floats.length % (axisLength * inner) !== 0)
    throw new RangeError(`${floats.length} elements are no multiple of axisLength × inner = ${axisLength} × ${inner}`);
  const [least, most] = codes instanceof Int8Array ? [-128, 127] : [0, 255];
  for (const zeroPoint of zeroPoints)
    if (zeroPoint < least || zeroPoint > most) throw new RangeError(`zero point ${zeroPoint} is outside ${least}..${most}`);
}

/**
 * ONNX's QuantizeLinear to uint8 or int8 (by `out`'s type), bit-exact with ONNX Runtime: clip(roundHalfEven(x / scale) + zp),
 * the division in float32, infinities saturating, NaN to the lowest code. `x` is viewed as [outer, axisLength, inner];
 * `scales` and `zeroPoints` have length axisLength (1 = per tensor).
 * @throws TypeError, RangeError on shapes that do not fit or a zero point outside the type.
 */
export async function quantizeLinear(...args: QuantizeArguments): Promise<void> {
  const [x, out, scales, zeroPoints, axisLength, inner] = args;
  checkLinear(x, out, scales, zeroPoints, axisLength, inner);
  await traced(native.quantizeLinear(...args));
}

/** `quantizeLinear` on the calling thread, for small tensors (weights). */
export function quantizeLinearSync(...args: QuantizeArguments): void {
  const [x, out, scales, zeroPoints, axisLength, inner] = args;
  checkLinear(x, out, scales, zeroPoints, axisLength, inner);
  native.quantizeLinearSync(...args);
}

/** ONNX's DequantizeLinear: float32(x − zp) · scale, with `quantizeLinear`'s view of the shape. */
export async function dequantizeLinear(...args: DequantizeArguments): Promise<void> {
  const [x, out, scales, zeroPoints, axisLength, inner] = args;
  checkLinear(out, x, scales, zeroPoints, axisLength, inner);
  await traced(native.dequantizeLinear(...args));
}

/** `dequantizeLinear` on the calling thread. */
export function dequantizeLinearSync(...args: DequantizeArguments): void {
  const [x, out, scales, zeroPoints, axisLength, inner] = args;
  checkLinear(out, x, scales, zeroPoints, axisLength, inner);
  native.dequantizeLinearSync(...args);
}

// -------------------------------------------------------------------------------------------------------------- observation

/** Minimum and maximum of the finite values (+Infinity and −Infinity when there are none), and how many were not finite. */
export async function range(x: Float32Array): Promise<{ min: number; max: number; nans: number; infs: number }> {
  requireType(x, [Float32Array], 'x');
  return await traced(native.range(x));
}

/**
 * Gathers `ObservedStatistics` of one value over all runs of the calibration set. Memory is constant: 8 bytes a bin and 24 a
 * channel. Each `observe` is one run.
 */
export class Observer {
  /** The addon's own object: what the ONNX Runtime binding feeds where the tensor lies. */
  readonly handle: object;
  readonly #native: NativeObserver;
  /** Runs are added one after the other, so that sums do not depend on which thread was faster. */
  #last: Promise<void> = Promise.resolve();

  /** @throws RangeError, TypeError on options outside their ranges. */
  constructor(options: ObserverOptions) {
    const { bins, channelAxis, histogramStride = 1 } = options;
    requireInteger(bins, 0, 65536, 'bins');
    if (bins !== 0 && (bins < 16 || (bins & (bins - 1)) !== 0))
      throw new RangeError(`bins must be 0 or a power of two from 16, not ${bins}`);
    if (channelAxis !== undefined) requireInteger(channelAxis, -1024, 1023, 'channelAxis');
    requireInteger(histogramStride, 1, 2 ** 31 - 1, 'histogramStride');
    this.#native = new native.Observer(bins, channelAxis, histogramStride);
    this.handle = this.#native;
  }

  /**
   * Adds one run. Rejects when `dims` does not give x's length, the channel axis is outside it, or the number of channels
   * differs from the first run's; nothing is added then.
   */
  async observe(x: Float32Array, dims: number[]): Promise<void> {
    requireType(x, [Float32Array], 'x');
    for (const dim of dims) requireInteger(dim, 0, Number.MAX_SAFE_INTEGER, 'a dimension');
    const shape = Float64Array.from(dims);
    const run = this.#last.then(() => this.#native.observe(x, shape));
    this.#last = run.catch(() => {});
    await traced(run);
  }

  /**
   * Adds the runs that another observer with the same options has seen, as if this one had seen them after its own.
   * @throws Error where the options or the numbers of channels differ
   */
  merge(other: Observer): void {
    this.#native.merge(other.handle);
  }

  /** The statistics of the runs finished so far. */
  result(): ObservedStatistics {
    return this.#native.result();
  }
}

// --------------------------------------------------------------------------------------------------------------- thresholds

function checkHistogram(histogram: Histogram): void {
  const { lo, width, counts } = histogram;
  if (!Number.isFinite(lo) || !(width > 0) || !Number.isFinite(width)) throw new RangeError(`a histogram from ${lo} in steps of ${width}`);
  requireType(counts, [Float64Array], 'counts');
  requireInteger(counts.length, 1, 2 ** 24, 'the number of bins');
  let total = 0;
  for (const count of counts) {
    if (!(count >= 0)) throw new RangeError(`a bin counts ${count}`);
    total += count;
  }
  if (!(total > 0) || !Number.isFinite(total)) throw new RangeError('the histogram is empty');
}

/**
 * The range that keeps `percentile` % (above 0, at most 100) of the values: half of the others is cut on each side of zero that
 * has values, all of them on the one side when the other has none. It always includes 0. As with all three searches the ends lie
 * on or between bin edges: where nothing is clipped they may exceed the observed extremes by less than a bin.
 * @throws RangeError on an empty histogram or a percentile outside (0, 100].
 */
export function percentileRange(histogram: Histogram, percentile: number): Range {
  checkHistogram(histogram);
  if (!(percentile > 0 && percentile <= 100)) throw new RangeError(`percentile must be above 0 and at most 100, not ${percentile}`);
  return native.percentileRange(histogram.lo, histogram.width, histogram.counts, percentile);
}

/**
 * Migacz 2017 (TensorRT): the range whose values, quantized to `levels` levels, diverge least (Kullback–Leibler) from those seen.
 * Both ends are searched where values lie on both sides of 0; 0 is always included, and the range is at least `levels` bins
 * wide, so histograms should have eight bins a level. Coarse to fine, about 1 ms at 2048 bins and 256 levels.
 * @throws RangeError on an empty histogram or levels outside 2..65536.
 */
export function entropyRange(histogram: Histogram, levels: number): Range {
  checkHistogram(histogram);
  requireInteger(levels, 2, 65536, 'levels');
  return native.entropyRange(histogram.lo, histogram.width, histogram.counts, levels);
}

/**
 * The range with the least expected |x − Q(x)|^p, in closed form from the counts: (Δ/2)^p/(p+1) a value inside (Δ²/12 for p = 2),
 * the distance to the range's end to the power p outside; the bin at zero is taken to hold zeros, which are exact. Grid search
 * over both ends, coarse to fine, under 1 ms. `error` is the expectation per value. `p` from 1 to 8, default 2;
 * `includeZero` default true.
 * @throws RangeError on an empty histogram, levels outside 2..65537, or p outside 1..8.
 */
export function mseRange(
  histogram: Histogram,
  levels: number,
  options: { p?: number; includeZero?: boolean } = {},
): Range & { error: number } {
  checkHistogram(histogram);
  requireInteger(levels, 2, 65537, 'levels');
  const { p = 2, includeZero = true } = options;
  if (!(p >= 1 && p <= 8)) throw new RangeError(`p must be from 1 to 8, not ${p}`);
  return native.mseRange(histogram.lo, histogram.width, histogram.counts, levels, p, includeZero);
}

// --------------------------------------------------------------------------------------------------------------- saturation

/**
 * How many u8×s8 product pairs of one sample leave 16 bits, by output channel: what x86 processors without VNNI clip. Exact:
 * k ordered (kernel row, kernel column, input channel of the group), pairs (2i, 2i+1), padding = the input's zero point, the
 * last of an odd number alone. Depthwise convolutions (one input and one output channel a group) never saturate: all 0.
 * `x`: the input's codes, [C, H, W] or [M, K]; `w`: the weights' codes, OIHW or [K, N].
 * @throws RangeError when the lengths do not fit the geometry.
 */
export async function countSaturation(x: Uint8Array, w: Int8Array, geometry: ConvGeometry): Promise<Float64Array> {
  requireType(x, [Uint8Array], 'x');
  requireType(w, [Int8Array], 'w');
  const packed = packGeometry(geometry);
  requireLength(x, packed.inputLength, 'x');
  requireLength(w, packed.weightLength, 'w');
  const counts = new Float64Array(packed.outputs);
  await traced(native.countSaturation(x, w, packed.numbers, counts));
  return counts;
}

// --------------------------------------------------------------------------------------------------------------------- GPTQ

function requireLength(array: { length: number }, length: number, what: string): void {
  if (array.length !== length) throw new RangeError(`${what} has ${array.length} elements, ${length} are needed`);
}

/** Two additions into one matrix must not overlap, and their order decides its last bits: each waits for the one before. */
const pending = new WeakMap<Float64Array, Promise<void>>();
function inTurn(into: Float64Array, work: () => Promise<void>): Promise<void> {
  const turn = (pending.get(into) ?? Promise.resolve()).then(work);
  pending.set(
    into,
    turn.catch(() => {}),
  );
  return turn;
}

/**
 * Adds XᵀX of `x` [N, K] to `into` [K, K], in double, row by row (the same bits whatever the SIMD level): the Hessian of a
 * layer's squared output error, up to a factor. N·K²/2 multiply-adds.
 * @throws RangeError when x is no multiple of k or `into` not k × k.
 */
export async function gram(x: Float32Array, k: number, into: Float64Array): Promise<void> {
  requireType(x, [Float32Array], 'x');
  requireType(into, [Float64Array], 'into');
  requireInteger(k, 1, 2 ** 20, 'k');
  if (x.length % k !== 0) throw new RangeError(`x has ${x.length} elements, no multiple of k = ${k}`);
  requireLength(into, k * k, 'into');
  await traced(inTurn(into, () => native.gram(x, x.length / k, k, into)));
}

function checkPositions(positions: Int32Array, count: number): void {
  requireType(positions, [Int32Array], 'positions');
  for (const position of positions)
    if (position < 0 || position >= count) throw new RangeError(`position ${position} is outside the ${count} of the output`);
}

/**
 * `gram` of a convolution's patches at `positions` (flat indices into one sample's output) for all groups at once, without the
 * patches ever existing whole: `x` is [C, H, W], `into` [group, K, K] with K in the order of ONNX's weights; padding is 0.
 * @throws RangeError when lengths or positions do not fit the geometry.
 */
export async function convGram(x: Float32Array, geometry: ConvGeometry, positions: Int32Array, into: Float64Array): Promise<void> {
  const packed = checkConv(x, geometry);
  requireType(into, [Float64Array], 'into');
  checkPositions(positions, packed.positions);
  requireLength(into, packed.group * packed.k * packed.k, 'into');
  await traced(inTurn(into, () => native.convGram(x, packed.numbers, positions, into)));
}

/** The patches themselves, of one group: [positions, K], K in the order of ONNX's weights. */
export async function convPatches(x: Float32Array, geometry: ConvGeometry, positions: Int32Array, group = 0): Promise<Float32Array> {
  const packed = checkConv(x, geometry);
  checkPositions(positions, packed.positions);
  requireInteger(group, 0, packed.group - 1, 'group');
  const patches = new Float32Array(positions.length * packed.k);
  await traced(native.convPatches(x, packed.numbers, positions, group, patches));
  return patches;
}

function checkConv(x: Float32Array, geometry: ConvGeometry) {
  if (geometry.kind !== 'conv') throw new TypeError("patches are of a 'conv' geometry");
  requireType(x, [Float32Array], 'x');
  const packed = packGeometry(geometry);
  requireLength(x, packed.inputLength, 'x');
  return packed;
}

/**
 * GPTQ (Frantar et al. 2023): rounds `w` [O, K] column by column to codes with w ≈ code · scales[row], each column's error made up
 * for in those still to come by what `hessian` [K, K] (a `gram`) says of their inputs. No reordering, zero point 0. Columns that
 * no sample excited are rounded to nearest. `hessian` may be several, [G, K, K] as `convGram` gives them: then each serves O/G
 * rows in turn. G·K³/6 + O·K²/2 multiply-adds.
 * @throws RangeError on shapes, scales that are not positive, an empty code range; Error when the Hessian has no Cholesky factor
 * even with its mean diagonal added.
 */
export async function gptqRound(
  w: Float32Array,
  hessian: Float64Array,
  scales: Float32Array,
  options: GptqOptions = {},
): Promise<Int8Array> {
  requireType(w, [Float32Array], 'w');
  requireType(hessian, [Float64Array], 'hessian');
  requireType(scales, [Float32Array], 'scales');
  const { dampening = 0.01, min = -127, max = 127 } = options;
  const k = w.length / scales.length;
  requireInteger(k, 1, 2 ** 20, 'the columns of w (its length ÷ rows)');
  const groups = hessian.length / (k * k);
  if (!Number.isInteger(groups) || groups < 1 || scales.length % groups !== 0)
    throw new RangeError(`hessian has ${hessian.length} elements: not one ${k} × ${k} matrix a group of the ${scales.length} rows`);
  for (const scale of scales) if (!(scale > 0) || !Number.isFinite(scale)) throw new RangeError(`a scale is ${scale}`);
  if (!(dampening >= 0 && dampening <= 1)) throw new RangeError(`dampening must be from 0 to 1, not ${dampening}`);
  requireInteger(min, -128, 127, 'min');
  requireInteger(max, min, 127, 'max');
  const codes = new Int8Array(w.length);
  await traced(native.gptqRound(w, hessian, scales, k, dampening, min, max, codes));
  return codes;
}
