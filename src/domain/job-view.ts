/** A job, a variant and an artifact as the API shows them: what `GET /v1/jobs/{id}` sends and what the report is drawn from. Dates are RFC 3339. */
import type { Benchmark, Evaluation, JobStatus, KernelReport, Metric, ProblemSummary, Stage, StageRun } from './job.ts';
import type { DeviceProfile } from './profile.ts';
import type { Recipe } from './recipe.ts';

/** Where a variant's file is. `sizeBytes` and `sha256` are those of what `href` sends: the model file, or the .tar when there is external data. */
interface ArtifactRef {
  id: string;
  sizeBytes: number;
  sha256: string;
  /** A path on this service: /v1/artifacts/art_…/content. */
  href: string;
}

/** One recipe's outcome. The baseline has this shape too: its recipe and artifact are null. */
export interface VariantView {
  id: string;
  /** Of its recipe, as the stages and `bestReason` name it; −1 = the float model. */
  index: number;
  recipe: Recipe | null;
  /** There once the job has succeeded. */
  artifact: ArtifactRef | null;
  evaluation: Evaluation | null;
  benchmarks: Benchmark[];
  kernels: KernelReport | null;
  /** Why there is no artifact; null where there is one, and while the variant is being made. */
  error: ProblemSummary | null;
}

/** What a report names beside the job itself. */
export interface JobContext {
  /** Null where it was deleted since. */
  model: { id: string; name: string; sha256: string; sizeBytes: number } | null;
  calibration: { id: string; name: string; samples: number } | null;
  evaluation: { id: string; name: string; samples: number } | null;
  /** The profiles asked for, in that order, each with the machine that it was measured on where known. */
  profiles: DeviceProfile[];
}

export interface JobView {
  id: string;
  status: JobStatus;
  stage: Stage | null;
  /** 0..1 over the whole job. */
  progress: number;
  etaSeconds: number | null;
  error: (ProblemSummary & { title?: string; remedy?: string }) | null;
  /** mdl_… */
  model: string;
  recipes: Recipe[];
  calibration: string | null;
  evaluation: string | null;
  /** As asked for; null = chosen from the data. */
  metric: Metric | null;
  /** Names; the first is the target. */
  deviceProfiles: string[];
  maxAccuracyDrop: number;
  /** whe_… */
  webhook: string | null;
  stages: StageRun[];
  /** The float model, once it is measured. */
  baseline: VariantView | null;
  /** One a recipe, in the order given, as far as they are made. */
  variants: VariantView[];
  /** Id of the best variant; null = the float model, or not known yet. */
  best: string | null;
  bestReason: string | null;
  createdAt: string;
  startedAt: string | null;
  finishedAt: string | null;
  /** Set in the report only. */
  context?: JobContext;
}
