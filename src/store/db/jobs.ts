/** Jobs as a client sees them: made, read, listed, asked to stop, deleted. What a running job's worker does is in lifecycle.ts. */
import type { ErrorCode } from '../../domain/errors.ts';
import { newId } from '../../domain/ids.ts';
import type { JobStatus, Metric, Stage, StageRun } from '../../domain/job.ts';
import type { DeviceProfile } from '../../domain/profile.ts';
import type { Recipe } from '../../domain/recipe.ts';
import { json, jsonOrNull, type Tx } from './client.ts';
import * as events from './events.ts';
import type { Prisma } from './generated/client.ts';
import * as lifecycle from './lifecycle.ts';
import * as outbox from './outbox.ts';
import { labelsOf } from './profiles.ts';
import type { JobRecord, PageQuery } from './records.ts';

const record = (row: Prisma.JobGetPayload<object>): JobRecord => {
  const { errorCode, errorDetail, eventSequence: _, updatedAt: __, ...rest } = row;
  return {
    ...rest,
    recipes: row.recipes as unknown as Recipe[],
    metric: row.metric as unknown as Metric | null,
    shapes: row.shapes as Record<string, number>,
    deviceProfiles: row.deviceProfiles as unknown as DeviceProfile[],
    stage: row.stage as Stage | null,
    stages: row.stages as unknown as StageRun[],
    attempts: row.attempts as JobRecord['attempts'],
    error: errorCode === null ? null : { code: errorCode as ErrorCode, detail: errorDetail ?? '' },
  };
};

/** The first profile is the target; a worker that takes the job must carry the labels of all of them. */
export type NewJob = Pick<
  JobRecord,
  | 'modelId'
  | 'calibrationId'
  | 'evaluationId'
  | 'recipes'
  | 'metric'
  | 'maxAccuracyDrop'
  | 'shapes'
  | 'seed'
  | 'deviceProfiles'
  | 'webhookEndpointId'
  | 'apiKeyId'
>;

/** Makes a queued job, its first event and its outbox message. Lock model and data sets first (`lockLiving`). */
export async function create(tx: Tx, job: NewJob): Promise<JobRecord> {
  const id = newId('job');
  const labels = labelsOf(...job.deviceProfiles);
  await tx.job.create({
    data: {
      id,
      ...job,
      labels,
      recipes: json(job.recipes),
      metric: jsonOrNull(job.metric),
      shapes: json(job.shapes),
      deviceProfiles: json(job.deviceProfiles),
    },
  });
  await events.append(tx, id, 'queued', {});
  await outbox.add(tx, { kind: 'quantize', payload: { jobId: id, labels } });
  return (await get(tx, id))!;
}

export async function get(tx: Tx, id: string): Promise<JobRecord | null> {
  const row = await tx.job.findUnique({ where: { id } });
  return row && record(row);
}

/** Newest first. */
export async function list(tx: Tx, page: PageQuery & { status?: JobStatus; modelId?: string }): Promise<JobRecord[]> {
  const where = {
    ...(page.before ? { id: { lt: page.before } } : {}),
    ...(page.status ? { status: page.status } : {}),
    ...(page.modelId ? { modelId: page.modelId } : {}),
  };
  return (await tx.job.findMany({ where, orderBy: { id: 'desc' }, take: page.limit })).map(record);
}

/** How many jobs that have not ended use this model, data set or webhook endpoint. */
export async function countActive(tx: Tx, use: { modelId?: string; datasetId?: string; webhookEndpointId?: string }): Promise<number> {
  const where: Prisma.JobWhereInput = { status: { in: ['queued', 'running'] } };
  if (use.modelId) where.modelId = use.modelId;
  if (use.webhookEndpointId) where.webhookEndpointId = use.webhookEndpointId;
  if (use.datasetId) where.OR = [{ calibrationId: use.datasetId }, { evaluationId: use.datasetId }];
  return tx.job.count({ where });
}

/**
 * Asks a job to stop. A queued one is canceled here and now; a running one is canceled by its worker within seconds.
 * Returns the job as it is afterwards (an ended one is left alone), null where there is none.
 */
export async function requestCancel(tx: Tx, id: string): Promise<JobRecord | null> {
  const ended = await lifecycle.cancelQueued(tx, id);
  if (!ended) {
    const { count } = await tx.job.updateMany({
      where: { id, status: 'running', cancelRequested: false },
      data: { cancelRequested: true, updatedAt: new Date() },
    });
    if (count === 1) await events.append(tx, id, 'cancel-requested', {});
  }
  return get(tx, id);
}

/**
 * Deletes an ended job with its events, variants, artifacts and figures. Returns the hashes of its artifacts' files, to
 * be collected (../publish.ts) after the commit; null where there is no such job or it has not ended.
 */
export async function removeEnded(tx: Tx, id: string): Promise<string[] | null> {
  const locked = await tx.$queryRaw<
    unknown[]
  >`select 1 from jobs where id = ${id} and status in ('succeeded', 'failed', 'canceled') for update`;
  if (locked.length === 0) return null;
  const files = await tx.artifactFile.findMany({ where: { artifact: { variant: { jobId: id } } }, select: { sha256: true } });
  await tx.job.delete({ where: { id } });
  return files.map((file) => file.sha256);
}

/** What waits, by queue: messages in the outbox count beside it. For the metrics. */
export async function countWaiting(tx: Tx): Promise<Record<string, number>> {
  const quantize = await tx.job.count({ where: { status: 'queued' } });
  const deliver = await tx.webhookDelivery.count({ where: { status: 'pending' } });
  return { quantize, 'deliver-webhook': deliver, outbox: await tx.outbox.count() };
}
/** Jobs by status, for the metrics. */
export async function countByStatus(tx: Tx): Promise<Record<JobStatus, number>> {
  const rows = await tx.job.groupBy({ by: ['status'], _count: true });
  const counts = { queued: 0, running: 0, succeeded: 0, failed: 0, canceled: 0 };
  for (const row of rows) counts[row.status] = row._count;
  return counts;
}
