/**
 * ONNX Runtime through its C API, typed. Everything that comes from a caller is validated here, before it crosses into C++;
 * what the runtime itself refuses comes back as an OrtError with the runtime's own words.
 */
import { addon } from './load.ts';
import type { ElementType, TensorValue } from './types.ts';

/** An input or output of a model. A free dimension is its name, or −1 when it has none; `other` = no tensor of numbers. */
export interface OrtSignature {
  name: string;
  type: ElementType | 'other';
  dims: (number | string)[];
}

export interface OrtOptions {
  /** Threads inside an operator, at least 1. Without effect in a process that called `ortPrepare` with threads. */
  threads: number;
  optimization?: 'disable' | 'basic' | 'extended' | 'all';
  /** Session config entries; unknown keys are accepted silently by the runtime. */
  config?: Record<string, string>;
  /** Prefix of the profile's path; the runtime adds a time stamp and .json. */
  profilePrefix?: string;
  optimizedModelPath?: string;
}

/** What ONNX Runtime refused; `ortMessage` is its message, word for word. Absent when the addon itself refused. */
class OrtError extends Error {
  override readonly name = 'OrtError';
  readonly ortMessage: string | undefined;
  constructor(message: string, ortMessage?: string, cause?: unknown) {
    super(message, { cause });
    this.ortMessage = ortMessage;
  }
}

/** ONNXTensorElementDataType ↔ our name and the size of an element. */
const TYPES: [ElementType, number, number][] = [
  ['float32', 1, 4],
  ['uint8', 2, 1],
  ['int8', 3, 1],
  ['uint16', 4, 2],
  ['int16', 5, 2],
  ['int32', 6, 4],
  ['int64', 7, 8],
  ['bool', 9, 1],
  ['float16', 10, 2],
  ['float64', 11, 8],
  ['uint32', 12, 4],
  ['uint64', 13, 8],
];
const codeOf = new Map(TYPES.map(([name, code]) => [name, code]));
const nameOf = new Map(TYPES.map(([name, code]) => [code, name]));
const sizeOf = new Map(TYPES.map(([name, , size]) => [name, size]));
const LEVELS = { disable: 0, basic: 1, extended: 2, all: 99 } as const;

type NativeFeed = [name: string, type: number, dims: number[], bytes: Uint8Array];
type NativeTensor = [type: number, dims: number[], bytes: Uint8Array];
interface NativeSignature {
  name: string;
  type: number;
  dims: (number | string)[];
}
interface NativeSession {
  handle: object;
  inputs: NativeSignature[];
  outputs: NativeSignature[];
  loadMs: number;
}
interface NativeOrt {
  ortVersion(libraryPath: string): string;
  ortPrepare(libraryPath: string, globalThreads: number): void;
  ortOpen(libraryPath: string, model: string | Uint8Array, options: object): Promise<NativeSession>;
  ortRun(handle: object, feeds: NativeFeed[], outputs: string[], fetched: number, observers: unknown[]): Promise<NativeTensor[]>;
  ortBench(handles: object[], feeds: NativeFeed[][], options: OrtBenchOptions): Promise<Float64Array[][]>;
  ortEndProfiling(handle: object): Promise<string>;
  ortClose(handle: object): void;
}
const native = addon as unknown as NativeOrt;

/** Turns the addon's rejection into an OrtError that knows who called; `folder` is taken out of its words, which users may see. */
async function told<T>(work: Promise<T>, folder = ''): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const { message, ortMessage } = error as { message: string; ortMessage?: string };
    const plain = (text: string) => (folder.length < 2 ? text : text.replaceAll(folder, ''));
    throw new OrtError(plain(message), ortMessage === undefined ? undefined : plain(ortMessage), error);
  }
}

function signatures(from: NativeSignature[]): OrtSignature[] {
  return from.map(({ name, type, dims }) => ({ name, type: nameOf.get(type) ?? 'other', dims }));
}

const dimsText = (dims: (number | string)[]) => `[${dims.map((dim) => (dim === -1 ? '?' : dim)).join(', ')}]`;

