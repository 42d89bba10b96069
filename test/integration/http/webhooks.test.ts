import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openBroker, startRelay, WEBHOOK_QUEUE } from '../../../src/queue/index.ts';
import { createOutboxSource } from '../../../src/store/index.ts';
import { classifier } from '../../acceptance/support/models.ts';
import { type Api, startApi } from './support/api.ts';
import { begin, fail } from './support/worker.ts';

/** A receiver that answers as it is told to. */
const received: { path: string; headers: IncomingHttpHeaders; body: string }[] = [];
let answer: (path: string) => { status: number; headers?: Record<string, string>; body?: string } = () => ({ status: 204 });
let receiver: Server;
let origin = '';
let api: Api;
let model = '';

beforeAll(async () => {
  receiver = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      received.push({ path: request.url!, headers: request.headers, body });
      const { status, headers, body: text } = answer(request.url!);
      response.writeHead(status, headers).end(text);
    });
  });
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
  api = await startApi({ webhookAllow: [origin] });
  const upload = await api.call('POST', '/v1/models', { body: classifier(), headers: { 'content-type': 'application/octet-stream' } });
  model = upload.body.id;
});
afterAll(async () => {
  await api?.stop();
  receiver?.close();
});
beforeEach(() => {
  received.length = 0;
  answer = () => ({ status: 204 });
});

const endpoint = async (json: object = { url: `${origin}/hook` }) => {
  const made = await api.call('POST', '/v1/webhook-endpoints', { json });
  expect(made.status, made.text).toBe(201);
  return made.body as { id: string; secret: string };
};
/** Runs a job to its (bad) end and gives its delivery's id; undefined where there is none. */
const ended = async (webhook: string): Promise<string | undefined> => {
  const job = await api.call('POST', '/v1/jobs', { json: { model, recipe: { method: 'dynamic' }, webhook } });
  expect(job.status, job.text).toBe(202);
  await begin(api, job.body.id);
  await fail(api, job.body.id);
  const deliveries = await api.call('GET', `/v1/webhook-endpoints/${webhook}/deliveries`);
  return deliveries.body.items.find((delivery: { job: string }) => delivery.job === job.body.id)?.id;
};
const deliver = (id: string, owner = 'a') => api.services.webhooks.deliver(id, owner);
const deliveryOf = async (webhook: string, id: string) =>
  (await api.call('GET', `/v1/webhook-endpoints/${webhook}/deliveries`)).body.items.find((delivery: { id: string }) => delivery.id === id);
/** Makes a waiting delivery due. */
const due = (id: string) => api.db.client.webhookDelivery.update({ where: { id }, data: { nextAttemptAt: new Date(Date.now() - 1000) } });

