/** Rows and bytes on the real database: what is promised of models, jobs, deliveries, publishing and collecting. */
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { builtInProfiles } from '../../../src/domain/built-in-profiles.ts';
import type { StagedObject } from '../../../src/domain/objects.ts';
import {
  collect,
  createOutboxSource,
  createReconcilable,
  datasets,
  events,
  idempotency,
  jobs,
  keys,
  lifecycle,
  models,
  outbox,
  profiles,
  publish,
  results,
  statistics,
  sweep,
  webhooks,
} from '../../../src/store/index.ts';
import { makeJob, makeModel, openTestStores, stream, type TestStores, text } from './support.ts';

let stores: TestStores;
beforeAll(async () => {
  stores = await openTestStores();
});
afterAll(() => stores?.close());

const hashes = async (): Promise<Set<string>> => {
  const all = new Set<string>();
  for await (const object of stores.objects.list()) all.add(object.sha256);
  return all;
};

describe('models and data sets', () => {
  it('are one for the same bytes, and another once it was deleted', async () => {
    const bytes = randomBytes(50);
    const [a, b] = await Promise.all([makeModel(stores, bytes), makeModel(stores, bytes)]);
    expect(a.id).toBe(b.id);
    const { db } = stores;
    expect(await db.transaction((tx) => models.markDeleted(tx, a.id))).toEqual([a.sha256]);
    expect(await db.transaction((tx) => models.markDeleted(tx, a.id))).toBeNull();
    const again = await makeModel(stores, bytes);
    expect(again.id).not.toBe(a.id);
    expect((await models.get(db.client, a.id))?.deletedAt).toBeInstanceOf(Date);
    expect((await models.get(db.client, a.id))?.files).toEqual([]);
    // Its bytes are the new one's.
    expect(await collect(stores, [a.sha256])).toBe(0);
  });

  it('are listed newest first, page by page, without the deleted', async () => {
    const made: string[] = [];
    for (let i = 0; i < 5; i++) made.push((await makeModel(stores)).id);
    await stores.db.transaction((tx) => models.markDeleted(tx, made[2]!));
    const ids: string[] = [];
    for (let before: string | undefined; ; before = ids.at(-1)) {
      const page = await models.list(stores.db.client, { limit: 2, before });
      if (page.length === 0) break;
      ids.push(...page.map((model) => model.id));
    }
    expect(ids.filter((id) => made.includes(id))).toEqual([made[4], made[3], made[1], made[0]]);
  });

  it('cannot be deleted under a job that is being made, nor used once they are deleted', async () => {
    const { id } = await makeModel(stores);
    const order: string[] = [];
    await Promise.all([
      stores.db.transaction(async (tx) => {
        expect(await models.lockLiving(tx, id)).toBe(true);
        await sleep(300);
        order.push('locked');
      }),
      sleep(100).then(() =>
        stores.db.transaction(async (tx) => {
          await models.markDeleted(tx, id);
          order.push('deleted');
        }),
      ),
    ]);
    expect(order).toEqual(['locked', 'deleted']);
    expect(await stores.db.transaction((tx) => models.lockLiving(tx, id))).toBe(false);
  });

  it('keep large sizes exactly', async () => {
    const sizeBytes = 2 ** 40 + 1;
    const sha256 = createHash('sha256').update(randomBytes(8)).digest('hex');
    const { dataset } = await stores.db.transaction((tx) =>
      datasets.create(tx, { name: 'huge', sha256, sizeBytes, samples: 3, description: { arrays: [] } }),
    );
    expect((await datasets.get(stores.db.client, dataset.id))?.sizeBytes).toBe(sizeBytes);
    expect(await stores.db.transaction((tx) => datasets.markDeleted(tx, dataset.id))).toBe(sha256);
  });
});

