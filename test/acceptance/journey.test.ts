/** The whole way of a model, from its upload to the last deleted byte, as a user's HTTP client sees it. */
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ApiError, type Job, type ServerEvent } from '../../demo/client.ts';
import { npz } from '../../demo/npz.ts';
import { Receiver } from '../../demo/receiver.ts';
import { all, eventually, type Harness, start } from './support/harness.ts';
import { argmax, conditional, external, fitted, IMAGE, images, labelsFrom, logitsOf, random, share } from './support/models.ts';

const RECIPES = [{ method: 'static' }, { method: 'dynamic' }, { method: 'float16' }];
const EVALUATION = images(11, 200);
const CALIBRATION = images(12, 64);

let harness: Harness;
let receiver: Receiver;
let bytes: Buffer;
let logits: Float32Array[];
let labels: BigInt64Array;
const ids: Record<string, string> = {};
let job: Job;
let webhook: { id: string; secret: string };

const shape = (count: number): number[] => [count, ...IMAGE];
const get = <T>(path: string): Promise<T> => harness.client.json<T>('GET', path);
const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');

async function refusal(run: Promise<unknown>): Promise<ApiError> {
  const outcome = await run.then(
    () => null,
    (error: unknown) => error,
  );
  if (outcome instanceof ApiError) return outcome;
  throw new Error(`expected a refusal, got ${String(outcome)}`);
}

beforeAll(async () => {
  bytes = await fitted({ width: 24 });
  logits = await logitsOf(bytes, EVALUATION);
  labels = labelsFrom(logits);
  receiver = await Receiver.listen();
  harness = await start({ WEBHOOK_ALLOW: new URL(receiver.url).origin });
}, 180_000);
afterAll(async () => {
  await harness?.close();
  await receiver?.close();
});

describe('before anything is there', () => {
  it('answers health, metrics and documentation without a key', async () => {
    for (const path of ['/livez', '/readyz', '/metrics', '/openapi.json', '/docs']) {
      const response = await fetch(harness.client.url + path);
      await response.arrayBuffer();
      expect([path, response.status]).toEqual([path, 200]);
    }
    const document = (await (await fetch(`${harness.client.url}/openapi.json`)).json()) as {
      openapi: string;
      paths: Record<string, unknown>;
    };
    expect(document.openapi).toMatch(/^3\.1/);
    for (const path of [
      '/v1/models',
      '/v1/datasets',
      '/v1/jobs',
      '/v1/device-profiles',
      '/v1/benchmarks',
      '/v1/webhook-endpoints',
      '/v1/api-keys',
    ])
      expect(Object.keys(document.paths)).toContain(path);
  });

  it('asks for a key everywhere else, in problem+json', async () => {
    for (const headers of [{}, { authorization: 'Bearer wrong' }] as Record<string, string>[]) {
      const response = await fetch(`${harness.client.url}/v1/models`, { headers });
      expect(response.status).toBe(401);
      expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
      expect(await response.json()).toMatchObject({ code: 'unauthenticated', status: 401 });
    }
  });

  it('has the built-in profiles, with this machine in them', async () => {
    const profiles = await all<{
      id: string;
      name: string;
      threads: number | null;
      machine: { cpu: string; instructionSets: string[] } | null;
    }>(harness.client, '/v1/device-profiles');
    const names = profiles.map((profile) => profile.name);
    expect(names).toContain('host');
    expect(names).toContain('host-1-thread');
    expect(profiles.find((profile) => profile.name === 'host-1-thread')!.threads).toBe(1);
    expect(profiles.find((profile) => profile.name === 'host')!.machine?.instructionSets.length).toBeGreaterThan(0);
    expect(profiles.every((profile) => profile.id.startsWith('prf_'))).toBe(true);
  });
});

