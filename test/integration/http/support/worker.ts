/** What a worker does to a job's row, without a child: through the same port. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Execution } from '../../../../src/domain/execution.ts';
import { newId } from '../../../../src/domain/ids.ts';
import type { Benchmark, Evaluation, VariantResult } from '../../../../src/domain/job.ts';
import type { Recipe } from '../../../../src/domain/recipe.ts';
import { createExecution } from '../../../../src/store/index.ts';
import type { Api } from './api.ts';

const OWNER = 'test-worker/1';

function execution(api: Api): Execution {
  return createExecution({ db: api.db, objects: api.objects }, 60);
}

const evaluation = (drop: number | null): Evaluation => ({
  metric: 'top1',
  value: 0.8 - (drop ?? 0),
  drop,
  agreement: drop === null ? null : 0.98,
  sqnrDb: drop === null ? null : 28.5,
  cosine: drop === null ? null : 0.999,
  maxError: drop === null ? null : 0.1,
  samples: 12,
  leftOut: 0,
  ci95: [0.7, 0.9],
  dropStandardError: drop === null ? null : 0.004,
});
const benchmark = (speedup: number): Benchmark => ({
  deviceProfile: 'host',
  latencyMs: { p50: 2 / speedup, p90: 3, p99: 4, mean: 2.2, min: 1.5, samples: 100 },
  speedup: { value: speedup, ci95: [speedup * 0.98, speedup * 1.02] },
  peakRssBytes: 60_000_000,
  modelRssBytes: 9_000_000,
  loadMs: 12,
});

/** Takes a job and tells of its first steps. */
export async function begin(api: Api, jobId: string): Promise<void> {
  const run = execution(api);
  if (!(await run.claim(jobId, OWNER))) throw new Error('the job could not be taken');
  await run.report(jobId, OWNER, { stage: 'read', progress: 0.1, etaSeconds: 5, stages: [{ name: 'read', ms: 12, peakRssBytes: 1e8 }] }, [
    { type: 'progress', data: { stage: 'read', progress: 0.1, etaSeconds: 5 } },
  ]);
}

const told = {
  kernels: {
    ran: { QLinearConv: 4 },
    quantized: ['c1'],
    leftInFloat: [{ node: 'fc', operator: 'Gemm', reason: 'slower-on-profile' }],
    notes: [],
  },
  error: null,
};

/** Tells of a variant, as the worker's reporter does. Returns the id that it was given. */
export async function tell(api: Api, jobId: string, index: unknown, more: object = {}): Promise<string> {
  const id = newId('variant');
  const data = { ...told, index, id, evaluation: evaluation(0.003), benchmarks: [benchmark(2)], ...more };
  const at = { stage: 'benchmark', progress: 0.9, etaSeconds: 1, stages: [] } as const;
  if (!(await execution(api).report(jobId, OWNER, { ...at, stages: [] }, [{ type: 'variant', data }]))) throw new Error('the job was lost');
  return id;
}

/** The worker is lost: the job is queued again. */
export const lose = (api: Api, jobId: string): Promise<boolean> => execution(api).requeue(jobId, OWNER, 'the worker was lost');

/** Ends a job that was taken with one variant of these files a recipe. */
export async function succeed(
  api: Api,
  jobId: string,
  files: Record<string, Buffer>,
  recipes: Recipe[] = [{ method: 'static' }],
): Promise<void> {
  const folder = await mkdtemp(join(api.dir, 'work-'));
  const written: NonNullable<VariantResult['files']> = [];
  for (const [name, bytes] of Object.entries(files)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, bytes);
    written.push({ path, name, sizeBytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
  }
  const ended = await execution(api).succeed(jobId, OWNER, folder, {
    baseline: { index: -1, recipe: null, evaluation: evaluation(null), benchmarks: [benchmark(1)], kernels: null, error: null },
    variants: recipes.map((recipe, index) => ({
      index,
      recipe,
      files: written,
      manifest: { recipe, seed: 0 },
      evaluation: evaluation(0.003),
      benchmarks: [benchmark(2)],
      ...told,
    })),
    best: 0,
    bestReason: 'twice as fast and within the limit',
  });
  await rm(folder, { recursive: true, force: true });
  if (!ended) throw new Error('the job was lost');
}

export const fail = (api: Api, jobId: string): Promise<boolean> =>
  execution(api).fail(jobId, OWNER, { code: 'dataset-not-finite', detail: 'sample 3 of image holds NaN' });