describe('publishing', () => {
  it('leaves nothing where the rows cannot be written', async () => {
    const staged = await stores.objects.stage(stream(randomBytes(20)));
    await expect(publish(stores, [staged], () => Promise.reject(new Error('no row')))).rejects.toThrow('no row');
    expect(await stores.objects.stat(staged.sha256)).toBeNull();
    await expect(staged.read()).rejects.toThrow();
  });

  it('holds against a collector that comes between bytes and row', async () => {
    const bytes = randomBytes(20);
    const staged = await stores.objects.stage(stream(bytes));
    let collected = 0;
    // Commits, and then lets a collector in before the transaction begins.
    let first = true;
    const interrupted: StagedObject = {
      ...staged,
      async commit() {
        await staged.commit();
        if (first) collected = await collect(stores, [staged.sha256]);
        first = false;
      },
    };
    const files = [{ path: 'model.onnx', sha256: staged.sha256, sizeBytes: staged.sizeBytes }];
    await publish(stores, [interrupted], (tx) => models.create(tx, { name: 'x', contentSha256: staged.sha256, description: {}, files }));
    expect(collected).toBe(1);
    expect(await text(await stores.objects.read(staged.sha256))).toBe(bytes.toString('latin1'));
  });

  it('survives many at once with the same bytes, and their deletion', async () => {
    const { db, objects } = stores;
    const bytes = randomBytes(20);
    const ids: string[] = [];
    for (let round = 0; round < 5; round++) {
      const made = await Promise.all([1, 2, 3, 4].map(() => makeModel(stores, bytes)));
      expect(new Set(made.map((model) => model.id)).size).toBe(1);
      const [{ id, sha256 }] = made as [(typeof made)[0]];
      ids.push(id);
      expect(await objects.stat(sha256)).not.toBeNull();
      const other = makeModel(stores, bytes);
      const freed = await db.transaction((tx) => models.markDeleted(tx, id));
      await Promise.all([collect(stores, freed ?? []), other]);
      // Whoever came last: the bytes are there exactly when a row points at them.
      const living = (await models.get(db.client, (await other).id))?.deletedAt === null;
      expect((await objects.stat(sha256)) !== null).toBe(living);
      if (living) await collect(stores, (await db.transaction(async (tx) => models.markDeleted(tx, (await other).id))) ?? []);
      expect(await objects.stat(sha256)).toBeNull();
    }
  });

  it('is swept: what nothing points at goes, what is young or pointed at stays', async () => {
    const kept = await makeModel(stores);
    const orphan = await stores.objects.stage(stream(randomBytes(20)));
    await orphan.commit();
    await orphan.discard();
    expect((await sweep(stores, { minAgeMs: 60_000, staleMs: 60_000 })).objects).toBe(0);
    await sweep(stores, { minAgeMs: -1000, staleMs: 60_000 });
    const left = await hashes();
    expect([left.has(orphan.sha256), left.has(kept.sha256)]).toEqual([false, true]);
  });
});