describe('uploads', () => {
  it('takes a model and says what it is', async () => {
    const model = await harness.client.upload<Record<string, unknown> & { id: string }>('/v1/models?name=classifier', bytes);
    ids.model = model.id;
    expect(model.id).toMatch(/^mdl_/);
    expect(model).toMatchObject({
      name: 'classifier',
      sha256: sha256(bytes),
      sizeBytes: bytes.length,
      opset: 17,
      irVersion: 8,
      producer: expect.stringContaining('acceptance-tests'),
      inputs: [{ name: 'image', type: 'float32', shape: ['batch', ...IMAGE] }],
      outputs: [{ name: 'logits', type: 'float32', shape: ['batch', 6] }],
      operators: { Conv: 4, Relu: 4, MaxPool: 1, Add: 1, GlobalAveragePool: 1, Flatten: 1, Gemm: 1 },
    });
    expect(model.parameters).toBe(24 * 27 + 24 + 3 * (24 * 24 * 9 + 24) + 6 * 24 + 6);
    expect(await get(`/v1/models/${model.id}`)).toMatchObject({ id: model.id, sha256: sha256(bytes) });
  });

  it('knows the same bytes again', async () => {
    expect((await harness.client.upload<{ id: string }>('/v1/models?name=again', bytes)).id).toBe(ids.model);
    expect((await all(harness.client, '/v1/models')).length).toBe(1);
  });

  it('takes data sets', async () => {
    const evaluation = await harness.client.upload<Record<string, unknown> & { id: string }>(
      '/v1/datasets?name=evaluation',
      npz({ image: { data: EVALUATION.images, shape: shape(200) }, labels: { data: labels, shape: [200] } }),
    );
    expect(evaluation).toMatchObject({ name: 'evaluation', samples: 200 });
    ids.evaluation = evaluation.id;
    const calibration = await harness.client.upload<{ id: string; samples: number }>(
      '/v1/datasets?name=calibration',
      npz({ image: { data: CALIBRATION.images, shape: shape(64) } }),
    );
    expect(calibration.samples).toBe(64);
    ids.calibration = calibration.id;
    expect(ids.calibration).toMatch(/^dst_/);
    expect((await all(harness.client, '/v1/datasets')).length).toBe(2);
  });

  it('takes a webhook endpoint', async () => {
    webhook = await harness.client.json('POST', '/v1/webhook-endpoints', { url: receiver.url });
    expect(webhook.id).toMatch(/^whe_/);
    expect(webhook.secret).toMatch(/^whsec_/);
  });
});