/** Checks feeds against the model's inputs: names, types, shapes, byte lengths. Throws an OrtError that names the input. */
function checkFeeds(inputs: OrtSignature[], feeds: Record<string, TensorValue>): NativeFeed[] {
  const known = new Map(inputs.map((input) => [input.name, input]));
  for (const name of Object.keys(feeds)) {
    if (!known.has(name)) throw new OrtError(`the model has no input '${name}'; its inputs are ${[...known.keys()].join(', ')}`);
  }
  return inputs.map((input): NativeFeed => {
    const feed = Object.hasOwn(feeds, input.name) ? feeds[input.name] : undefined;
    if (feed === undefined) throw new OrtError(`input '${input.name}' is missing from the feeds`);
    const size = sizeOf.get(feed.type);
    if (input.type === 'other') throw new OrtError(`input '${input.name}' is not a tensor of numbers, which cannot be fed`);
    if (feed.type !== input.type || size === undefined) throw new OrtError(`input '${input.name}' wants ${input.type}, got ${feed.type}`);
    if (!feed.dims.every((dim) => Number.isSafeInteger(dim) && dim >= 0))
      throw new OrtError(`input '${input.name}': ${dimsText(feed.dims)} is not a shape`);
    // Rank 0 also stands for a shape that the model does not tell: the runtime knows which it is, and checks.
    const fits =
      input.dims.length === 0 ||
      (feed.dims.length === input.dims.length &&
        feed.dims.every((dim, i) => typeof input.dims[i] === 'string' || input.dims[i] === -1 || input.dims[i] === dim));
    if (!fits) throw new OrtError(`input '${input.name}' wants the shape ${dimsText(input.dims)}, got ${dimsText(feed.dims)}`);
    const bytes = feed.dims.reduce((product, dim) => product * dim, size);
    if (bytes !== feed.bytes.byteLength)
      throw new OrtError(`input '${input.name}': ${feed.type} ${dimsText(feed.dims)} takes ${bytes} bytes, got ${feed.bytes.byteLength}`);
    if (!(feed.bytes instanceof Uint8Array)) throw new OrtError(`input '${input.name}': bytes must be a Uint8Array`);
    return [input.name, codeOf.get(feed.type)!, feed.dims, feed.bytes];
  });
}

/** A model loaded in ONNX Runtime on the CPU. Runs may overlap. Free it with `close`; else the garbage collector does, some time. */
export class OrtSession {
  readonly inputs: OrtSignature[];
  readonly outputs: OrtSignature[];
  /** Time of the runtime's own session creation: parsing, graph optimization, packing of weights. */
  readonly loadMs: number;
  readonly #handle: object;
  readonly #outputs: Map<string, OrtSignature>;

  private constructor(session: NativeSession) {
    this.inputs = signatures(session.inputs);
    this.outputs = signatures(session.outputs);
    this.loadMs = session.loadMs;
    this.#handle = session.handle;
    this.#outputs = new Map(this.outputs.map((output) => [output.name, output]));
  }

  /**
   * Loads a model: a path (external data is looked for beside it), or the bytes of a model without external data. Sequential
   * execution, one thread between operators. Throws OrtError when the runtime refuses the model.
   */
  static async open(libraryPath: string, model: string | Uint8Array, options: OrtOptions): Promise<OrtSession> {
    if (!Number.isInteger(options.threads) || options.threads < 1 || options.threads > 1024)
      throw new OrtError(`threads must be an integer from 1 to 1024, got ${options.threads}`);
    const session = await told(
      native.ortOpen(libraryPath, model, {
        threads: options.threads,
        level: LEVELS[options.optimization ?? 'all'],
        config: Object.entries(options.config ?? {}).flat(),
        profilePrefix: options.profilePrefix,
        optimizedModelPath: options.optimizedModelPath,
      }),
      typeof model === 'string' ? model.slice(0, model.lastIndexOf('/') + 1) : '',
    );
    return new OrtSession(session);
  }