describe('jobs', () => {
  const eventsOf = async (id: string): Promise<string[]> => (await events.after(stores.db.client, id, 0)).map((event) => event.type);
  const claim = (id: string, owner: string, seconds = 30) => stores.db.transaction((tx) => lifecycle.claim(tx, id, owner, seconds));

  it('are taken by one of many', async () => {
    const job = await makeJob(stores);
    const taken = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((owner) => claim(job.id, owner)));
    expect(taken.filter(Boolean).length).toBe(1);
    expect(await eventsOf(job.id)).toEqual(['queued', 'started']);
    const running = await jobs.get(stores.db.client, job.id);
    expect([running?.status, running?.starts, running?.leaseOwner]).toEqual(['running', 1, ['a', 'b', 'c', 'd', 'e'][taken.indexOf(true)]]);
  });

  it('end once, whoever says so and however often', async () => {
    const job = await makeJob(stores);
    await claim(job.id, 'me');
    const end = (owner: string, status: 'succeeded' | 'failed' | 'canceled') =>
      stores.db.transaction((tx) => lifecycle.end(tx, job.id, owner, { status }));
    const ended = await Promise.all([
      end('me', 'succeeded'),
      end('me', 'failed'),
      end('me', 'canceled'),
      end('other', 'failed'),
      end('me', 'succeeded'),
    ]);
    expect(ended.filter(Boolean).length).toBe(1);
    const types = await eventsOf(job.id);
    expect(types.filter((type) => ['succeeded', 'failed', 'canceled'].includes(type)).length).toBe(1);
    expect(await stores.db.transaction((tx) => lifecycle.requeue(tx, job.id, 'me', 'late'))).toBe('lost');
    expect(await lifecycle.writeProgress(stores.db.client, job.id, 'me', { stage: 'plan', progress: 0.5, etaSeconds: 1, stages: [] })).toBe(
      false,
    );
  });

  it('belong to nobody but the owner of the lease', async () => {
    const job = await makeJob(stores);
    await claim(job.id, 'me');
    const { client } = stores.db;
    expect(await lifecycle.renew(client, job.id, 'other', 30)).toEqual({ held: false, cancelRequested: false });
    expect(await lifecycle.renew(client, job.id, 'me', 30)).toEqual({ held: true, cancelRequested: false });
    expect(await stores.db.transaction((tx) => lifecycle.requeue(tx, job.id, 'other', 'x'))).toBe('lost');
    expect((await jobs.get(client, job.id))?.status).toBe('running');
  });

  it('go back to the queue when the lease runs out, without using up an attempt', async () => {
    const job = await makeJob(stores);
    await claim(job.id, 'me', 0);
    await sleep(20);
    const reconcilable = createReconcilable(stores);
    const [first, second] = await Promise.all([reconcilable.requeueLost(), reconcilable.requeueLost()]);
    expect([...first, ...second].filter((id) => id === job.id)).toEqual([job.id]);
    const back = await jobs.get(stores.db.client, job.id);
    expect([back?.status, back?.attempts, back?.leaseOwner]).toEqual(['queued', {}, null]);
    expect(await claim(job.id, 'other')).toBe(true);
    expect((await jobs.get(stores.db.client, job.id))?.starts).toBe(2);
  });

  it('fail at the third death at one stage, whatever happens at others in between', async () => {
    const job = await makeJob(stores);
    const die = async (stage: 'observe' | 'emit' | 'gate') => {
      await claim(job.id, 'me');
      return stores.db.transaction((tx) => lifecycle.failAttempt(tx, job.id, 'me', { stage, code: 'child-crashed', detail: 'SIGSEGV' }));
    };
    for (const stage of ['observe', 'emit', 'observe', 'gate', 'emit'] as const) expect(await die(stage)).toBe('queued');
    expect(await die('observe')).toBe('failed');
    expect((await jobs.get(stores.db.client, job.id))?.attempts).toEqual({ observe: 3, emit: 2, gate: 1 });
    expect((await jobs.get(stores.db.client, job.id))?.error).toEqual({ code: 'child-crashed', detail: 'SIGSEGV' });
    expect((await eventsOf(job.id)).filter((type) => type === 'requeued').length).toBe(5);
  });

  it('are canceled at once while queued, by their worker while running, and never after their end', async () => {
    const { db } = stores;
    const queued = await makeJob(stores);
    expect((await db.transaction((tx) => jobs.requestCancel(tx, queued.id)))?.status).toBe('canceled');
    expect(await claim(queued.id, 'me')).toBe(false);

    const running = await makeJob(stores);
    await claim(running.id, 'me');
    const asked = await db.transaction((tx) => jobs.requestCancel(tx, running.id));
    expect([asked?.status, asked?.cancelRequested]).toEqual(['running', true]);
    expect((await lifecycle.renew(db.client, running.id, 'me', 30)).cancelRequested).toBe(true);
    // The worker dies before it has heard: nobody takes it again.
    expect(await db.transaction((tx) => lifecycle.requeue(tx, running.id, 'me', 'lost'))).toBe('canceled');
    expect((await jobs.get(db.client, running.id))?.status).toBe('canceled');
    expect((await db.transaction((tx) => jobs.requestCancel(tx, running.id)))?.status).toBe('canceled');
    expect(await eventsOf(running.id)).toEqual(['queued', 'started', 'cancel-requested', 'canceled']);
    expect(await db.transaction((tx) => jobs.requestCancel(tx, 'job_none'))).toBeNull();
  });

  it('number their events without a gap, whoever writes them at once', async () => {
    const job = await makeJob(stores);
    await Promise.all(Array.from({ length: 20 }, (_, i) => stores.db.transaction((tx) => events.append(tx, job.id, 'progress', { i }))));
    const all = await events.after(stores.db.client, job.id, 0);
    expect(all.map((event) => event.sequence)).toEqual(Array.from({ length: 21 }, (_, i) => i + 1));
    expect((await events.after(stores.db.client, job.id, 18)).length).toBe(3);
    expect((await events.after(stores.db.client, job.id, 0, 5)).length).toBe(5);
  });

  it('wake those who listen', async () => {
    const heard: string[] = [];
    const stop = await stores.db.listen('halftone_job', (id) => heard.push(id));
    const job = await makeJob(stores);
    for (let i = 0; i < 50 && !heard.includes(job.id); i++) await sleep(20);
    expect(heard).toContain(job.id);
    await stop();
  });

  it('go with all that belongs to them, once they have ended', async () => {
    const { db, objects } = stores;
    const job = await makeJob(stores);
    expect(await db.transaction((tx) => jobs.removeEnded(tx, job.id))).toBeNull();
    await claim(job.id, 'me');
    const staged = await objects.stage(stream(randomBytes(30)));
    const files = [{ path: 'model.onnx', sha256: staged.sha256, sizeBytes: staged.sizeBytes }];
    const benchmark = {
      deviceProfile: 'host',
      deviceProfileId: job.deviceProfiles[0]!.id,
      latencyMs: { p50: 1, p90: 2, p99: 3, mean: 1.5, min: 0.5, samples: 9 },
      speedup: { value: 2, ci95: [1.9, 2.1] as [number, number] },
      peakRssBytes: 5e9,
      modelRssBytes: 1,
      loadMs: 1,
    };
    const evaluation = {
      metric: 'top1' as const,
      value: 0.5,
      drop: 0.1,
      agreement: 0.9,
      sqnrDb: 30,
      cosine: 1,
      maxError: 1,
      samples: 5,
      leftOut: 0,
      ci95: [0, 1] as [number, number],
      dropStandardError: 0,
    };
    const none = {
      recipe: null,
      kernels: null,
      error: null,
      artifact: null,
      evaluation,
      benchmarks: [{ ...benchmark, speedup: { value: 1, ci95: [1, 1] as [number, number] } }],
    };
    await publish(stores, [staged], async (tx) => {
      const ids = await results.create(tx, job.id, job.modelId, [
        { position: -1, ...none },
        {
          ...none,
          position: 0,
          recipe: { method: 'dynamic' },
          artifact: { sha256: staged.sha256, sizeBytes: staged.sizeBytes, manifest: { seed: 0 }, files },
          benchmarks: [benchmark],
        },
      ]);
      await lifecycle.end(tx, job.id, 'me', { status: 'succeeded', bestVariantId: ids.get(0), bestReason: 'fastest' });
    });
    const variants = await results.listVariants(db.client, job.id);
    expect(variants.map((variant) => [variant.position, variant.artifact?.sha256, variant.benchmarks[0]?.speedup.value])).toEqual([
      [-1, undefined, 1],
      [0, staged.sha256, 2],
    ]);
    expect(variants[1]?.benchmarks[0]?.peakRssBytes).toBe(5e9);
    // As they went in, members in their order.
    expect(JSON.stringify(variants[1]?.evaluation)).toBe(JSON.stringify(evaluation));
    expect((await jobs.get(db.client, job.id))?.bestVariantId).toBe(variants[1]?.id);
    const found = await results.listBenchmarks(db.client, { limit: 10, modelId: job.modelId, deviceProfileId: job.deviceProfiles[0]!.id });
    expect(found.map((row) => [row.position, row.artifactId])).toEqual([
      [0, variants[1]!.artifact!.id],
      [-1, null],
    ]);
    expect((await results.listBenchmarks(db.client, { limit: 10, modelId: job.modelId, before: found[0]!.id })).length).toBe(1);
    const artifact = await results.getArtifact(db.client, variants[1]!.artifact!.id);
    expect([artifact?.jobId, artifact?.modelId, artifact?.files]).toEqual([job.id, job.modelId, files]);

    expect(await objects.stat(staged.sha256)).not.toBeNull();
    const freed = await db.transaction((tx) => jobs.removeEnded(tx, job.id));
    expect(freed).toEqual([staged.sha256]);
    expect(await collect(stores, freed!)).toBe(1);
    expect(await jobs.get(db.client, job.id)).toBeNull();
    expect(await results.listVariants(db.client, job.id)).toEqual([]);
    expect(await eventsOf(job.id)).toEqual([]);
  });

  it('count as using what they use until they end', async () => {
    const job = await makeJob(stores);
    const count = () => jobs.countActive(stores.db.client, { modelId: job.modelId });
    expect(await count()).toBe(1);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
    expect(await count()).toBe(0);
  });

  it('are asked for by the labels of all that measure them', async () => {
    const [host] = builtInProfiles(null);
    const made = await profiles.create(stores.db.client, { ...host!, name: 'a board', workers: ['pi5', 'arm', 'pi5'] });
    const job = await makeJob(stores, { deviceProfiles: [made!] });
    expect(job.labels).toBe('arm,pi5');
    const other = await profiles.create(stores.db.client, { ...host!, name: 'a phone', workers: ['phone', 'arm'] });
    const both = await makeJob(stores, { deviceProfiles: [made!, other!] });
    expect(both.labels).toBe('arm,phone,pi5');
    // No profile asks for the three, and a worker has to know of them all the same, as long as the job waits.
    expect(await profiles.labelSets(stores.db.client)).toEqual(expect.arrayContaining(['', 'arm,pi5', 'arm,phone', 'arm,phone,pi5']));
    await stores.db.transaction((tx) => jobs.requestCancel(tx, both.id));
    expect(await profiles.labelSets(stores.db.client)).not.toContain('arm,phone,pi5');
    expect(await profiles.create(stores.db.client, { ...host!, name: 'a board' })).toBeNull();
  });
});