describe('a job with three recipes', () => {
  const events: ServerEvent[] = [];

  it('is accepted, shows progress and succeeds', async () => {
    const response = await harness.client.fetch('POST', '/v1/jobs', {
      headers: { 'content-type': 'application/json', 'idempotency-key': 'journey-1' },
      body: JSON.stringify({
        model: ids.model,
        recipes: RECIPES,
        calibration: ids.calibration,
        evaluation: ids.evaluation,
        metric: 'top1',
        deviceProfiles: ['host', 'host-1-thread'],
        webhook: webhook.id,
      }),
    });
    const accepted = (await response.json()) as Job;
    expect(response.status).toBe(202);
    expect(accepted.id).toMatch(/^job_/);
    ids.job = accepted.id;
    expect(response.headers.get('location')).toBe(`/v1/jobs/${accepted.id}`);
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
    for await (const event of harness.client.events(`/v1/jobs/${accepted.id}/events`, { signal: AbortSignal.timeout(150_000) }))
      events.push(event);
    job = await harness.client.follow(accepted.id);
    expect(job.error).toBeNull();
    expect(job.status).toBe('succeeded');
    expect(job.progress).toBe(1);
  });

  it('told its progress in order, and tells it again from any point', async () => {
    const numbers = events.map((event) => Number(event.id));
    expect(numbers.length).toBeGreaterThan(3);
    expect([...numbers].sort((a, b) => a - b)).toEqual(numbers);
    expect(new Set(numbers).size).toBe(numbers.length);
    const middle = Math.floor(numbers.length / 2);
    const again: ServerEvent[] = [];
    const options = { lastEventId: String(numbers[middle]), signal: AbortSignal.timeout(20_000) };
    for await (const event of harness.client.events(`/v1/jobs/${ids.job}/events`, options)) again.push(event);
    expect(again.map((event) => Number(event.id))).toEqual(numbers.slice(middle + 1));
  });

  it('answers the same request with the same key from memory, and another one with 422', async () => {
    const request = { model: ids.model, recipe: { method: 'float16' } };
    const first = await harness.client.json<Job>('POST', '/v1/jobs', request, { 'idempotency-key': '"journey-2"' });
    const second = await harness.client.json<Job>('POST', '/v1/jobs', request, { 'idempotency-key': 'journey-2' });
    expect(second.id).toBe(first.id);
    const other = harness.client.json('POST', '/v1/jobs', { ...request, maxAccuracyDrop: 0.5 }, { 'idempotency-key': 'journey-2' });
    expect(await refusal(other)).toMatchObject({ status: 422, code: 'idempotency-key-reused' });
    // No data set at all: agreement is judged on nothing, or on random samples; either way the job ends well.
    expect((await harness.client.follow(first.id)).status).toBe('succeeded');
    await harness.client.json('DELETE', `/v1/jobs/${first.id}`);
  });

  it('lists its stages with time and memory', () => {
    const names = new Set(job.stages.map((stage) => stage.name));
    for (const name of ['read', 'prepare', 'observe', 'plan', 'transform', 'emit', 'gate', 'evaluate', 'benchmark'])
      expect(names).toContain(name);
    for (const stage of job.stages) expect(stage.ms >= 0 && stage.peakRssBytes > 1e6).toBe(true);
  });

  it('has one variant a recipe, in order, each with its measurements', () => {
    expect(job.variants.map((variant) => variant.recipe?.method)).toEqual(['static', 'dynamic', 'float16']);
    for (const variant of [job.baseline!, ...job.variants]) {
      expect(variant.benchmarks.map((benchmark) => benchmark.deviceProfile)).toEqual(['host', 'host-1-thread']);
      for (const { latencyMs, speedup, peakRssBytes, loadMs } of variant.benchmarks) {
        expect(latencyMs.min).toBeGreaterThan(0);
        expect(latencyMs.p50).toBeGreaterThanOrEqual(latencyMs.min);
        expect(latencyMs.p90).toBeGreaterThanOrEqual(latencyMs.p50);
        expect(latencyMs.p99).toBeGreaterThanOrEqual(latencyMs.p90);
        expect(latencyMs.samples).toBeGreaterThanOrEqual(20);
        expect(speedup.ci95[0]).toBeLessThanOrEqual(speedup.value);
        expect(speedup.ci95[1]).toBeGreaterThanOrEqual(speedup.value);
        expect(peakRssBytes).toBeGreaterThan(10e6);
        expect(loadMs).toBeGreaterThan(0);
      }
    }
    expect(job.baseline!.artifact).toBeNull();
    expect(job.baseline!.evaluation!.value).toBeCloseTo(share(logits.map((row, index) => BigInt(argmax(row)) === labels[index])), 3);
    expect(job.variants[0]!.kernels!.quantized.length).toBeGreaterThan(0);
  });

  it('gives artifacts that are what it says: bytes, names, types, accuracy', async () => {
    for (const variant of job.variants) {
      const artifact = variant.artifact!;
      const content = await harness.client.bytes(artifact.href);
      expect([content.length, sha256(content)]).toEqual([artifact.sizeBytes, artifact.sha256]);
      const file = join(harness.folder, `${variant.recipe!.method}.onnx`);
      writeFileSync(file, content);
      const session = await ort.InferenceSession.create(file);
      expect([session.inputNames, session.outputNames]).toEqual([['image'], ['logits']]);
      expect(session.inputMetadata[0]).toMatchObject({ type: 'float32', shape: ['batch', ...IMAGE] });
      await session.release();
      const rows = await logitsOf(file, EVALUATION);
      const top1 = share(rows.map((row, index) => BigInt(argmax(row)) === labels[index]));
      const agreement = share(rows.map((row, index) => argmax(row) === argmax(logits[index]!)));
      let signal = 0;
      let noise = 0;
      rows.forEach((row, index) => {
        row.forEach((got, i) => {
          const want = logits[index]![i]!;
          signal += want * want;
          noise += (want - got) ** 2;
        });
      });
      const evaluation = variant.evaluation!;
      expect(evaluation.metric).toBe('top1');
      expect(evaluation.samples).toBe(200);
      expect(Math.abs(evaluation.value - top1)).toBeLessThanOrEqual(0.005);
      expect(Math.abs(evaluation.drop! - (job.baseline!.evaluation!.value - top1))).toBeLessThanOrEqual(0.005);
      expect(Math.abs(evaluation.agreement! - agreement)).toBeLessThanOrEqual(0.01);
      expect(Math.abs(evaluation.sqnrDb! - Math.min(60, 10 * Math.log10(signal / noise)))).toBeLessThan(1);
      expect(agreement).toBeGreaterThan(0.9);
      if (variant.recipe!.method === 'static') expect(content.length).toBeLessThan(bytes.length * 0.55);
    }
  });

  it('calls best only what is no slower and within the drop allowed', () => {
    expect(job.bestReason).toBeTruthy();
    if (job.best === null) return;
    const best = job.variants.find((variant) => variant.id === job.best)!;
    expect(best.artifact).not.toBeNull();
    expect(best.evaluation!.drop!).toBeLessThanOrEqual(0.01);
    expect(best.benchmarks[0]!.speedup.value).toBeGreaterThanOrEqual(1);
  });

  it('serves an artifact by ranges, with a strong ETag and a manifest', async () => {
    const artifact = job.variants[0]!.artifact!;
    const whole = await harness.client.bytes(artifact.href);
    const head = await harness.client.fetch('GET', artifact.href, { headers: { range: 'bytes=10-29' } });
    expect(head.status).toBe(206);
    expect(head.headers.get('content-range')).toBe(`bytes 10-29/${whole.length}`);
    expect(Buffer.from(await head.arrayBuffer())).toEqual(whole.subarray(10, 30));
    const etag = head.headers.get('etag')!;
    if (!harness.redirects) expect(etag).toBe(`"${artifact.sha256}"`);
    expect(etag.startsWith('W/')).toBe(false);
    const unchanged = await harness.client.fetch('GET', artifact.href, { headers: { 'if-none-match': etag } });
    await unchanged.arrayBuffer();
    expect(unchanged.status).toBe(304);
    const beyond = await harness.client.fetch('GET', artifact.href, { headers: { range: `bytes=${whole.length}-` } });
    const text = await beyond.text();
    expect(beyond.status).toBe(416);
    if (!harness.redirects) expect(JSON.parse(text)).toMatchObject({ code: 'range-not-satisfiable' });
    const manifest = JSON.stringify(await get(`/v1/artifacts/${artifact.id}`));
    for (const part of [sha256(bytes), artifact.sha256, '1.30.0', 'seed', 'static']) expect(manifest).toContain(part);
  });

  it('has a report as JSON and as HTML', async () => {
    const report = await harness.client.fetch('GET', `/v1/jobs/${ids.job}/report`, { headers: { accept: 'application/json' } });
    expect(report.headers.get('content-type')).toMatch(/^application\/json/);
    expect(await report.json()).toMatchObject({ id: ids.job, status: 'succeeded', best: job.best });
    const page = await harness.client.fetch('GET', `/v1/jobs/${ids.job}/report`, { headers: { accept: 'text/html' } });
    const html = await page.text();
    expect(page.headers.get('content-type')).toMatch(/^text\/html/);
    for (const part of ['<!doctype html', 'static', 'dynamic', 'float16', 'classifier']) expect(html.toLowerCase()).toContain(part);
    const image = await harness.client.fetch('GET', `/v1/jobs/${ids.job}/report`, { headers: { accept: 'image/png' } });
    expect([image.status, ((await image.json()) as { code: string }).code]).toEqual([406, 'not-acceptable']);
  });

  it('is in the lists: jobs by status and model, benchmarks by profile and model', async () => {
    const listed = await all<Job>(harness.client, `/v1/jobs?status=succeeded&model=${ids.model}`);
    expect(listed.map((one) => one.id)).toContain(ids.job);
    expect(await all(harness.client, '/v1/jobs?status=failed')).toEqual([]);
    const benchmarks = await all<{ deviceProfile: string }>(
      harness.client,
      `/v1/benchmarks?deviceProfile=host-1-thread&model=${ids.model}`,
    );
    expect(benchmarks.length).toBeGreaterThanOrEqual(3);
    expect(benchmarks.every((benchmark) => benchmark.deviceProfile === 'host-1-thread')).toBe(true);
  });

  it('called the webhook, signed', async () => {
    const delivery = await receiver.next((one) => one.body.includes(ids.job!), 30_000);
    expect(new Webhook(webhook.secret).verify(delivery.body, delivery.headers)).toMatchObject({ type: 'job.succeeded' });
    expect(() => new Webhook(webhook.secret).verify(`${delivery.body} `, delivery.headers)).toThrow();
    const deliveries = await all<{ id: string; status: string }>(harness.client, `/v1/webhook-endpoints/${webhook.id}/deliveries`);
    expect(deliveries.length).toBe(1);
    expect(delivery.headers['webhook-id']).toBe(deliveries[0]!.id);
    expect(receiver.deliveries.length).toBe(1);
  });
});

