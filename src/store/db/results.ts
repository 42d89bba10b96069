/** What a job made: variants, artifacts, figures. Written once, with the job's end. */
import { newId } from '../../domain/ids.ts';
import type { Benchmark, Evaluation, KernelReport, ProblemSummary } from '../../domain/job.ts';
import type { Recipe } from '../../domain/recipe.ts';
import { json, jsonOrNull, storable, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import type { ArtifactRecord, BenchmarkRecord, JobRecord, PageQuery, StoredFile, VariantRecord } from './records.ts';

export interface NewVariant {
  /** As its event told it (`listReported`); a new one where none did. */
  id?: string | undefined;
  /** Index of its recipe; −1 = the float model. */
  position: number;
  recipe: Recipe | null;
  kernels: KernelReport | null;
  error: ProblemSummary | null;
  /** Absent where the gate refused, and for the float model. */
  artifact: { sha256: string; sizeBytes: number; manifest: Record<string, unknown>; files: StoredFile[] } | null;
  evaluation: Evaluation | null;
  benchmarks: (Benchmark & { deviceProfileId: string })[];
}

/** Writes a job's variants. Call it inside `publish` of ../publish.ts, in the transaction that ends the job. Returns their ids by position. */
export async function create(tx: Tx, jobId: string, modelId: string, variants: NewVariant[]): Promise<Map<number, string>> {
  const ids = new Map<number, string>();
  for (const variant of variants) {
    const id = variant.id ?? newId('variant');
    ids.set(variant.position, id);
    await tx.variant.create({
      data: {
        id,
        jobId,
        position: variant.position,
        recipe: jsonOrNull(variant.recipe),
        kernels: jsonOrNull(variant.kernels),
        errorCode: variant.error?.code ?? null,
        errorDetail: variant.error ? storable(variant.error.detail) : null,
      },
    });
    if (variant.artifact) {
      const { files, ...artifact } = variant.artifact;
      const artifactId = newId('artifact');
      await tx.artifact.create({
        data: {
          id: artifactId,
          variantId: id,
          sha256: artifact.sha256,
          sizeBytes: BigInt(artifact.sizeBytes),
          manifest: json(artifact.manifest),
        },
      });
      await tx.artifactFile.createMany({
        data: files.map((file, position) => ({ artifactId, position, ...file, sizeBytes: BigInt(file.sizeBytes) })),
      });
    }
    if (variant.evaluation) {
      const { metric, value, drop, samples } = variant.evaluation;
      await tx.evaluation.create({ data: { variantId: id, metric, value, drop, samples, result: json(variant.evaluation) } });
    }
    await tx.benchmark.createMany({
      data: variant.benchmarks.map(({ deviceProfileId, ...benchmark }) => ({
        variantId: id,
        modelId,
        deviceProfileId,
        deviceProfile: benchmark.deviceProfile,
        p50Ms: benchmark.latencyMs.p50,
        speedup: benchmark.speedup.value,
        result: json(benchmark),
      })),
    });
  }
  return ids;
}

/** A job's variants by position, the float model (−1) first. */
export async function listVariants(tx: Tx, jobId: string): Promise<VariantRecord[]> {
  return (await listVariantsOf(tx, [jobId])).get(jobId) ?? [];
}
/** As `listVariants` for several jobs at once, for lists of jobs. */
export async function listVariantsOf(tx: Tx, jobIds: string[]): Promise<Map<string, VariantRecord[]>> {
  const rows = await tx.variant.findMany({
    where: { jobId: { in: jobIds } },
    orderBy: { position: 'asc' },
    include: {
      artifact: { select: { id: true, sha256: true, sizeBytes: true } },
      evaluation: true,
      benchmarks: { orderBy: { id: 'asc' } },
    },
  });
  const byJob = new Map<string, VariantRecord[]>();
  for (const row of rows) {
    const variants = byJob.get(row.jobId) ?? [];
    byJob.set(row.jobId, variants);
    variants.push({
      id: row.id,
      jobId: row.jobId,
      position: row.position,
      recipe: row.recipe as unknown as Recipe | null,
      kernels: row.kernels as unknown as KernelReport | null,
      error: row.errorCode === null ? null : { code: row.errorCode, detail: row.errorDetail ?? '' },
      artifact: row.artifact && { ...row.artifact, sizeBytes: Number(row.artifact.sizeBytes) },
      evaluation: (row.evaluation?.result as unknown as Evaluation | undefined) ?? null,
      benchmarks: row.benchmarks.map((benchmark) => benchmark.result as unknown as Benchmark),
    });
  }
  return byJob;
}

/**
 * What running jobs have told of their variants, and failed ones did: the `variant` events since the job was last started, as
 * the rows that they become when it succeeds, without artifacts. Events are written by the lease's owner only, and a run that
 * was lost lies before the next one's `started`, so that nothing of it is seen.
 */
export async function listReported(tx: Tx, jobs: readonly JobRecord[]): Promise<Map<string, VariantRecord[]>> {
  const byJob = new Map<string, VariantRecord[]>();
  const asked = new Map(jobs.filter(({ status }) => status === 'running' || status === 'failed').map((job) => [job.id, job]));
  if (asked.size === 0) return byJob;
  const rows = await tx.$queryRaw<{ job_id: string; data: Partial<Told> }[]>`
    select told.job_id, told.data from
      (select job_id, max(sequence) as sequence from job_events where job_id = any(${[...asked.keys()]}) and type = 'started' group by job_id) run
      join job_events told on told.job_id = run.job_id and told.sequence > run.sequence and told.type = 'variant'
    order by told.job_id, told.sequence`;
  for (const { job_id: jobId, data } of rows) {
    const job = asked.get(jobId)!;
    const { id, index: position = -1, kernels = null, evaluation = null, benchmarks = [], error = null } = data;
    const recipe = Number.isInteger(position) ? job.recipes[position] : undefined;
    // The child's word: one that speaks of no recipe of the job's is passed over.
    if (recipe === undefined || id === undefined) continue;
    // A failed job's files are gone; why a recipe gave none is still worth knowing.
    if (job.status === 'failed' && error === null) continue;
    const others = (byJob.get(jobId) ?? []).filter((variant) => variant.position !== position);
    others.push({ id, jobId, position, recipe, kernels, error, artifact: null, evaluation, benchmarks });
    byJob.set(
      jobId,
      others.sort((a, b) => a.position - b.position),
    );
  }
  return byJob;
}

/** The part of a `variant` event that a row is made of. */
interface Told {
  id: string;
  index: number;
  kernels: KernelReport | null;
  evaluation: Evaluation | null;
  benchmarks: Benchmark[];
  error: ProblemSummary | null;
}

export async function getArtifact(tx: Tx, id: string): Promise<ArtifactRecord | null> {
  const row = await tx.artifact.findUnique({
    where: { id },
    include: { files: { orderBy: { position: 'asc' } }, variant: { select: { jobId: true, job: { select: { modelId: true } } } } },
  });
  if (!row) return null;
  return {
    id: row.id,
    variantId: row.variantId,
    jobId: row.variant.jobId,
    modelId: row.variant.job.modelId,
    sha256: row.sha256,
    sizeBytes: Number(row.sizeBytes),
    manifest: row.manifest as Record<string, unknown>,
    createdAt: row.createdAt,
    files: row.files.map((file) => ({ path: file.path, sha256: file.sha256, sizeBytes: Number(file.sizeBytes) })),
  };
}
/** Deletes an artifact (its variant and figures stay). Returns its files' hashes, to be collected (../publish.ts) after the commit; null where there is none. */
export async function removeArtifact(tx: Tx, id: string): Promise<string[] | null> {
  const locked = await tx.$queryRaw<unknown[]>`select 1 from artifacts where id = ${id} for update`;
  if (locked.length === 0) return null;
  const files = await tx.artifactFile.findMany({ where: { artifactId: id }, select: { sha256: true } });
  await tx.artifact.delete({ where: { id } });
  return files.map((file) => file.sha256);
}

/** Benchmarks of all jobs, newest first. `before`: a record's id. */
export async function listBenchmarks(tx: Tx, page: PageQuery & { deviceProfileId?: string; modelId?: string }): Promise<BenchmarkRecord[]> {
  const where: Prisma.BenchmarkWhereInput = {};
  if (page.before) where.id = { lt: BigInt(page.before) };
  if (page.deviceProfileId) where.deviceProfileId = page.deviceProfileId;
  if (page.modelId) where.modelId = page.modelId;
  const rows = await tx.benchmark.findMany({
    where,
    orderBy: { id: 'desc' },
    take: page.limit,
    include: { variant: { select: { jobId: true, position: true, recipe: true, artifact: { select: { id: true } } } } },
  });
  return rows.map((row) => ({
    id: String(row.id),
    variantId: row.variantId,
    jobId: row.variant.jobId,
    modelId: row.modelId,
    position: row.variant.position,
    recipe: row.variant.recipe as unknown as Recipe | null,
    deviceProfileId: row.deviceProfileId,
    artifactId: row.variant.artifact?.id ?? null,
    benchmark: row.result as unknown as Benchmark,
    createdAt: row.createdAt,
  }));
}