describe('the outbox', () => {
  it('gives each message to one relay, and keeps those that could not be sent', async () => {
    const { db } = stores;
    const source = createOutboxSource(db);
    await source.relay(1000, async () => {});
    const made = await Promise.all(Array.from({ length: 6 }, () => makeJob(stores)));
    await expect(source.relay(1000, () => Promise.reject(new Error('the queue is away')))).rejects.toThrow('away');
    const seen: string[] = [];
    const send = async (messages: { message: { payload: object } }[]) => {
      await sleep(50);
      for (const { message } of messages) seen.push((message.payload as { jobId: string }).jobId);
    };
    await Promise.all([source.relay(2, send), source.relay(2, send), source.relay(2, send)]);
    await source.relay(1000, send);
    expect(seen.sort()).toEqual(made.map((job) => job.id).sort());
    expect(await source.relay(1000, send)).toBe(0);
  });

  it('tells of what was forgotten', async () => {
    const job = await makeJob(stores);
    const reconcilable = createReconcilable(stores);
    const forgotten = async (seconds: number) =>
      (await reconcilable.forgotten(seconds)).some((message) => message.kind === 'quantize' && message.payload.jobId === job.id);
    expect(await forgotten(60)).toBe(false);
    await sleep(20);
    expect(await forgotten(0)).toBe(true);
    await outbox.take(stores.db.client, 1000);
  });
});