describe('deliveries', () => {
  it('are signed so that the standard’s own library takes them, and thin', async () => {
    const { id, secret } = await endpoint();
    const delivery = (await ended(id))!;
    expect(await deliver(delivery)).toBe('succeeded');
    expect(received).toHaveLength(1);
    const { headers, body } = received[0]!;
    expect(headers['webhook-id']).toBe(delivery);
    const event = new Webhook(secret).verify(body, headers as Record<string, string>) as {
      type: string;
      timestamp: string;
      data: { status: string };
    };
    expect(event).toMatchObject({
      type: 'job.failed',
      data: { status: 'failed', best: null, href: expect.stringMatching(/^\/v1\/jobs\/job_/) },
    });
    expect(Math.abs(Date.parse(event.timestamp) - Date.now())).toBeLessThan(60_000);
    expect(() => new Webhook(secret).verify(body.replace('failed', 'succeeded'), headers as Record<string, string>)).toThrow();
    expect(await deliveryOf(id, delivery)).toMatchObject({
      status: 'succeeded',
      attempts: 1,
      tries: [{ status: 204, error: null }],
      nextAttemptAt: null,
    });
    expect(await deliver(delivery)).toBe('nothing');
  });

  it('reach the receiver through outbox and queue', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    const broker = await openBroker({ redisUrl: null, databaseUrl: api.db.url });
    const consumer = broker.consume(WEBHOOK_QUEUE, 'deliver-webhook', 2, async ({ deliveryId }) => {
      await deliver(deliveryId, 'consumer');
    });
    const relay = await startRelay(createOutboxSource(api.db), broker, () => undefined);
    try {
      await expect.poll(() => received.map(({ headers }) => headers['webhook-id']), { timeout: 15_000 }).toContain(delivery);
      await expect.poll(async () => (await deliveryOf(id, delivery)).status).toBe('succeeded');
    } finally {
      await relay.stop();
      await consumer.close();
      await broker.close();
    }
  });

  it('are signed with both secrets after a rotation', async () => {
    const { id, secret } = await endpoint();
    const rotated = await api.call('POST', `/v1/webhook-endpoints/${id}/rotate-secret`);
    expect(rotated.body.secret).not.toBe(secret);
    expect(rotated.body.previousSecretExpiresAt).not.toBeNull();
    await deliver((await ended(id))!);
    const { headers, body } = received.at(-1)!;
    expect(headers['webhook-signature']!.toString().split(' ')).toHaveLength(2);
    new Webhook(secret).verify(body, headers as Record<string, string>);
    new Webhook(rotated.body.secret).verify(body, headers as Record<string, string>);
    await api.db.client.webhookEndpoint.update({ where: { id }, data: { previousSecretExpires: new Date(Date.now() - 1) } });
    await deliver((await ended(id))!);
    expect(() => new Webhook(secret).verify(received.at(-1)!.body, received.at(-1)!.headers as Record<string, string>)).toThrow();
    expect(JSON.stringify((await api.call('GET', `/v1/webhook-endpoints/${id}`)).body)).not.toContain('whsec_');
  });

  it('are tried again as the schedule says, longer where the receiver asks for it', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    answer = () => ({ status: 500 });
    expect(await deliver(delivery)).toBe('retry');
    let row = await deliveryOf(id, delivery);
    expect(row).toMatchObject({ status: 'pending', attempts: 1, tries: [{ status: 500, error: 'The receiver answered 500.' }] });
    const wait = Date.parse(row.nextAttemptAt) - Date.now();
    expect(wait).toBeGreaterThan(3000);
    expect(wait).toBeLessThan(7000);
    expect(await deliver(delivery)).toBe('nothing');
    await due(delivery);
    answer = () => ({ status: 503, headers: { 'retry-after': '1800' } });
    expect(await deliver(delivery)).toBe('retry');
    row = await deliveryOf(id, delivery);
    expect(Date.parse(row.nextAttemptAt) - Date.now()).toBeGreaterThan(1_790_000);
    expect((await api.call('GET', `/v1/webhook-endpoints/${id}`)).body.failingSince).not.toBeNull();
    await due(delivery);
    answer = () => ({ status: 200, body: 'x'.repeat(300_000) });
    expect(await deliver(delivery)).toBe('succeeded');
    expect((await api.call('GET', `/v1/webhook-endpoints/${id}`)).body.failingSince).toBeNull();
    expect(new Set(received.map(({ headers }) => headers['webhook-id']))).toEqual(new Set([delivery]));
  });

  it('are given up after the tenth try', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    answer = () => ({ status: 500 });
    for (let attempt = 1; attempt <= 9; attempt++) {
      expect(await deliver(delivery)).toBe('retry');
      await due(delivery);
    }
    expect(await deliver(delivery)).toBe('failed');
    expect(await deliveryOf(id, delivery)).toMatchObject({ status: 'failed', attempts: 10, nextAttemptAt: null });
  });

  it('are sent by one of many senders', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    const results = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((owner) => deliver(delivery, owner)));
    expect(results.sort()).toEqual(['nothing', 'nothing', 'nothing', 'nothing', 'succeeded']);
    expect(received).toHaveLength(1);
  });

  it('follow no redirects, and a 410 ends it', async () => {
    const { id } = await endpoint();
    answer = (path) => (path === '/hook' ? { status: 302, headers: { location: `${origin}/elsewhere` } } : { status: 200 });
    const delivery = (await ended(id))!;
    expect(await deliver(delivery)).toBe('retry');
    expect(received.map(({ path }) => path)).toEqual(['/hook']);
    expect((await deliveryOf(id, delivery)).tries[0]).toMatchObject({ status: 302, error: 'Redirects are not followed (302).' });
    await due(delivery);
    answer = () => ({ status: 410 });
    expect(await deliver(delivery)).toBe('failed');
    const gone = (await api.call('GET', `/v1/webhook-endpoints/${id}`)).body;
    expect(gone.disabledReason).toMatch(/410/);
    expect(await ended(id).catch(() => 'refused')).toBe('refused');
    const replayed = await api.call('POST', `/v1/webhook-endpoints/${id}/deliveries/${delivery}/replay`);
    expect([replayed.status, replayed.body.code]).toEqual([409, 'conflict']);
    const enabled = await api.call('POST', `/v1/webhook-endpoints/${id}/enable`);
    expect(enabled.body.disabledAt).toBeNull();
    answer = () => ({ status: 204 });
    const again = await api.call('POST', `/v1/webhook-endpoints/${id}/deliveries/${delivery}/replay`);
    expect([again.status, again.body.replayOf, again.body.status]).toEqual([202, delivery, 'pending']);
    expect(again.body.body).toBe((await deliveryOf(id, delivery)).body);
    expect(await deliver(again.body.id)).toBe('succeeded');
  });

  it('disable an endpoint after five days of nothing but failures', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    answer = () => ({ status: 500 });
    await deliver(delivery);
    await api.db.client.webhookEndpoint.update({ where: { id }, data: { failingSince: new Date(Date.now() - 5 * 24 * 3600 * 1000) } });
    await due(delivery);
    expect(await deliver(delivery)).toBe('failed');
    expect((await api.call('GET', `/v1/webhook-endpoints/${id}`)).body.disabledAt).not.toBeNull();
  });

  it('come for the events asked for', async () => {
    const { id } = await endpoint({ url: `${origin}/hook`, events: ['job.succeeded'] });
    expect(await ended(id)).toBeUndefined();
    const wrong = await api.call('POST', '/v1/webhook-endpoints', { json: { url: `${origin}/hook`, events: ['job.exploded'] } });
    expect(wrong.body.errors[0].pointer).toBe('/events/0');
  });
});

