import type { Benchmark, Evaluation, ProblemSummary } from '../../domain/job.ts';
import type { JobView, VariantView } from '../../domain/job-view.ts';
import { recipeTitle } from './format.ts';

/** A line of the report's main table: one model, with its figures on the target profile. */
export interface ReportRow {
  /** F = the float model, then 0, 1, … the recipe's index, by which `bestReason` and the stages name it too. */
  label: string;
  id: string;
  title: string;
  best: boolean;
  sizeBytes: number | null;
  /** Size ÷ the float model's size. */
  sizeRatio: number | null;
  evaluation: Evaluation | null;
  /** On the first profile. */
  benchmark: Benchmark | null;
  error: ProblemSummary | null;
}

/** What is best and why, in one sentence each. */
export interface Verdict {
  headline: string;
  reason: string | null;
}

/** The job as a table: the float model first. */
export function reportRows(job: JobView): ReportRow[] {
  const target = job.deviceProfiles[0];
  const floatBytes = job.context?.model?.sizeBytes ?? null;
  const row = (view: VariantView, label: string, sizeBytes: number | null): ReportRow => ({
    label,
    id: view.id,
    title: recipeTitle(view.recipe),
    best: job.best !== null && view.id === job.best,
    sizeBytes,
    sizeRatio: sizeBytes !== null && floatBytes ? sizeBytes / floatBytes : null,
    evaluation: view.evaluation,
    benchmark: view.benchmarks.find(({ deviceProfile }) => deviceProfile === target) ?? null,
    error: view.error,
  });
  const rows = job.variants.map((variant) => row(variant, String(variant.index), variant.artifact?.sizeBytes ?? null));
  if (job.baseline !== null)
    rows.unshift({
      ...row(job.baseline, 'F', job.baseline.artifact?.sizeBytes ?? floatBytes),
      best: job.status === 'succeeded' && job.best === null,
    });
  return rows;
}

export function verdict(job: JobView, rows: ReportRow[]): Verdict {
  const best = rows.find((row) => row.best);
  if (job.status === 'failed') return { headline: 'The job failed', reason: job.error?.detail ?? null };
  if (job.status === 'canceled') return { headline: 'The job was canceled', reason: null };
  if (job.status !== 'succeeded')
    return {
      headline: `The job is ${job.status}${job.stage === null ? '' : `, at ${job.stage}`} (${Math.round(job.progress * 100)}%)`,
      reason: null,
    };
  if (best === undefined || best.label === 'F') return { headline: 'Best: the float model', reason: job.bestReason };
  return { headline: `Best: variant ${best.label}, ${best.title}`, reason: job.bestReason };
}