describe('webhook deliveries', () => {
  const endpoint = (events: string[] = []) =>
    webhooks.createEndpoint(stores.db.client, {
      url: 'https://example.org/',
      description: null,
      events,
      secret: 'whsec_x',
      apiKeyId: null,
    });
  const tried = { at: new Date().toISOString(), ms: 12, status: 500, error: 'no' };

  it('are made with the end of the job, for those who want to hear of it', async () => {
    const { db } = stores;
    const all = await endpoint();
    const failures = await endpoint(['job.failed']);
    for (const [whom, expected] of [
      [all.id, 1],
      [failures.id, 0],
    ] as const) {
      const job = await makeJob(stores, { webhookEndpointId: whom });
      await db.transaction((tx) => jobs.requestCancel(tx, job.id));
      const made = await webhooks.listDeliveries(db.client, { endpointId: whom, limit: 10 });
      expect(made.length).toBe(expected);
      for (const delivery of made) {
        expect(JSON.parse(delivery.body)).toMatchObject({ type: 'job.canceled', data: { jobId: job.id, status: 'canceled' } });
      }
    }
  });

  it('are sent by one at a time, when they are due, until they end', async () => {
    const { db } = stores;
    const { id: endpointId } = await endpoint();
    const job = await makeJob(stores, { webhookEndpointId: endpointId });
    await db.transaction((tx) => jobs.requestCancel(tx, job.id));
    const [delivery] = await webhooks.listDeliveries(db.client, { endpointId, limit: 1 });
    const id = delivery!.id;
    const claims = await Promise.all(['a', 'b', 'c'].map((owner) => webhooks.claimDelivery(db.client, id, owner, 30)));
    expect(claims.filter((claim) => claim !== null).length).toBe(1);
    const owner = ['a', 'b', 'c'][claims.findIndex((claim) => claim !== null)]!;
    const record = (who: string, succeeded: boolean, retryAfterMs: number | null) =>
      db.transaction((tx) => webhooks.recordTry(tx, id, who, { ...tried, succeeded, retryAfterMs }));
    expect(await record('someone else', true, null)).toBe(false);
    expect(await record(owner, false, 60_000)).toBe(true);
    expect(await webhooks.claimDelivery(db.client, id, 'd', 30)).toBeNull();
    await db.client.webhookDelivery.update({ where: { id }, data: { nextAttemptAt: new Date(Date.now() - 60_000) } });
    expect(await webhooks.overdueDeliveries(db.client, 30)).toContain(id);
    expect((await webhooks.claimDelivery(db.client, id, 'd', 30))?.delivery.attempts).toBe(1);
    expect(await record('d', true, null)).toBe(true);
    expect(await webhooks.getDelivery(db.client, id)).toMatchObject({
      status: 'succeeded',
      attempts: 2,
      nextAttemptAt: null,
      log: [tried, tried],
    });
    expect(await webhooks.claimDelivery(db.client, id, 'e', 30)).toBeNull();
    const again = await db.transaction((tx) => webhooks.replay(tx, id));
    expect(again).toMatchObject({ status: 'pending', body: delivery!.body, replayOf: id });
    expect(await webhooks.removeEndpoint(db.client, endpointId)).toBe(true);
    expect(await webhooks.getDelivery(db.client, id)).toBeNull();
    expect((await jobs.get(db.client, job.id))?.webhookEndpointId).toBeNull();
  });
});

