/**
 * A job's life, written by compare-and-set: every statement names the state it starts from and, for a running job, the
 * lease's owner. Whoever matches no row has lost the job and must stop. Leases are timed by the database's clock.
 */
import type { ErrorCode } from '../../domain/errors.ts';
import { newId } from '../../domain/ids.ts';
import type { JobStatus, Stage, StageRun } from '../../domain/job.ts';
import { json, storable, type Tx } from './client.ts';
import * as events from './events.ts';
import * as outbox from './outbox.ts';

/** Deaths of the child by its own doing at one stage, after which the job fails. */
const MAX_ATTEMPTS = 3;

/** Takes a queued job: queued → running with a lease. False where it is not queued (any more) or is to be canceled. */
export async function claim(tx: Tx, id: string, owner: string, leaseSeconds: number): Promise<boolean> {
  const claimed = await tx.$executeRaw`
    update jobs set status = 'running', lease_owner = ${owner}, lease_expires_at = now() + make_interval(secs => ${leaseSeconds}),
      started_at = coalesce(started_at, now()), starts = starts + 1, stage = null, progress = 0, eta_seconds = null, stages = '[]', updated_at = now()
    where id = ${id} and status = 'queued' and not cancel_requested`;
  if (claimed === 1) await events.append(tx, id, 'started', {});
  return claimed === 1;
}

/** Renews the lease. `held` false: the job is someone else's now, or has ended. */
export async function renew(tx: Tx, id: string, owner: string, leaseSeconds: number): Promise<{ held: boolean; cancelRequested: boolean }> {
  const rows = await tx.$queryRaw<{ cancel_requested: boolean }[]>`
    update jobs set lease_expires_at = now() + make_interval(secs => ${leaseSeconds})
    where id = ${id} and status = 'running' and lease_owner = ${owner} returning cancel_requested`;
  return { held: rows.length === 1, cancelRequested: rows[0]?.cancel_requested ?? false };
}

/** Writes where a running job is. False where it is not the owner's any more. */
export async function writeProgress(
  tx: Tx,
  id: string,
  owner: string,
  at: { stage: Stage | null; progress: number; etaSeconds: number | null; stages: StageRun[] },
): Promise<boolean> {
  const { count } = await tx.job.updateMany({
    where: { id, status: 'running', leaseOwner: owner },
    data: { stage: at.stage, progress: at.progress, etaSeconds: at.etaSeconds, stages: json(at.stages) },
  });
  return count === 1;
}

/**
 * Gives a running job back to the queue without using up an attempt: its worker stops, was lost, or its child was killed
 * from outside. One that is to be canceled is canceled instead: nobody would take it again.
 */
export async function requeue(tx: Tx, id: string, owner: string, reason: string): Promise<'queued' | 'canceled' | 'lost'> {
  const rows = await tx.$queryRaw<{ labels: string }[]>`
    update jobs set status = 'queued', lease_owner = null, lease_expires_at = null, stage = null, progress = 0, eta_seconds = null, updated_at = now()
    where id = ${id} and status = 'running' and lease_owner = ${owner} and not cancel_requested returning labels`;
  if (rows.length === 0) return (await end(tx, id, owner, { status: 'canceled' })) ? 'canceled' : 'lost';
  await events.append(tx, id, 'requeued', { reason });
  await outbox.add(tx, { kind: 'quantize', payload: { jobId: id, labels: rows[0]!.labels } });
  return 'queued';
}

/**
 * The child died by its own doing at `stage`. Uses up an attempt there; the job is queued again, or fails with `code` at the third
 * at this stage. Those at other stages stay counted: where memory or time runs out wanders, and a job that died at two stages in
 * turn was once started eighteen times.
 */
export async function failAttempt(
  tx: Tx,
  id: string,
  owner: string,
  death: { stage: Stage; code: ErrorCode; detail: string },
): Promise<'queued' | 'failed' | 'canceled' | 'lost'> {
  const rows = await tx.$queryRaw<{ attempts: number }[]>`
    update jobs set attempts = attempts || jsonb_build_object(${death.stage}::text, coalesce((attempts ->> ${death.stage})::int, 0) + 1)
    where id = ${id} and status = 'running' and lease_owner = ${owner} returning (attempts ->> ${death.stage})::int as attempts`;
  if (rows.length === 0) return 'lost';
  if (rows[0]!.attempts < MAX_ATTEMPTS) return requeue(tx, id, owner, `${death.code}: ${death.detail}`);
  await end(tx, id, owner, { status: 'failed', error: { code: death.code, detail: death.detail } });
  return 'failed';
}

