/** The store's side of domain/queue.ts: the outbox for its relay, and what the reconciler puts right. */
import type { ObjectStore } from '../domain/objects.ts';
import type { OutboxSource, QueueMessage, Reconcilable } from '../domain/queue.ts';
import { type Database, idempotency, lifecycle, outbox, webhooks, workers } from './db/index.ts';
import { sweep } from './publish.ts';

export function createOutboxSource(db: Database): OutboxSource {
  return {
    relay: (limit, send) =>
      db.transaction(async (tx) => {
        const messages = await outbox.take(tx, limit);
        if (messages.length > 0) await send(messages);
        return messages.length;
      }),
    onMessage: (handler) => db.listen('halftone_outbox', () => handler()),
  };
}

/** An upload may take hours; nothing takes a day. */
const STALE_UPLOAD_MS = 24 * 3600 * 1000;
/** Younger objects are passed over by the sweep: most are between their bytes and their row. */
const YOUNG_OBJECT_MS = 10 * 60 * 1000;

export function createReconcilable({ db, objects }: { db: Database; objects: ObjectStore }): Reconcilable {
  return {
    requeueLost: () => db.transaction((tx) => lifecycle.reclaimExpired(tx)),
    async forgotten(seconds) {
      const jobs = await lifecycle.queuedLongerThan(db.client, seconds);
      const deliveries = await webhooks.overdueDeliveries(db.client, seconds);
      return [
        ...jobs.map(({ id, labels }): QueueMessage => ({ kind: 'quantize', payload: { jobId: id, labels } })),
        ...deliveries.map((deliveryId): QueueMessage => ({ kind: 'deliver-webhook', payload: { deliveryId } })),
      ];
    },
    async sweep(afterStart) {
      const minAgeMs = afterStart ? 0 : YOUNG_OBJECT_MS;
      const removed = await sweep({ db, objects }, { minAgeMs, staleMs: STALE_UPLOAD_MS });
      return { ...removed, idempotencyKeys: await idempotency.removeExpired(db.client), workers: await workers.forgetGone(db.client) };
    },
  };
}
