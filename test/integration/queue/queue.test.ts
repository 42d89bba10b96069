/** The queue on both its backends: the embedded PostgreSQL, and Redis where REDIS_URL names one. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { OutboxSource, QueueMessage, Reconcilable } from '../../../src/domain/queue.ts';
import { type Broker, openBroker, quantizeQueue, startReconciler, startRelay } from '../../../src/queue/index.ts';
import { createOutboxSource, createReconcilable, jobs } from '../../../src/store/index.ts';
import { makeJob, openTestStores, type TestStores } from '../store/support.ts';

const REDIS_URL = process.env.REDIS_URL ?? '';
if (REDIS_URL === '') console.log('REDIS_URL is not set: the queue is tested on PostgreSQL only');

let stores: TestStores;
beforeAll(async () => {
  stores = await openTestStores();
});
afterAll(() => stores?.close());

async function eventually(check: () => boolean | Promise<boolean>, ms = 15_000): Promise<boolean> {
  for (const deadline = Date.now() + ms; Date.now() < deadline; await sleep(20)) if (await check()) return true;
  return check();
}
/** Labels that no other test, and no earlier run on a Redis that is kept, has used. */
const fresh = (): string => `labels-${randomBytes(6).toString('hex')}`;
const quantize = (labels: string, jobId: string): QueueMessage => ({ kind: 'quantize', payload: { jobId, labels } });
const silent = { info: () => {}, error: () => {} };

describe.each(['postgres', 'redis'] as const)('the queue on %s', (kind) => {
  describe.skipIf(kind === 'redis' && REDIS_URL === '')('keeps its promises', () => {
    const open: Broker[] = [];
    const broker = async (): Promise<Broker> => {
      const made = await openBroker({ redisUrl: kind === 'redis' ? REDIS_URL : null, databaseUrl: stores.url });
      open.push(made);
      return made;
    };
    afterEach(async () => {
      await Promise.all(open.splice(0).map((one) => one.close()));
    });

    it('hands every message to one consumer, in whatever process it was added', async () => {
      const labels = fresh();
      const [producer, first, second] = await Promise.all([broker(), broker(), broker()]);
      const seen: string[] = [];
      const handle = async ({ jobId }: { jobId: string }) => {
        seen.push(jobId);
      };
      first!.consume(quantizeQueue(labels), 'quantize', 2, handle);
      second!.consume(quantizeQueue(labels), 'quantize', 2, handle);
      const ids = Array.from({ length: 40 }, (_, i) => `job_${i}`);
      await Promise.all(ids.map((id) => producer!.add(quantize(labels, id), `${id}-1`)));
      expect(await eventually(() => seen.length >= ids.length)).toBe(true);
      await sleep(200);
      expect(seen.sort()).toEqual(ids.sort());
      expect(producer!.kind).toBe(kind);
      await producer!.ping();
    });

    it('takes a message for one as long as it waits, and again once it has run', async () => {
      const labels = fresh();
      const one = await broker();
      let count = 0;
      for (let i = 0; i < 5; i++) await one.add(quantize(labels, 'job_a'), 'job_a-again');
      one.consume(quantizeQueue(labels), 'quantize', 1, async () => {
        count++;
      });
      expect(await eventually(() => count === 1)).toBe(true);
      await sleep(300);
      expect(count).toBe(1);
      await one.add(quantize(labels, 'job_a'), 'job_a-again');
      expect(await eventually(() => count === 2)).toBe(true);
    });

    it('forgets a message whose handler failed, so that it can come again', async () => {
      const labels = fresh();
      const one = await broker();
      let count = 0;
      one.consume(quantizeQueue(labels), 'quantize', 1, async () => {
        if (++count === 1) throw new Error('not now');
      });
      await one.add(quantize(labels, 'job_b'), 'job_b-again');
      expect(await eventually(() => count === 1)).toBe(true);
      await sleep(300);
      expect(count).toBe(1);
      await one.add(quantize(labels, 'job_b'), 'job_b-again');
      expect(await eventually(() => count === 2)).toBe(true);
    });

    it('runs as many at once as it may, and no more', async () => {
      const labels = fresh();
      const one = await broker();
      let now = 0;
      let most = 0;
      let done = 0;
      one.consume(quantizeQueue(labels), 'quantize', 3, async () => {
        most = Math.max(most, ++now);
        await sleep(100);
        now--;
        done++;
      });
      for (let i = 0; i < 9; i++) await one.add(quantize(labels, `job_${i}`), `job_${i}-1`);
      expect(await eventually(() => done === 9)).toBe(true);
      expect(most).toBe(3);
    });

    it('waits with what is not due', async () => {
      const one = await broker();
      const id = `msg_${randomBytes(6).toString('hex')}`;
      let at = 0;
      one.consume('deliver-webhook', 'deliver-webhook', 4, async ({ deliveryId }) => {
        if (deliveryId === id) at = Date.now();
      });
      const began = Date.now();
      await one.add({ kind: 'deliver-webhook', payload: { deliveryId: id, delayMs: 1500 } }, `${id}-1`);
      expect(await eventually(() => at > 0)).toBe(true);
      expect(at - began).toBeGreaterThanOrEqual(1450);
    });

    it('lets what runs end before a consumer is closed, and takes nothing more', async () => {
      const labels = fresh();
      const one = await broker();
      const seen: string[] = [];
      const consumer = one.consume(quantizeQueue(labels), 'quantize', 1, async ({ jobId }) => {
        seen.push(`${jobId} begins`);
        await sleep(400);
        seen.push(`${jobId} ends`);
      });
      for (const id of ['job_a', 'job_b']) await one.add(quantize(labels, id), `${id}-1`);
      expect(await eventually(() => seen.length > 0)).toBe(true);
      await consumer.close();
      expect(seen).toEqual(['job_a begins', 'job_a ends']);
    });

    it('relays the outbox at once, and later what it could not', async () => {
      const labels = fresh();
      const one = await broker();
      const source = createOutboxSource(stores.db);
      await source.relay(1000, async () => {});
      const seen: string[] = [];
      one.consume(quantizeQueue(labels), 'quantize', 1, async ({ jobId }) => {
        seen.push(jobId);
      });
      let refusals = 2;
      const errors: Error[] = [];
      const flaky: Broker = {
        ...one,
        add: (message, id) => (refusals-- > 0 ? Promise.reject(new Error('the queue is away')) : one.add(message, id)),
      };
      const relay = await startRelay(source, flaky, (error) => errors.push(error));
      const host = (await makeJob(stores)).deviceProfiles[0]!;
      const job = await makeJob(stores, { deviceProfiles: [{ ...host, workers: [labels] }] });
      expect(await eventually(() => seen.includes(job.id))).toBe(true);
      expect(errors.length).toBeGreaterThanOrEqual(1);
      const began = Date.now();
      const second = await makeJob(stores, { deviceProfiles: [{ ...host, workers: [labels] }] });
      expect(await eventually(() => seen.includes(second.id))).toBe(true);
      expect(Date.now() - began).toBeLessThan(5000);
      await relay.stop();
      // Once at least: what went through beside the refused one is sent again with it. The row decides.
      expect(seen.filter((id) => id === job.id).length).toBeLessThanOrEqual(2);
    });

    it('gets back from the reconciler what it has lost', async () => {
      const labels = fresh();
      const one = await broker();
      const host = (await makeJob(stores)).deviceProfiles[0]!;
      const job = await makeJob(stores, { deviceProfiles: [{ ...host, workers: [labels] }] });
      // Lost between outbox and queue.
      await createOutboxSource(stores.db).relay(1000, async () => {});
      const seen: string[] = [];
      one.consume(quantizeQueue(labels), 'quantize', 1, async ({ jobId }) => {
        seen.push(jobId);
      });
      const reconciler = startReconciler(createReconcilable(stores), one, { everyMs: 50, forgottenSeconds: 0.2, log: silent });
      expect(await eventually(() => seen.includes(job.id))).toBe(true);
      await reconciler.stop();
    });
  });
});