  #fetchable(name: string): void {
    const output = this.#outputs.get(name);
    if (output === undefined)
      throw new OrtError(`the model has no output '${name}'; its outputs are ${[...this.#outputs.keys()].join(', ')}`);
    if (output.type === 'other') throw new OrtError(`output '${name}' is not a tensor of numbers, which cannot be fetched`);
  }

  /** Runs once off the main thread; outputs (all of them by default) are copied once into memory of their own. */
  run(feeds: Record<string, TensorValue>, fetches?: string[]): Promise<Record<string, TensorValue>> {
    return this.observe(feeds, {}, fetches ?? this.outputs.map(({ name }) => name));
  }

  /**
   * Runs once and feeds outputs to their observers (the addon's own objects: `handle` of Observer) where they lie, off the main
   * thread: float32 as it is, other number types converted to float32. Returns the outputs that `fetches` names.
   */
  async observe(
    feeds: Record<string, TensorValue>,
    observers: Record<string, object>,
    fetches: string[] = [],
  ): Promise<Record<string, TensorValue>> {
    const wanted = [...new Set(fetches)];
    const names = [...wanted, ...Object.keys(observers).filter((name) => !wanted.includes(name))];
    for (const name of names) this.#fetchable(name);
    if (names.length === 0) throw new OrtError('a run needs at least one output to fetch or observe');
    const handles = names.map((name) => (Object.hasOwn(observers, name) ? observers[name] : null));
    const values = await told(native.ortRun(this.#handle, checkFeeds(this.inputs, feeds), names, wanted.length, handles));
    return Object.fromEntries(values.map(([type, dims, bytes], i) => [wanted[i]!, { type: nameOf.get(type)!, dims, bytes }]));
  }

  /** Ends profiling and returns the profile's path. */
  endProfiling(): Promise<string> {
    return told(native.ortEndProfiling(this.#handle));
  }

  /** Frees the session, once the runs in flight are over. Twice is once. */
  close(): void {
    native.ortClose(this.#handle);
  }

  /** For `benchInterleaved`. */
  static bench(sessions: OrtSession[], feeds: Record<string, TensorValue>[], options: OrtBenchOptions): Promise<Float64Array[][]> {
    const sets = feeds.map((set) => {
      for (const session of sessions) checkFeeds(session.inputs, set);
      return checkFeeds(sessions[0]!.inputs, set);
    });
    return told(
      native.ortBench(
        sessions.map((session) => session.#handle),
        sets,
        options,
      ),
    );
  }
}

export interface OrtBenchOptions {
  blocks: number;
  /** A block ends when it has lasted so long, all sessions together, and has `minRuns` of each. */
  secondsPerBlock: number;
  minRuns: number;
  maxRuns: number;
  /** How long one session runs before the next has its turn; at least one run. */
  burstSeconds: number;
  /** Where the slowest session's run is shorter than this, the first run of each burst is not counted. */
  discardBelowSeconds: number;
}

/**
 * Milliseconds of each run, by session and block. The sessions (same inputs) take turns in bursts of equal numbers of runs and
 * in turning order; the feeds are gone through in a circle, in step for all. No JavaScript runs in the loop. Throws OrtError.
 */
export async function benchInterleaved(
  sessions: OrtSession[],
  feeds: Record<string, TensorValue>[],
  options: OrtBenchOptions,
): Promise<Float64Array[][]> {
  if (sessions.length === 0 || feeds.length === 0) throw new OrtError('a benchmark needs a session and feeds');
  return OrtSession.bench(sessions, feeds, options);
}

/** Version of the library at this path, which is loaded by this call if no other is. One library a process. */
export function ortVersion(libraryPath: string): string {
  return native.ortVersion(libraryPath);
}

/**
 * Creates the runtime's environment now, before the first session does. With `globalThreads` > 0 all sessions of the process
 * share one pool of so many threads: sessions with pools of their own spin against each other when they take turns.
 */
export function ortPrepare(libraryPath: string, globalThreads = 0): void {
  native.ortPrepare(libraryPath, globalThreads);
}
