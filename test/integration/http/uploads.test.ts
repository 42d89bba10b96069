import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { classifier, external } from '../../acceptance/support/models.ts';
import { field, graph, int, node, value } from '../../acceptance/support/onnx.ts';
import { type Api, KEY, startApi } from './support/api.ts';
import { floats, integers, npz } from './support/npz.ts';

const MB = 1024 * 1024;
let api: Api;
beforeAll(async () => {
  api = await startApi({
    uploads: { stallMs: 1000, leastBytes: 1024, longestMs: 60_000 },
    maxModelBytes: 600 * MB,
    maxDatasetBytes: 20 * MB,
  });
});
afterAll(() => api?.stop());

const octets = { 'content-type': 'application/octet-stream' };
const upload = (path: string, body: Uint8Array | ReadableStream, headers: Record<string, string> = octets) =>
  api.call('POST', path, { body, headers });

/** Every object's hash, and what is staged. */
async function stored(): Promise<{ objects: string[]; staged: string[] }> {
  const objects: string[] = [];
  for await (const object of api.objects.list()) objects.push(object.sha256);
  return { objects: objects.sort(), staged: await readdir(join(api.dir, 'objects', 'staging')) };
}
/** Every object has a row and every row its object; nothing is staged. */
async function tidy(): Promise<void> {
  const rows = [
    ...(await api.db.client.modelFile.findMany()).map((row) => row.sha256),
    ...(await api.db.client.dataset.findMany({ where: { deletedAt: null } })).map((row) => row.sha256),
  ];
  await expect.poll(stored, { timeout: 5000 }).toEqual({ objects: [...new Set(rows)].sort(), staged: [] });
}
afterEach(tidy);

/** A request by hand: what is sent, when, and whether it ends. Resolves to the answer once the server closes or has answered. */
function byHand(head: string, pieces: (Buffer | number)[], end: 'wait' | 'destroy' | 'fin'): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
      if (text.includes('\r\n\r\n') && text.endsWith('}')) socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(text));
    socket.on('connect', async () => {
      socket.write(`${head}\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\n`);
      for (const piece of pieces) {
        if (typeof piece === 'number') await sleep(piece);
        else if (!socket.destroyed) socket.write(piece);
      }
      if (end === 'destroy') socket.destroy();
      else if (end === 'fin') socket.end();
    });
  });
}