describe('idempotency keys', () => {
  const request = (key: string, fingerprint = 'f', lockSeconds = 30) => ({
    ownerId: 'key_1',
    key,
    fingerprint,
    lockSeconds,
    keepSeconds: 3600,
  });
  const claim = (key: string, fingerprint?: string, lockSeconds?: number) =>
    idempotency.claim(stores.db.client, request(key, fingerprint, lockSeconds));

  it('are claimed by one request, and answer the others', async () => {
    const claims = await Promise.all([1, 2, 3].map(() => claim('once')));
    expect(claims.filter((one) => one.claimed).length).toBe(1);
    await idempotency.complete(stores.db.client, 'key_1', 'once', { status: 201, header: { location: '/x' }, body: '{}' });
    const later = await claim('once', 'another request');
    expect(later).toMatchObject({
      claimed: false,
      record: { fingerprint: 'f', responseStatus: 201, responseHeader: { location: '/x' }, responseBody: '{}' },
    });
  });

  it('are free again when the request failed, or its process died', async () => {
    await claim('freed');
    await idempotency.release(stores.db.client, 'key_1', 'freed');
    expect((await claim('freed')).claimed).toBe(true);
    await claim('dead', 'f', 0);
    await sleep(20);
    expect((await claim('dead')).claimed).toBe(true);
    expect((await claim('dead')).claimed).toBe(false);
  });

  it('go when their time is over', async () => {
    await idempotency.claim(stores.db.client, { ...request('old'), keepSeconds: 0 });
    await sleep(20);
    expect(await idempotency.removeExpired(stores.db.client)).toBeGreaterThanOrEqual(1);
    expect((await claim('old')).claimed).toBe(true);
  });
});

describe('keys and statistics', () => {
  it('are kept by hash, and one for several who bring the same', async () => {
    const { client } = stores.db;
    const key = { name: 'first', hash: 'h'.repeat(64), hint: 'hft_abc', scopes: ['admin'], bootstrap: true };
    const made = await Promise.all([1, 2, 3].map(() => keys.ensure(client, key)));
    expect(new Set(made.map((one) => one.id)).size).toBe(1);
    await keys.touch(client, made[0]!.id);
    expect((await keys.findByHash(client, key.hash))?.lastUsedAt).toBeInstanceOf(Date);
    expect(await keys.remove(client, made[0]!.id)).toBe(true);
    expect(await keys.remove(client, made[0]!.id)).toBe(false);
  });

  it('are kept by model and key, the latest wins', async () => {
    const { client } = stores.db;
    await statistics.put(client, 'm1', 'costs', { a: 1 });
    await statistics.put(client, 'm1', 'costs', { a: 2 });
    await statistics.put(client, 'm2', 'costs', { a: 3 });
    expect(await statistics.forModel(client, 'm1')).toEqual({ costs: { a: 2 } });
  });
});
