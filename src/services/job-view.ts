/** Rows of a job and what it made, as the API shows them. */
import { ERRORS, type ErrorCode } from '../domain/errors.ts';
import type { JobView, VariantView } from '../domain/job-view.ts';
import type { JobRecord, VariantRecord } from '../store/db/index.ts';

/** Where an artifact's bytes are. */
export function artifactHref(id: string): string {
  return `/v1/artifacts/${id}/content`;
}

function variantView(row: VariantRecord): VariantView {
  return {
    id: row.id,
    index: row.position,
    recipe: row.recipe,
    artifact: row.artifact && { ...row.artifact, href: artifactHref(row.artifact.id) },
    evaluation: row.evaluation,
    benchmarks: row.benchmarks,
    kernels: row.kernels,
    error: row.error,
  };
}

/** @param variants of this job, the float model (position −1) among them */
export function jobView(row: JobRecord, variants: VariantRecord[]): JobView {
  const baseline = variants.find((variant) => variant.position < 0);
  const entry = row.error ? ERRORS[row.error.code as ErrorCode] : undefined;
  return {
    id: row.id,
    status: row.status,
    stage: row.stage,
    progress: row.progress,
    etaSeconds: row.etaSeconds,
    error: row.error && { ...row.error, ...(entry ? { title: entry.title, remedy: entry.remedy } : {}) },
    model: row.modelId,
    recipes: row.recipes,
    calibration: row.calibrationId,
    evaluation: row.evaluationId,
    metric: row.metric,
    deviceProfiles: row.deviceProfiles.map((profile) => profile.name),
    maxAccuracyDrop: row.maxAccuracyDrop,
    webhook: row.webhookEndpointId,
    stages: row.stages,
    baseline: baseline ? variantView(baseline) : null,
    variants: variants.filter((variant) => variant.position >= 0).map(variantView),
    best: row.bestVariantId,
    bestReason: row.bestReason,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.endedAt?.toISOString() ?? null,
  };
}