describe('other jobs', () => {
  it('can be waited for in the request', async () => {
    const posted = await harness.client.json<Job>(
      'POST',
      '/v1/jobs',
      { model: ids.model, recipe: { method: 'dynamic' }, evaluation: ids.evaluation },
      { prefer: 'wait=60' },
    );
    const now = await harness.client.json<Job>('GET', `/v1/jobs/${posted.id}`, undefined, { prefer: 'wait=60' });
    expect(now.status).toBe('succeeded');
    await harness.client.json('DELETE', `/v1/jobs/${posted.id}`);
  });

  it('can be canceled, once and for all', async () => {
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', {
      model: ids.model,
      recipes: RECIPES,
      calibration: ids.calibration,
      evaluation: ids.evaluation,
    });
    await harness.client.json('POST', `/v1/jobs/${posted.id}/cancel`);
    const end = await harness.client.follow(posted.id);
    expect(end.status).toBe('canceled');
    expect(end.best).toBeNull();
    await harness.client.json('DELETE', `/v1/jobs/${posted.id}`);
    expect(await refusal(get(`/v1/jobs/${posted.id}`))).toMatchObject({ status: 404, code: 'not-found' });
  });

  it('keep what they need from being deleted while they run', async () => {
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', {
      model: ids.model,
      recipe: { method: 'static' },
      calibration: ids.calibration,
    });
    expect(await refusal(harness.client.json('DELETE', `/v1/models/${ids.model}`))).toMatchObject({ status: 409, code: 'in-use' });
    expect(await refusal(harness.client.json('DELETE', `/v1/datasets/${ids.calibration}`))).toMatchObject({ status: 409, code: 'in-use' });
    await harness.client.json('POST', `/v1/jobs/${posted.id}/cancel`);
    await harness.client.follow(posted.id);
    await harness.client.json('DELETE', `/v1/jobs/${posted.id}`);
  });

  it('take a model whose weights lie in a file beside it', async () => {
    const { model, weights } = external();
    const form = new FormData();
    form.append('model', new Blob([model]), 'model.onnx');
    form.append('weights/w.bin', new Blob([weights]), 'w.bin');
    const response = await harness.client.fetch('POST', '/v1/models?name=external', { body: form });
    const uploaded = (await response.json()) as { id: string; sizeBytes: number; parameters: number };
    expect([response.status, uploaded.sizeBytes, uploaded.parameters]).toEqual([201, model.length + weights.length, 64 * 64]);
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', { model: uploaded.id, recipe: { method: 'dynamic' } });
    const end = await harness.client.follow(posted.id);
    expect([end.status, end.error, end.variants[0]!.error]).toEqual(['succeeded', null, null]);
    const artifact = end.variants[0]!.artifact!;
    expect(sha256(await harness.client.bytes(artifact.href))).toBe(artifact.sha256);
    for (const path of [`jobs/${posted.id}`, `models/${uploaded.id}`]) await harness.client.json('DELETE', `/v1/${path}`);
  });

  it('quantize around an If', async () => {
    const model = await harness.client.upload<{ id: string }>('/v1/models?name=conditional', conditional());
    const data = npz({ x: { data: random(5, 40 * 8 * 144), shape: [40, 8, 12, 12] } });
    const set = await harness.client.upload<{ id: string }>('/v1/datasets?name=conditional', data);
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', {
      model: model.id,
      recipes: [{ method: 'static' }, { method: 'dynamic' }],
      calibration: set.id,
      evaluation: set.id,
    });
    const end = await harness.client.follow(posted.id);
    expect([end.status, end.error]).toEqual(['succeeded', null]);
    const variant = end.variants[0]!;
    expect(variant.error).toBeNull();
    expect(variant.evaluation!.sqnrDb!).toBeGreaterThan(15);
    for (const [kind, id] of [
      ['jobs', posted.id],
      ['models', model.id],
      ['datasets', set.id],
    ])
      await harness.client.json('DELETE', `/v1/${kind}/${id}`);
  });
});

