/** The port through which the engine runs models; `runtime/` implements it on ONNX Runtime. */

/** Element types that cross the port, named as numpy names them. */
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

/** A dense tensor: little-endian bytes, row-major. `bytes` is never written to by its receiver. */
export interface TensorValue {
  type: ElementType;
  dims: number[];
  bytes: Uint8Array;
}

export interface ValueSignature {
  name: string;
  type: ElementType | 'other';
  /** −1 or a name = free. */
  dims: (number | string)[];
}

export interface SessionOptions {
  /** Threads inside an operator; 0 = all physical cores. */
  threads: number;
  optimization?: 'disable' | 'basic' | 'extended' | 'all';
  /** ONNX Runtime's session config entries. */
  config?: Record<string, string>;
  /** Optimizers to switch off by name, `;`-separated in ONNX Runtime's own entry. */
  disabledOptimizers?: string[];
  /** Where the profile is written (a path prefix); absent = no profile. */
  profilePrefix?: string;
  /** Where the optimized model is written; absent = nowhere. */
  optimizedModelPath?: string;
}

/** What one node of a profile cost. */
export interface ProfiledNode {
  /** Node name in the optimized graph. */
  name: string;
  /** The kernel's operator (Conv, QLinearConv, …). */
  operator: string;
  /** Microseconds, the median over the runs profiled. */
  us: number;
}

/** Statistics that an observer gathers of one value over all runs; see native/index.ts for how each is computed. */
export interface ObserverOptions {
  /** Histogram bins (a power of two); 0 = no histogram. */
  bins: number;
  /** Axis whose entries get statistics of their own (channel of a convolution's input or output); absent = none. May be negative. */
  channelAxis?: number;
  /** The histogram counts every so manieth piece of 64 elements of each run, from the first; everything else sees all. 1 by default. */
  histogramStride?: number;
}
export interface ObservedStatistics {
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
  /** `counts[i]` values in [lo + i·width, lo + (i+1)·width). */
  histogram: { lo: number; width: number; counts: Float64Array } | null;
  channels: { min: Float64Array; max: Float64Array; mean: Float64Array } | null;
}

export interface Session {
  readonly inputs: ValueSignature[];
  readonly outputs: ValueSignature[];
  readonly loadMs: number;
  /** Runs once; fetches default to all outputs. Values are copies that belong to the caller. */
  run(feeds: Record<string, TensorValue>, fetches?: string[]): Promise<Record<string, TensorValue>>;
  /**
   * Runs once and feeds the outputs that have an observer to it where they lie, without copying them into JavaScript.
   * `fetches` are returned as `run` returns them.
   */
  observe(
    feeds: Record<string, TensorValue>,
    observers: Record<string, Observer>,
    fetches?: string[],
  ): Promise<Record<string, TensorValue>>;
  /** Ends profiling and returns each node's cost; the session must have been opened with `profilePrefix`. */
  endProfile(): Promise<ProfiledNode[]>;
  close(): void;
}
export interface Observer {
  /** Adds what another observer of this runner, with the same options, has seen. */
  merge(other: Observer): void;
  result(): ObservedStatistics;
}
export interface Runner {
  /** ONNX Runtime's version. */
  readonly version: string;
  /** Physical cores: what 0 threads stands for. */
  readonly cores: number;
  /** `model`: a path, or the bytes of a model without external data. */
  open(model: string | Uint8Array, options: SessionOptions): Promise<Session>;
  observer(options: ObserverOptions): Observer;
  /** Sessions of one signature take turns over the feeds, outside JavaScript: ms of each run, by session and block. */
  interleave(
    sessions: Session[],
    feeds: Record<string, TensorValue>[],
    options: { blocks: number; seconds: number },
  ): Promise<Float64Array[][]>;
}
