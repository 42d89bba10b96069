import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openS3Store } from '../../../src/store/index.ts';
import { classifier, external } from '../../acceptance/support/models.ts';
import { type Api, KEY, startApi } from './support/api.ts';
import { floats, npz } from './support/npz.ts';
import { begin, succeed } from './support/worker.ts';

const endpoint = process.env.S3_ENDPOINT ?? '';
if (endpoint === '') console.log('S3_ENDPOINT is not set: uploads and downloads are tested on disk only');

describe.skipIf(endpoint === '')('with objects on S3', () => {
  let api: Api;
  beforeAll(async () => {
    const objects = await openS3Store({
      endpoint,
      bucket: process.env.S3_BUCKET ?? 'halftone-test',
      region: process.env.S3_REGION ?? 'us-east-1',
      accessKeyId: process.env.S3_ACCESS_KEY_ID ?? '',
      secretAccessKey: process.env.S3_SECRET_ACCESS_KEY ?? '',
      prefix: `http-${randomBytes(6).toString('hex')}`,
    });
    api = await startApi({ objects });
  });
  afterAll(async () => {
    if (!api) return;
    for await (const { sha256 } of api.objects.list()) await api.objects.delete(sha256);
    await api.stop();
  });
  const octets = { 'content-type': 'application/octet-stream' };
  const scratch = () => readdir(join(api.dir, 'scratch')).catch(() => []);

  it('takes uploads, and leaves no copy on this machine', async () => {
    const model = classifier();
    const made = await api.call('POST', '/v1/models', { body: model, headers: octets });
    expect(made.status, made.text).toBe(201);
    expect(made.body.sha256).toBe(createHash('sha256').update(model).digest('hex'));
    expect(await api.objects.stat(made.body.sha256)).toMatchObject({ sizeBytes: model.length });
    const { model: main, weights } = external();
    const form = new FormData();
    form.append('model', new Blob([new Uint8Array(main)]), 'm.onnx');
    form.append('weights/w.bin', new Blob([new Uint8Array(weights)]), 'w.bin');
    const parts = await api.call('POST', '/v1/models', { body: form });
    expect(parts.status, parts.text).toBe(201);
    const data = await api.call('POST', '/v1/datasets', { body: npz({ image: floats([4, 3, 24, 24]) }), headers: octets });
    expect(data.status, data.text).toBe(201);
    expect((await api.call('POST', '/v1/datasets', { body: Buffer.from('no zip'), headers: octets })).status).toBe(422);
    expect(await scratch()).toEqual([]);
    const before = [];
    for await (const object of api.objects.list()) before.push(object.sha256);
    expect(before.length).toBe(4);
    await api.call('DELETE', `/v1/models/${parts.body.id}`);
    expect(await api.objects.stat(parts.body.files[1].sha256)).toBeNull();
  });

  it('sends downloads to the store, and a .tar from here', async () => {
    const bytes = randomBytes(100_000);
    const { body: model } = await api.call('POST', '/v1/models', { body: classifier({ seed: 2 }), headers: octets });
    const run = async (files: Record<string, Buffer>) => {
      const { body: job } = await api.call('POST', '/v1/jobs', { json: { model: model.id, recipe: { method: 'dynamic' } } });
      await begin(api, job.id);
      await succeed(api, job.id, files);
      return (await api.call('GET', `/v1/jobs/${job.id}`)).body.variants[0].artifact as { href: string; sha256: string; sizeBytes: number };
    };
    const single = await run({ 'model.onnx': bytes });
    const found = await fetch(`${api.url}${single.href}`, { headers: { authorization: `Bearer ${KEY}` }, redirect: 'manual' });
    expect(found.status).toBe(302);
    expect(found.headers.get('etag')).toBe(`"${single.sha256}"`);
    expect(found.headers.get('cache-control')).toBe('no-store');
    const direct = await fetch(found.headers.get('location')!);
    expect(Buffer.from(await direct.arrayBuffer()).equals(bytes)).toBe(true);
    expect(direct.headers.get('content-disposition')).toMatch(/art_\w+\.onnx/);
    const piece = await fetch(found.headers.get('location')!, { headers: { range: 'bytes=10-19' } });
    expect([piece.status, (await piece.arrayBuffer()).byteLength]).toEqual([206, 10]);
    const known = await fetch(`${api.url}${single.href}`, {
      headers: { authorization: `Bearer ${KEY}`, 'if-none-match': `"${single.sha256}"` },
    });
    expect(known.status).toBe(304);

    const several = await run({ 'model.onnx': Buffer.from('graph'), 'w.bin': bytes });
    const tar = await fetch(`${api.url}${several.href}`, { headers: { authorization: `Bearer ${KEY}` } });
    expect(tar.status).toBe(200);
    const whole = Buffer.from(await tar.arrayBuffer());
    expect([whole.length, createHash('sha256').update(whole).digest('hex')]).toEqual([several.sizeBytes, several.sha256]);
  });
});