describe('keys', () => {
  it('are shown once, work within their scopes, and stop working when deleted', async () => {
    const made = await harness.client.json<{ id: string; secret: string }>('POST', '/v1/api-keys', { name: 'reader', scopes: ['read'] });
    expect(made.id).toMatch(/^key_/);
    const headers = { authorization: `Bearer ${made.secret}` };
    expect((await harness.client.fetch('GET', '/v1/models', { headers })).status).toBe(200);
    const refused = await harness.client.fetch('DELETE', `/v1/models/${ids.model}`, { headers });
    expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([403, 'forbidden']);
    expect(JSON.stringify(await all(harness.client, '/v1/api-keys'))).not.toContain(made.secret);
    await harness.client.json('DELETE', `/v1/api-keys/${made.id}`);
    expect((await harness.client.fetch('GET', '/v1/models', { headers })).status).toBe(401);
  });
});

describe('the end', () => {
  it('deletes everything and leaves no object behind', async () => {
    const artifact = job.variants[0]!.artifact!;
    await harness.client.json('DELETE', `/v1/artifacts/${artifact.id}`);
    expect(await refusal(get(`/v1/artifacts/${artifact.id}`))).toMatchObject({ status: 404 });
    await harness.client.json('DELETE', `/v1/jobs/${ids.job}`);
    await harness.client.json('DELETE', `/v1/models/${ids.model}`);
    await harness.client.json('DELETE', `/v1/datasets/${ids.evaluation}`);
    await harness.client.json('DELETE', `/v1/datasets/${ids.calibration}`);
    await harness.client.json('DELETE', `/v1/webhook-endpoints/${webhook.id}`);
    for (const path of ['models', 'datasets', 'jobs', 'webhook-endpoints', 'benchmarks'])
      expect([path, await all(harness.client, `/v1/${path}`)]).toEqual([path, []]);
    expect(
      await eventually(
        () => harness.objects(),
        (left) => left.length === 0,
      ),
    ).toEqual([]);
  });

  it('shuts down when asked', async () => {
    expect(await harness.service.stop()).toBe(0);
  });
});
