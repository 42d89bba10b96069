/** The store's side of domain/execution.ts: what a worker may do to the job that it runs. */
import fs from 'node:fs/promises';
import path from 'node:path';
import { ERRORS, type ErrorCode, HalftoneError } from '../domain/errors.ts';
import type { ClaimedJob, Execution, InputFile } from '../domain/execution.ts';
import type { ProblemSummary, VariantResult } from '../domain/job.ts';
import type { ObjectStore, StagedObject } from '../domain/objects.ts';
import { type Database, datasets, events, type JobRecord, jobs, lifecycle, models, results, statistics, type Tx } from './db/index.ts';
import { tarSha256, tarSize } from './objects/index.ts';
import { publish } from './publish.ts';

/** Thrown to roll a transaction back whose job turned out to be someone else's. */
class Lost extends Error {}

/** `leaseSeconds`: a worker renews its leases several times in that; one that has not is lost. */
export function createExecution({ db, objects }: { db: Database; objects: ObjectStore }, leaseSeconds: number): Execution {
  return {
    async claim(jobId, owner) {
      return db.transaction(async (tx) => {
        if (!(await lifecycle.claim(tx, jobId, owner, leaseSeconds))) return null;
        try {
          return await describe(tx, (await jobs.get(tx, jobId))!);
        } catch (error) {
          if (!(error instanceof HalftoneError)) throw error;
          await lifecycle.end(tx, jobId, owner, { status: 'failed', error: { code: error.code, detail: error.detail } });
          return null;
        }
      });
    },

    renew: (jobId, owner) => lifecycle.renew(db.client, jobId, owner, leaseSeconds),

    report: (jobId, owner, at, news) =>
      db.transaction(async (tx) => {
        if (!(await lifecycle.writeProgress(tx, jobId, owner, at))) return false;
        for (const { type, data } of news) await events.append(tx, jobId, type, data);
        return true;
      }),

    keepStatistic: (modelSha256, key, value) => statistics.put(db.client, modelSha256, key, value),

    requeue: async (jobId, owner, reason) => (await db.transaction((tx) => lifecycle.requeue(tx, jobId, owner, reason))) !== 'lost',
    failAttempt: (jobId, owner, death) => db.transaction((tx) => lifecycle.failAttempt(tx, jobId, owner, death)),
    fail: (jobId, owner, error) => db.transaction((tx) => lifecycle.end(tx, jobId, owner, { status: 'failed', error: catalogued(error) })),
    cancel: (jobId, owner) => db.transaction((tx) => lifecycle.end(tx, jobId, owner, { status: 'canceled' })),
    requeueOwnedBy: (prefix, reason) => db.transaction((tx) => lifecycle.reclaimOwnedBy(tx, prefix, reason)),

    async succeed(jobId, owner, workDir, result) {
      const staged: StagedObject[] = [];
      const variants: results.NewVariant[] = [];
      const job = await jobs.get(db.client, jobId);
      if (!job || job.leaseOwner !== owner) return false;
      const told = (await results.listReported(db.client, [job])).get(jobId) ?? [];
      try {
        for (const variant of [result.baseline, ...result.variants]) {
          const id = told.find(({ position }) => position === variant.index)?.id;
          variants.push({ ...(await store(objects, job, workDir, variant, staged)), id });
        }
      } catch (error) {
        await Promise.all(staged.map((object) => object.discard()));
        throw error;
      }
      try {
        await publish({ db, objects }, staged, async (tx) => {
          const ids = await results.create(tx, jobId, job.modelId, variants);
          const best = result.best === null ? null : ids.get(result.best);
          const ended = await lifecycle.end(tx, jobId, owner, { status: 'succeeded', bestVariantId: best, bestReason: result.bestReason });
          if (!ended) throw new Lost();
        });
        return true;
      } catch (error) {
        if (error instanceof Lost) return false;
        throw error;
      }
    },
  };
}

/** What a claimed job needs. Deleted in the meantime is an error of the job's. */
async function describe(tx: Tx, job: JobRecord): Promise<ClaimedJob> {
  const model = await models.get(tx, job.modelId);
  if (!model || model.deletedAt || model.files.length === 0)
    throw new HalftoneError('model-deleted', `${job.modelId} was deleted before the job ran`);
  const dataset = async (id: string | null): Promise<InputFile | null> => {
    if (id === null) return null;
    const found = await datasets.get(tx, id);
    if (!found || found.deletedAt) throw new HalftoneError('dataset-deleted', `${id} was deleted before the job ran`);
    return { path: `${id}.npz`, sha256: found.sha256, sizeBytes: found.sizeBytes };
  };
  return {
    jobId: job.id,
    model: model.files,
    calibration: await dataset(job.calibrationId),
    evaluation: await dataset(job.evaluationId),
    recipes: job.recipes,
    metric: job.metric,
    maxAccuracyDrop: job.maxAccuracyDrop,
    shapes: job.shapes,
    seed: job.seed,
    deviceProfiles: job.deviceProfiles,
    statistics: await statistics.forModel(tx, model.sha256),
  };
}

/** Stages a variant's files and gives its row. The child is the side that a hostile model may have taken over: its paths and hashes are not believed. */
async function store(
  objects: ObjectStore,
  job: JobRecord,
  workDir: string,
  variant: VariantResult,
  staged: StagedObject[],
): Promise<results.NewVariant> {
  const files = variant.files ?? [];
  const own = new Map<string, StagedObject>();
  const stored: { path: string; sha256: string; sizeBytes: number }[] = [];
  for (const file of files) {
    const real = await fs.realpath(file.path);
    if (!real.startsWith(`${await fs.realpath(workDir)}${path.sep}`)) throw distrust(`a file outside its folder: ${file.path}`);
    if (!/^(?!\.)[^/\\]/.test(file.name) || file.name.split('/').includes('..')) throw distrust(`a file called ${file.name}`);
    const handle = await fs.open(real, 'r');
    const object = await objects.stage(handle.createReadStream()).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EISDIR' ? distrust(`a folder: ${file.path}`) : error;
    });
    staged.push(object);
    if (object.sha256 !== file.sha256 || object.sizeBytes !== file.sizeBytes) throw distrust(`a file that has other bytes: ${file.path}`);
    own.set(object.sha256, object);
    stored.push({ path: file.name, sha256: object.sha256, sizeBytes: object.sizeBytes });
  }
  const whole =
    stored.length === 1
      ? { sha256: stored[0]!.sha256, sizeBytes: stored[0]!.sizeBytes }
      : { sha256: await tarSha256(stored, (entry, range) => own.get(entry.sha256)!.read(range)), sizeBytes: tarSize(stored) };
  const profileIds = new Map(job.deviceProfiles.map((profile) => [profile.name, profile.id]));
  return {
    position: variant.index,
    recipe: variant.recipe,
    kernels: variant.kernels,
    error: variant.error,
    artifact: stored.length === 0 ? null : { ...whole, manifest: variant.manifest ?? {}, files: stored },
    evaluation: variant.evaluation,
    benchmarks: variant.benchmarks.flatMap((benchmark) => {
      const deviceProfileId = profileIds.get(benchmark.deviceProfile);
      return deviceProfileId === undefined ? [] : [{ ...benchmark, deviceProfileId }];
    }),
  };
}

function distrust(what: string): HalftoneError {
  return new HalftoneError('internal-error', `the job’s process named ${what}`);
}

function catalogued(error: ProblemSummary): { code: ErrorCode; detail: string } {
  return { code: error.code in ERRORS ? (error.code as ErrorCode) : 'internal-error', detail: error.detail };
}
