/**
 * The kernels: this file validates, C++ computes on plain structs off the main thread. Each kernel has a plain TypeScript
 * reference of the same meaning in reference.ts, the oracle of its test.
 *
 * A buffer handed to an asynchronous kernel must be neither changed nor transferred until its promise is settled.
 */
import { constants } from 'node:buffer';
import { addon } from './load.ts';
import * as reference from './reference.ts';
import type { ObservedStatistics, ObserverOptions } from './types.ts';

export * from './ort.ts';
export type * from './types.ts';
export { reference };

interface NativeObserver {
  observe(x: Float32Array, dims: Float64Array): Promise<void>;
  result(): ObservedStatistics;
}
type Codes = Uint8Array | Int8Array;
type QuantizeArguments = [x: Float32Array, out: Codes, scales: Float32Array, zeroPoints: Int32Array, axisLength: number, inner: number];
type DequantizeArguments = [x: Codes, out: Float32Array, scales: Float32Array, zeroPoints: Int32Array, axisLength: number, inner: number];

const native = addon as unknown as {
  simdName(): 'avx2' | 'neon' | 'scalar';
  setSimd(level: string): boolean;
  cpuFeatures(): string[];
  mapFile(path: string, offset: number, length: number): Uint8Array;
  tryLock(fd: number, mode: string): boolean;
  quantizeLinear(...args: QuantizeArguments): Promise<void>;
  quantizeLinearSync(...args: QuantizeArguments): void;
  dequantizeLinear(...args: DequantizeArguments): Promise<void>;
  dequantizeLinearSync(...args: DequantizeArguments): void;
  range(x: Float32Array): Promise<{ min: number; max: number; nans: number; infs: number }>;
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
 * The mapping is released when the array (and every view of its buffer) is collected. At most 4 GB a view on Node 20.
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
  return native.mapFile(path, offset, length ?? -1);
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

  /** The statistics of the runs finished so far. */
  result(): ObservedStatistics {
    return this.#native.result();
  }
}