describe('models', () => {
  it('streams a large body in constant memory and hashes it on the way', async () => {
    // One initializer of 300 MB at the end of the file.
    const size = 300 * MB;
    const head = Buffer.concat([int(1, 8), field(8, int(2, 17))]);
    const inner = graph('big', {
      nodes: [node('Add', ['x', 'w'], ['y'])],
      initializers: [],
      inputs: [value('x', [1])],
      outputs: [value('y', [size / 4])],
    });
    const varint = (n: number) => int(0, n).subarray(1);
    // TensorProto: dims, FLOAT, the name w, and raw_data, whose bytes follow.
    const weights = Buffer.concat([int(1, size / 4), int(2, 1), field(8, 'w'), Buffer.from([0x4a]), varint(size)]);
    const initializer = Buffer.concat([Buffer.from([0x2a]), varint(weights.length + size), weights]);
    const outer = Buffer.concat([Buffer.from([0x3a]), varint(inner.length + initializer.length + size), inner, initializer]);
    const chunk = randomBytes(MB);
    const hash = createHash('sha256').update(head).update(outer);
    for (let i = 0; i < size / MB; i++) hash.update(chunk);
    global.gc?.();
    const before = process.memoryUsage().rss;
    let peak = before;
    let sent = -2;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        peak = Math.max(peak, process.memoryUsage().rss);
        if (sent === -2) controller.enqueue(head);
        else if (sent === -1) controller.enqueue(outer);
        else if (sent < size / MB) controller.enqueue(chunk);
        else controller.close();
        sent++;
      },
    });
    const answer = await upload('/v1/models?name=big', body);
    expect(answer.status, answer.text).toBe(201);
    expect(answer.body).toMatchObject({ sha256: hash.digest('hex'), parameters: size / 4 });
    // Client and server are this one process; the file is mapped for its headers, so that its pages may count for a moment.
    expect(peak - before).toBeLessThan(120 * MB);
    expect((await api.call('DELETE', `/v1/models/${answer.body.id}`)).status).toBe(204);
  });

  it('takes external data as further parts, in any order, and knows it again', async () => {
    const { model: main, weights } = external();
    const form = () => {
      const data = new FormData();
      data.append('model', new Blob([new Uint8Array(main)]), 'm.onnx');
      data.append('weights/w.bin', new Blob([new Uint8Array(weights)]), 'w.bin');
      return data;
    };
    const first = await api.call('POST', '/v1/models?name=ext', { body: form() });
    expect(first.status, first.text).toBe(201);
    expect(first.body.files.map((file: { path: string }) => file.path)).toEqual(['model.onnx', 'weights/w.bin']);
    expect(first.body.sizeBytes).toBe(main.length + weights.length);
    const again = await api.call('POST', '/v1/models', { body: form() });
    expect([again.status, again.body.id]).toEqual([200, first.body.id]);
    expect((await api.call('DELETE', `/v1/models/${first.body.id}`)).status).toBe(204);
    expect((await api.call('GET', `/v1/models/${first.body.id}`)).status).toBe(404);
    const anew = await api.call('POST', '/v1/models', { body: form() });
    expect(anew.status).toBe(201);
    expect(anew.body.id).not.toBe(first.body.id);
    await api.call('DELETE', `/v1/models/${anew.body.id}`);
  });

  it('refuses external data that is missing, stray, badly named, or too short', async () => {
    const { model: main, weights } = external();
    const parts = async (...files: [string, Buffer][]) => {
      const data = new FormData();
      for (const [name, bytes] of files) data.append(name, new Blob([new Uint8Array(bytes)]), 'f');
      const answer = await api.call('POST', '/v1/models', { body: data });
      return [answer.status, answer.body.code];
    };
    expect((await upload('/v1/models', main)).body.code).toBe('external-data-missing');
    expect(await parts(['model', main])).toEqual([422, 'external-data-missing']);
    expect(await parts(['model', main], ['weights/other.bin', weights])).toEqual([422, 'validation-failed']);
    expect(await parts(['model', main], ['weights/w.bin', weights], ['weights/w.bin', weights])).toEqual([400, 'malformed-body']);
    expect(await parts(['model', main], ['../w.bin', weights])).toEqual([422, 'external-data-path']);
    expect(await parts(['model', main], ['/etc/w.bin', weights])).toEqual([422, 'external-data-path']);
    expect(await parts(['model', main], ['C:\\w.bin', weights])).toEqual([422, 'external-data-path']);
    expect(await parts(['model', main], ['model.onnx', weights])).toEqual([422, 'external-data-path']);
    expect(await parts(['model', main], ['weights/w.bin', weights.subarray(1)])).toEqual([422, 'external-data-range']);
    expect(await parts(['weights/w.bin', weights], ['model', main])).toEqual([400, 'malformed-body']);
    expect(await parts(['model', external('../w.bin').model])).toEqual([422, 'external-data-path']);
    expect((await api.call('POST', '/v1/models', { body: new FormData() })).status).toBe(400);
    const text = new FormData();
    text.append('model', 'just text');
    expect((await api.call('POST', '/v1/models', { body: text })).body.code).toBe('malformed-body');
  });

  it('refuses what is no model', async () => {
    const good = classifier();
    expect((await upload('/v1/models', Buffer.alloc(0))).status).toBe(422);
    expect((await upload('/v1/models', Buffer.from('hello, I am a text file'))).body.code).toMatch(/not-onnx|model-corrupt/);
    expect((await upload('/v1/models', good.subarray(0, good.length - 100))).body.code).toBe('model-corrupt');
    expect((await upload('/v1/models', npz({ image: floats([1, 2]) }))).body.code).toMatch(/not-onnx|model-corrupt/);
  });

  it('refuses a body over the limit by its length, and by its bytes', async () => {
    const promised = await byHand(
      'POST /v1/models HTTP/1.1',
      [Buffer.from(`Content-Type: application/octet-stream\r\nContent-Length: ${700 * MB}\r\n\r\n`)],
      'wait',
    );
    expect(promised).toMatch(/^HTTP\/1\.1 413/);
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent++;
        if (sent > 30) controller.close();
        else controller.enqueue(new Uint8Array(MB));
      },
    });
    const answer = await upload('/v1/datasets', body);
    expect([answer.status, answer.body.code]).toEqual([413, 'payload-too-large']);
  });

  it('keeps nothing of a body that is cut off', async () => {
    const good = classifier();
    const length = Buffer.from(`Content-Type: application/octet-stream\r\nContent-Length: ${good.length}\r\n\r\n`);
    await byHand('POST /v1/models HTTP/1.1', [length, good.subarray(0, 5000), 100], 'destroy');
    await tidy();
    await byHand('POST /v1/models HTTP/1.1', [length, good.subarray(0, 5000), 100], 'fin');
    await tidy();
    const { model: main } = external();
    const multipart = Buffer.concat([Buffer.from('Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n')]);
    const chunkOf = (bytes: Buffer) => Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
    const part = Buffer.concat([
      Buffer.from('--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\nContent-Type: application/octet-stream\r\n\r\n'),
      main,
    ]);
    await byHand('POST /v1/models HTTP/1.1', [multipart, chunkOf(part), 100], 'destroy');
    await tidy();
    // Chunked encoding that ends as it should around a multipart body that does not.
    const broken = await byHand('POST /v1/models HTTP/1.1', [multipart, chunkOf(part), Buffer.from('0\r\n\r\n')], 'wait');
    expect(broken).toMatch(/^HTTP\/1\.1 400/);
    expect(broken).toMatch(/upload-incomplete/);
    expect(await api.db.client.model.count({ where: { deletedAt: null } })).toBe(0);
  });

  it('cuts a stalled upload, and tells why', async () => {
    const started = Date.now();
    const answer = await byHand(
      'POST /v1/models HTTP/1.1',
      [Buffer.from('Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n'), Buffer.alloc(2000)],
      'wait',
    );
    expect(answer).toMatch(/^HTTP\/1\.1 408/);
    expect(answer).toMatch(/upload-stalled/);
    expect(Date.now() - started).toBeLessThan(6000);
    const drip = await byHand(
      'POST /v1/datasets HTTP/1.1',
      [
        Buffer.from('Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n'),
        ...Array.from({ length: 30 }, (_, i) => (i % 2 ? 200 : Buffer.alloc(10))),
      ],
      'wait',
    );
    expect(drip).toMatch(/^HTTP\/1\.1 408/);
  });

  it('answers a client that is still sending', async () => {
    // 64 MB to a route that refuses at once: without lingering the client sees a reset connection in place of the answer.
    const answer = await api.call('POST', '/v1/models', { body: new Uint8Array(64 * MB), headers: octets, key: 'not-a-key' });
    expect(answer.status).toBe(401);
    // JSON over its limit goes another way: the parser refuses it, and would have the connection closed.
    const json = await api.call('POST', '/v1/jobs', {
      body: new Uint8Array(64 * MB),
      headers: { 'content-type': 'application/json' },
    });
    expect(json.status).toBe(413);
  });

  it('a model of a running job cannot be deleted, and the same upload races with itself', async () => {
    const bytes = classifier({ seed: 9 });
    const answers = await Promise.all([1, 2, 3, 4].map(() => upload('/v1/models', bytes)));
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 200, 200, 201]);
    expect(new Set(answers.map((answer) => answer.body.id)).size).toBe(1);
    const id = answers[0]!.body.id;
    await api.db.client.job.create({ data: { id: 'job_test', modelId: id, recipes: [], maxAccuracyDrop: 0, deviceProfiles: [] } });
    const used = await api.call('DELETE', `/v1/models/${id}`);
    expect([used.status, used.body.code]).toEqual([409, 'in-use']);
    expect((await api.call('GET', `/v1/models/${id}`)).status).toBe(200);
    await api.db.client.job.delete({ where: { id: 'job_test' } });
    expect((await api.call('DELETE', `/v1/models/${id}`)).status).toBe(204);
  });

  it('uploads and deletions of the same bytes at once leave rows and objects in step', async () => {
    const bytes = classifier({ seed: 10 });
    for (let round = 0; round < 5; round++) {
      const [first] = await Promise.all([upload('/v1/models', bytes), upload('/v1/models', bytes)]);
      await Promise.all([api.call('DELETE', `/v1/models/${first.body.id}`), upload('/v1/models', bytes)]);
      await tidy();
    }
    for (const { id } of (await api.call('GET', '/v1/models')).body.items) await api.call('DELETE', `/v1/models/${id}`);
  });

  it('honours Idempotency-Key', async () => {
    const bytes = classifier({ seed: 11 });
    const headers = { ...octets, 'idempotency-key': 'upload-1' };
    const first = await upload('/v1/models?name=a', bytes, headers);
    expect(first.status).toBe(201);
    const again = await upload('/v1/models?name=a', bytes, headers);
    expect([again.status, again.headers.get('idempotency-replayed'), again.body]).toEqual([201, 'true', first.body]);
    const other = await upload('/v1/models?name=a', classifier({ seed: 12 }), headers);
    expect([other.status, other.body.code]).toEqual([422, 'idempotency-key-reused']);
    await api.call('DELETE', `/v1/models/${first.body.id}`);
  });
});

