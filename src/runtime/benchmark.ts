/**
 * Latency and memory of model files, each measured in processes of their own. Results only: what counts as faster is decided by
 * who asks. The machine should do nothing else meanwhile (machine-lock.ts).
 */
import { fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Interval, LatencySummary } from '../domain/job.ts';
import type { BenchEvent, BenchTask, MemoryFigures } from './bench-protocol.ts';
import { type Library, loadLibrary } from './library.ts';
import { physicalCores } from './machine.ts';
import { medianInterval } from './statistics.ts';

export interface BenchmarkRequest {
  /** The float model's path. */
  float: string;
  /** Paths of the models that are compared with it: same inputs, by name, type and shape. */
  variants: string[];
  /** A file of feeds.ts with the first samples; runs go through them in a circle. */
  feedsPath: string;
  /** Threads inside an operator; 0 = all physical cores. */
  threads: number;
  /** Time for each pair of models, warm-up and loading apart; slow models take longer. Default 2. */
  seconds?: number;
  library?: Library;
  signal?: AbortSignal;
  /** Share done, 0..1. */
  onProgress?: (done: number) => void;
}

export interface BenchmarkResult {
  float: LatencySummary;
  /** In the order asked. `speedup`: float time ÷ variant's time. */
  variants: { latencyMs: LatencySummary; speedup: Interval }[];
}

/** Compiled, the process's file lies beside this one; from source (in tests) it is the one that the last build left in dist. */
function childPath(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const candidates = [join(here, 'bench-child.js'), join(here, '..', '..', 'dist', 'src', 'runtime', 'bench-child.js')];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined)
    throw new Error(`The benchmark process is not built (looked for ${candidates.join(' and ')}). Run: npm run build`);
  return found;
}

/** Runs one task in a process of its own; rejects when it fails, dies, or is aborted (the process is then killed). */
function inProcess(task: BenchTask, signal?: AbortSignal, onProgress?: (done: number) => void): Promise<BenchEvent> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const child = fork(childPath(), [], { execArgv: [], stdio: ['ignore', 'ignore', 'pipe', 'ipc'], signal, killSignal: 'SIGKILL' });
    let words = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      words = (words + chunk.toString()).slice(-2000);
    });
    let answer: BenchEvent | undefined;
    child.on('message', (event: BenchEvent) => {
      if (event.type === 'progress') onProgress?.(event.done);
      else answer = event;
    });
    child.on('error', (error) => reject(signal?.aborted ? signal.reason : error));
    child.on('close', (code, killedBy) => {
      if (answer === undefined)
        reject(new Error(`The benchmark process died (${killedBy ?? `exit code ${code}`}).${words && ` It said: ${words.trim()}`}`));
      else if (answer.type === 'failed') reject(Object.assign(new Error(answer.message), { ortMessage: answer.ortMessage }));
      else resolve(answer);
    });
    child.send(task, (error) => error && reject(error));
  });
}

const threadsOf = (threads: number) => (threads === 0 ? physicalCores() : threads);

/**
 * Runs each variant side by side with the float model in one process, in short turns, over some 25 blocks after a warm-up until
 * times are stable. The speed-up is the median of the blocks' ratios of medians, with the distribution-free 95% interval of a
 * median: a slow spell of the machine falls on both models of a block alike. Throws an Error, with `ortMessage` where the runtime
 * refused a model, when a model does not load or run, and the signal's reason when aborted.
 */
export async function benchmarkModels(request: BenchmarkRequest): Promise<BenchmarkResult> {
  const { float, variants, feedsPath, seconds = 2, library = loadLibrary() } = request;
  const task: BenchTask = {
    kind: 'latency',
    library,
    float,
    variants,
    feedsPath,
    threads: threadsOf(request.threads),
    secondsPerPair: seconds,
  };
  const event = await inProcess(task, request.signal, request.onProgress);
  if (event.type !== 'latency') throw new Error(`unexpected answer ${event.type}`);
  const { answer } = event;
  return {
    float: answer.float,
    variants: answer.variants.map(({ latencyMs, ratios }) => ({ latencyMs, speedup: medianInterval(ratios) })),
  };
}

export interface MemoryRequest {
  model: string;
  feedsPath: string;
  threads: number;
  library?: Library;
  signal?: AbortSignal;
}

/**
 * Memory of a fresh process that loads the model and runs the feeds: its peak, how far that is above the same process with the
 * library loaded and no session, and how long loading took. Throws as `benchmarkModels` does.
 */
export async function measureMemory(request: MemoryRequest): Promise<MemoryFigures> {
  const { model, feedsPath, library = loadLibrary() } = request;
  const event = await inProcess({ kind: 'memory', library, model, feedsPath, threads: threadsOf(request.threads) }, request.signal);
  if (event.type !== 'memory') throw new Error(`unexpected answer ${event.type}`);
  return event.answer;
}
