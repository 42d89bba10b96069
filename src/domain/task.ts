/** What the worker and the job's child process say to each other over IPC. The child gets paths and plain data; no credentials, no database. */
import type { JobResult, Metric, ProblemSummary, Stage, StageRun, VariantResult } from './job.ts';
import type { DeviceProfile } from './profile.ts';
import type { Recipe } from './recipe.ts';

export interface Task {
  jobId: string;
  /** Folder the child may write in; the worker removes it afterwards. */
  workDir: string;
  /** The model file first, then its external-data files beside it under their relative names. */
  modelPath: string;
  modelSha256: string;
  calibrationPath: string | null;
  calibrationSha256: string | null;
  evaluationPath: string | null;
  evaluationSha256: string | null;
  recipes: Recipe[];
  metric: Metric | null;
  /** The first is the target. Only profiles that this worker may measure. */
  deviceProfiles: DeviceProfile[];
  maxAccuracyDrop: number;
  /** Free dimensions: name → size. */
  shapes: Record<string, number>;
  seed: number;
  /** Statistics cached from earlier jobs, by key (layer costs by model and profile). */
  statistics: Record<string, unknown>;
  /** File locked while this machine measures (exclusive) or computes (shared). */
  machineLockPath: string;
  /** The ONNX Runtime library that runs all models of the job; null = the one inside onnxruntime-node. */
  onnxRuntimeLibrary: string | null;
}

/** Worker → child. */
export type TaskCommand = { type: 'start'; task: Task } | { type: 'cancel' };

/** Child → worker. */
export type TaskEvent =
  | { type: 'progress'; stage: Stage; variant?: number; progress: number; etaSeconds: number | null; message?: string }
  | { type: 'stage'; run: StageRun }
  | { type: 'variant'; variant: VariantResult }
  | { type: 'statistic'; key: string; value: unknown }
  | { type: 'done'; result: JobResult }
  | { type: 'failed'; error: ProblemSummary & { stage: Stage } };