describe('data sets', () => {
  it('refuses what is no data set', async () => {
    const refused = async (bytes: Buffer) => (await upload('/v1/datasets', bytes)).body.code;
    expect(await refused(Buffer.from('not a zip'))).toBe('not-npz');
    expect(await refused(npz({ x: { dtype: '|O', shape: [2], data: Buffer.from('cos\nsystem\n') } }))).toBe('dataset-pickled');
    expect(await refused(npz({ x: floats([0, 3]) }))).toBe('dataset-empty');
    expect(await refused(npz({ x: floats([4, 3]), y: floats([5, 3]) }))).toBe('dataset-shape');
    expect(await refused(npz({ x: floats([4, 3]), labels: integers([5]) }))).toBe('dataset-labels');
    expect(await refused(npz({ x: floats([4, 3]), labels: floats([4]) }))).toBe('dataset-labels');
    const whole = npz({ x: floats([4, 3]) });
    expect(await refused(whole.subarray(0, whole.length - 30))).toMatch(/not-npz|dataset-corrupt/);
  });

  it('knows the same bytes, and deletes them', async () => {
    const bytes = npz({ x: floats([4, 3]), labels: integers([4, 2], (i) => (i % 2 ? -1 : 3)) });
    const first = await upload('/v1/datasets?name=d', bytes);
    expect(first.body).toMatchObject({ name: 'd', samples: 4, labels: 'sequence' });
    expect((await upload('/v1/datasets', bytes)).body.id).toBe(first.body.id);
    expect((await api.call('DELETE', `/v1/datasets/${first.body.id}`)).status).toBe(204);
    expect((await api.call('DELETE', `/v1/datasets/${first.body.id}`)).status).toBe(404);
  });
});