describe('the relay', () => {
  it('asks less and less often while the queue is away', async () => {
    let asked = 0;
    const source: OutboxSource = {
      relay: () => {
        asked++;
        return Promise.reject(new Error('away'));
      },
      onMessage: async () => async () => {},
    };
    const relay = await startRelay(source, {} as Broker, () => {});
    await sleep(2500);
    await relay.stop();
    expect(asked).toBeLessThanOrEqual(3);
  });
});

describe('the reconciler', () => {
  it('goes on where one of its steps fails, and sweeps at the start', async () => {
    const calls: string[] = [];
    const source: Reconcilable = {
      requeueLost: () => {
        calls.push('lost');
        return Promise.reject(new Error('the database is away'));
      },
      forgotten: async () => {
        calls.push('forgotten');
        return [];
      },
      sweep: async (afterStart) => {
        calls.push(`sweep ${afterStart}`);
        return { objects: 0 };
      },
    };
    const errors: string[] = [];
    const reconciler = startReconciler(source, {} as Broker, {
      everyMs: 20,
      sweepEveryMs: 100,
      forgottenSeconds: 0.01,
      log: { info: () => {}, error: (_, message) => errors.push(message) },
    });
    await eventually(() => calls.filter((call) => call.startsWith('sweep')).length >= 2);
    await reconciler.stop();
    expect(calls.slice(0, 3)).toEqual(['lost', 'forgotten', 'sweep true']);
    expect(calls).toContain('sweep false');
    expect(errors.length).toBeGreaterThan(1);
    const count = calls.length;
    await sleep(100);
    expect(calls.length).toBe(count);
  });

  it('leaves what is well alone', async () => {
    const job = await makeJob(stores);
    const reconcilable = createReconcilable(stores);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
    expect((await reconcilable.requeueLost()).includes(job.id)).toBe(false);
    expect((await reconcilable.forgotten(0)).some((message) => message.kind === 'quantize' && message.payload.jobId === job.id)).toBe(
      false,
    );
  });
});
