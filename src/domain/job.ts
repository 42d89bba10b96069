import type { Recipe } from './recipe.ts';

/** A job's life: queued → running → succeeded | failed | canceled. A running job goes back to queued when its worker is lost. */
export const JOB_STATUSES = ['queued', 'running', 'succeeded', 'failed', 'canceled'] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];
export const TERMINAL_STATUSES: readonly JobStatus[] = ['succeeded', 'failed', 'canceled'];

export const STAGES = ['read', 'prepare', 'observe', 'measure', 'plan', 'transform', 'emit', 'gate', 'evaluate', 'benchmark'] as const;
export type Stage = (typeof STAGES)[number];

export const METRICS = ['top1', 'top5', 'ctc', 'cer', 'agreement', 'sqnr'] as const;
export type MetricName = (typeof METRICS)[number];
/** Which output is compared and how. `output`: name, the first by default. `blank`: CTC's blank class. */
export interface Metric {
  name: MetricName;
  output?: string;
  blank?: number;
}

/** One stage's run: time in ms, peak resident memory of the job's process in bytes. */
export interface StageRun {
  name: Stage;
  /** Index of the variant's recipe; absent for work that all variants share. */
  variant?: number;
  ms: number;
  peakRssBytes: number;
}

/** A figure with its 95% confidence interval. */
export interface Interval {
  value: number;
  ci95: [number, number];
}

export interface Evaluation {
  metric: MetricName;
  /** A fraction (0.834) for top1, top5, ctc, agreement and cer; dB for sqnr. */
  value: number;
  /** Float's value less this value (for cer: this less float's): positive when worse. Null for the float model itself. */
  drop: number | null;
  /** Share of samples with the same decision as the float model; null where the output has no classes. */
  agreement: number | null;
  /** 10·log10(Σ ref² ÷ Σ (ref − got)²), at most 60; null for the float model and for outputs that are not float. */
  sqnrDb: number | null;
  cosine: number | null;
  maxError: number | null;
  /** Character error rate, for CTC. */
  cer?: number | null;
  samples: number;
  /** Samples left out: those beyond the last whole batch of a model with a fixed batch. */
  leftOut: number;
  /** 95% interval of `value`: Wilson for fractions of samples, bootstrap otherwise. */
  ci95: [number, number];
  /** Standard error of the drop, paired by sample; null where there is nothing to pair. */
  dropStandardError: number | null;
}

export interface LatencySummary {
  p50: number;
  p90: number;
  p99: number;
  mean: number;
  min: number;
  samples: number;
}

export interface Benchmark {
  /** The profile's name. */
  deviceProfile: string;
  latencyMs: LatencySummary;
  /** Float time ÷ this model's time, from interleaved runs. 1 for the float model itself. */
  speedup: Interval;
  /** Peak resident memory of a process that loads and runs the model. */
  peakRssBytes: number;
  /** peakRssBytes above the same process without a session. */
  modelRssBytes: number;
  loadMs: number;
}

/** Why a layer was left in float or changed, in a form that a report can print. */
export interface LayerNote {
  /** Node name in the user's model. */
  node: string;
  operator: string;
  /** Stable reason code, e.g. `slower-on-profile`, `excluded-by-recipe`, `no-integer-kernel`, `first-layer`, `sensitive`, `overflow`. */
  reason: string;
  detail?: string;
}

export interface KernelReport {
  /** Kernel name as ONNX Runtime's profile shows it → how many nodes ran it. */
  ran: Record<string, number>;
  /** Nodes of the user's model that run in integers. */
  quantized: string[];
  leftInFloat: LayerNote[];
  /** Repairs and corrections, each with whether it was kept. */
  notes: string[];
}

export interface ProblemSummary {
  code: string;
  detail: string;
}

/** What the child reports of one variant (the service adds ids and hrefs). */
export interface VariantResult {
  /** Index into the job's recipes; −1 = the float model (the baseline). */
  index: number;
  recipe: Recipe | null;
  /** Where the child left the file; several where there is external data, the first is the model. Absent when the gate refused. */
  files?: { path: string; name: string; sizeBytes: number; sha256: string }[];
  manifest?: Record<string, unknown>;
  evaluation: Evaluation | null;
  benchmarks: Benchmark[];
  kernels: KernelReport | null;
  error: ProblemSummary | null;
}

/** What the child reports at the end. */
export interface JobResult {
  baseline: VariantResult;
  variants: VariantResult[];
  /** Index of the best variant, null when it is the float model. */
  best: number | null;
  bestReason: string;
}