describe('the guard', () => {
  it('refuses addresses that are not https or not public', async () => {
    const addresses = [
      'http://example.com/',
      'ftp://example.com/',
      'https://127.0.0.1/',
      'https://[::1]/',
      'https://10.1.2.3/',
      'https://192.168.0.1:8443/',
      'https://169.254.169.254/latest/meta-data',
      'https://0x7f.1/',
      'https://2130706433/',
      'https://[::ffff:127.0.0.1]/',
      'https://[fd00::1]/',
      'https://0.0.0.0/',
      'https://user:password@example.com/',
      'http://127.0.0.1:1/',
      'not a url',
    ];
    for (const url of addresses) {
      const refused = await api.call('POST', '/v1/webhook-endpoints', { json: { url } });
      expect([refused.status, refused.body.code], url).toEqual([422, 'webhook-target']);
    }
  });

  it('refuses names that resolve to inside addresses when it connects', async () => {
    const { id } = await endpoint({ url: `https://localhost:${new URL(origin).port}/hook` });
    const delivery = (await ended(id))!;
    expect(await deliver(delivery)).toBe('retry');
    expect((await deliveryOf(id, delivery)).tries[0].error).toMatch(
      /localhost resolves to (127\.0\.0\.1|::1), which is not a public address/,
    );
    expect(received).toHaveLength(0);
  });

  it('looks at the address again before each delivery', async () => {
    const { id } = await endpoint();
    const delivery = (await ended(id))!;
    await api.db.client.webhookEndpoint.update({ where: { id }, data: { url: 'https://169.254.169.254/' } });
    expect(await deliver(delivery)).toBe('retry');
    expect((await deliveryOf(id, delivery)).tries[0]).toMatchObject({ status: null, error: '169.254.169.254 is not a public address.' });
  });
});

it('endpoints are listed, read and deleted with their deliveries', async () => {
  const { id } = await endpoint({ url: `${origin}/hook`, description: 'mine' });
  const delivery = (await ended(id))!;
  expect((await api.call('GET', '/v1/webhook-endpoints?pageSize=1')).body.items[0]).toMatchObject({ id, description: 'mine' });
  expect((await api.call('GET', `/v1/webhook-endpoints/whe_none/deliveries`)).status).toBe(404);
  expect((await api.call('DELETE', `/v1/webhook-endpoints/${id}`)).status).toBe(204);
  expect((await api.call('GET', `/v1/webhook-endpoints/${id}`)).status).toBe(404);
  expect(await deliver(delivery)).toBe('nothing');
});
