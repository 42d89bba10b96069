/** What benchmark.ts and its process say to each other: one task, then one answer. */
import type { LatencySummary } from '../domain/job.ts';
import type { Library } from './library.ts';

interface Common {
  library: Library;
  /** Written by feeds.ts. */
  feedsPath: string;
  threads: number;
}
export interface LatencyTask extends Common {
  kind: 'latency';
  float: string;
  variants: string[];
  /** Time to spend on a pair of models, warm-up and loading apart. */
  secondsPerPair: number;
}
export interface MemoryTask extends Common {
  kind: 'memory';
  model: string;
}
export type BenchTask = LatencyTask | MemoryTask;

export interface LatencyAnswer {
  float: LatencySummary;
  /** Float time ÷ variant's time, of each block. */
  variants: { latencyMs: LatencySummary; ratios: number[] }[];
}
/** See `measureMemory`. */
export interface MemoryFigures {
  peakRssBytes: number;
  modelRssBytes: number;
  loadMs: number;
}
export type BenchEvent =
  | { type: 'progress'; done: number }
  | { type: 'latency'; answer: LatencyAnswer }
  | { type: 'memory'; answer: MemoryFigures }
  | { type: 'failed'; message: string; ortMessage?: string };