export interface End {
  status: Extract<JobStatus, 'succeeded' | 'failed' | 'canceled'>;
  error?: { code: ErrorCode; detail: string } | null;
  bestVariantId?: string | null;
  bestReason?: string | null;
}

/**
 * Ends a running job of this owner's, once: final status, last event and the webhook's delivery in one transaction.
 * False where it was not the owner's any more: nothing is written then.
 */
export async function end(tx: Tx, id: string, owner: string, how: End): Promise<boolean> {
  return finish(tx, { id, status: 'running', leaseOwner: owner }, how);
}

/** Cancels a job that no worker has taken yet. False where it is not queued. */
export async function cancelQueued(tx: Tx, id: string): Promise<boolean> {
  return finish(tx, { id, status: 'queued' }, { status: 'canceled' });
}

async function finish(tx: Tx, where: { id: string; status: 'queued' | 'running'; leaseOwner?: string }, how: End): Promise<boolean> {
  const error = how.error ? { ...how.error, detail: storable(how.error.detail) } : null;
  const { count } = await tx.job.updateMany({
    where,
    data: {
      status: how.status,
      endedAt: new Date(),
      leaseOwner: null,
      leaseExpiresAt: null,
      etaSeconds: null,
      ...(how.status === 'succeeded' ? { progress: 1 } : {}),
      errorCode: error?.code ?? null,
      errorDetail: error?.detail ?? null,
      bestVariantId: how.bestVariantId ?? null,
      bestReason: how.bestReason ? storable(how.bestReason) : null,
    },
  });
  if (count === 0) return false;
  await events.append(tx, where.id, how.status, error ? { error } : {});
  const job = await tx.job.findUniqueOrThrow({
    where: { id: where.id },
    select: { endedAt: true, webhookEndpoint: { select: { id: true, events: true, disabledAt: true } } },
  });
  const type = `job.${how.status}`;
  const endpoint = job.webhookEndpoint;
  if (endpoint && !endpoint.disabledAt && (endpoint.events.length === 0 || endpoint.events.includes(type))) {
    const deliveryId = newId('webhookDelivery');
    // Thin: who wants the figures fetches the job, and so never acts on a stale or forged copy of them.
    const data = { jobId: where.id, status: how.status, best: how.bestVariantId ?? null, href: `/v1/jobs/${where.id}` };
    const body = JSON.stringify({ type, timestamp: job.endedAt!.toISOString(), data });
    await tx.webhookDelivery.create({ data: { id: deliveryId, endpointId: endpoint.id, jobId: where.id, eventType: type, body } });
    await outbox.add(tx, { kind: 'deliver-webhook', payload: { deliveryId } });
  }
  return true;
}

/** For the reconciler: gives back, or cancels, the running jobs whose lease has run out. Returns their ids. */
export async function reclaimExpired(tx: Tx): Promise<string[]> {
  return giveBack(
    tx,
    await tx.$queryRaw<Held[]>`
      select id, lease_owner from jobs where status = 'running' and lease_expires_at < now() for update skip locked`,
    'the worker was lost',
  );
}

/** Gives back, or cancels, the running jobs whose owner begins with `prefix`. Returns their ids. */
export async function reclaimOwnedBy(tx: Tx, prefix: string, reason: string): Promise<string[]> {
  return giveBack(
    tx,
    await tx.$queryRaw<Held[]>`
      select id, lease_owner from jobs where status = 'running' and starts_with(lease_owner, ${prefix}) for update skip locked`,
    reason,
  );
}

type Held = { id: string; lease_owner: string };
async function giveBack(tx: Tx, held: Held[], reason: string): Promise<string[]> {
  for (const job of held) await requeue(tx, job.id, job.lease_owner, reason);
  return held.map((job) => job.id);
}

/** For the reconciler: jobs queued for longer than `seconds`, with the labels that a worker must carry. */
export async function queuedLongerThan(tx: Tx, seconds: number): Promise<{ id: string; labels: string }[]> {
  return tx.$queryRaw<{ id: string; labels: string }[]>`
    select id, labels from jobs where status = 'queued' and updated_at < now() - make_interval(secs => ${seconds}) order by id`;
}
