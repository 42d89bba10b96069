import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Api, KEY, startApi } from './support/api.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api?.stop());

const isProblem = (answer: { status: number; headers: Headers; body: unknown }, status: number, code: string) => {
  expect(answer.body).toMatchObject({ status, code, type: `urn:halftone:problem:${code}`, instance: answer.headers.get('x-request-id') });
  expect(answer.body).toHaveProperty('remedy');
  expect(answer.status).toBe(status);
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
};

/** What a server answers to bytes that no client library would send. */
function raw(bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('close', () => resolve(text));
    socket.on('error', reject);
    setTimeout(() => socket.destroy(), 3000);
  });
}

describe('errors', () => {
  it('unknown paths are 404, with and without a key', async () => {
    isProblem(await api.call('GET', '/v1/nothing'), 404, 'not-found');
    isProblem(await api.call('GET', '/nothing', { key: null }), 404, 'not-found');
    isProblem(await api.call('GET', '/v1/models/mdl_00000000000000000000000000'), 404, 'not-found');
    isProblem(await api.call('GET', '/v1/models/what'), 404, 'not-found');
    isProblem(await api.call('GET', '/v1/models/'), 404, 'not-found');
  });

  it('wrong methods are 405 with Allow', async () => {
    const answer = await api.call('PUT', '/v1/models');
    isProblem(answer, 405, 'method-not-allowed');
    expect(answer.headers.get('allow')).toBe('GET, HEAD, POST');
    isProblem(await api.call('PATCH', '/v1/jobs/job_x'), 405, 'method-not-allowed');
  });

  it('malformed JSON is 400', async () => {
    const deep = `${'['.repeat(1e6)}${']'.repeat(1e6)}`;
    isProblem(await api.call('POST', '/v1/jobs', { body: deep, headers: { 'content-type': 'application/json' } }), 400, 'malformed-body');
    for (const body of ['{"model":', 'nonsense', '{"__proto__": {"a": 1}}']) {
      isProblem(await api.call('POST', '/v1/jobs', { body, headers: { 'content-type': 'application/json' } }), 400, 'malformed-body');
    }
  });

  it('a value that fits no branch of a union is told what it may be, not that it is not null', async () => {
    const answer = await api.call('POST', '/v1/jobs', { json: { model: 'mdl_x', metric: 'f1', calibration: 5 } });
    isProblem(answer, 422, 'validation-failed');
    const told = answer.body.errors.map(({ pointer, detail }: { pointer: string; detail: string }) => `${pointer} ${detail}`);
    expect(told).toEqual([
      '/calibration must be string',
      '/metric must be one of "top1", "top5", "ctc", "cer", "agreement", "sqnr"',
      '/metric must be object',
    ]);
  });

  it('what does not fit the schema is 422 and points at each field', async () => {
    const answer = await api.call('POST', '/v1/jobs', {
      json: { recipe: { method: 'magic', wieghts: 1 }, deviceProfiles: [], maxAccuracyDrop: 'a', 'a/b~c': 1 },
    });
    isProblem(answer, 422, 'validation-failed');
    const pointers = answer.body.errors.map((error: { pointer: string }) => error.pointer);
    expect(pointers).toEqual(
      expect.arrayContaining(['/model', '/recipe/method', '/recipe/wieghts', '/deviceProfiles', '/maxAccuracyDrop', '/a~1b~0c']),
    );
    isProblem(await api.call('POST', '/v1/jobs', { headers: { 'content-type': 'application/json' }, body: '' }), 422, 'validation-failed');
    const query = await api.call('GET', '/v1/models?pageSize=5.5');
    isProblem(query, 422, 'validation-failed');
    expect(query.body.errors[0].pointer).toBe('/query/pageSize');
    for (const bad of ['pageSize=', 'pageSize=0', 'pageSize=201', 'pagesize=3']) {
      isProblem(await api.call('GET', `/v1/models?${bad}`), 422, 'validation-failed');
    }
  });

  it('other content types are 415, larger bodies 413', async () => {
    isProblem(
      await api.call('POST', '/v1/jobs', { body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } }),
      415,
      'unsupported-media-type',
    );
    isProblem(await api.call('POST', '/v1/models', { json: {} }), 415, 'unsupported-media-type');
    const large = JSON.stringify({ model: 'x'.repeat(5 * 1024 * 1024) });
    isProblem(
      await api.call('POST', '/v1/jobs', { body: large, headers: { 'content-type': 'application/json' } }),
      413,
      'payload-too-large',
    );
  });

  it('compressed uploads are 415', async () => {
    const headers = { 'content-type': 'application/octet-stream', 'content-encoding': 'gzip' };
    isProblem(await api.call('POST', '/v1/models', { body: new Uint8Array(10), headers }), 415, 'unsupported-media-type');
  });

  it('what is no HTTP is answered on the socket', async () => {
    const text = await raw('GARBAGE\r\n\r\n');
    expect(text).toMatch(/^HTTP\/1\.1 400/);
    expect(text).toMatch(/application\/problem\+json/);
    expect(JSON.parse(text.split('\r\n\r\n')[1]!)).toMatchObject({ code: 'malformed-body', status: 400 });
    expect(await raw(`GET / HTTP/1.1\r\nX: ${'a'.repeat(40_000)}\r\n\r\n`)).toMatch(/^HTTP\/1\.1 431 Request Header Fields Too Large\r/);
  });

  it('odd URLs do no harm', async () => {
    isProblem(await api.call('GET', '/v1/models/%ff'), 404, 'not-found');
    isProblem(await api.call('GET', `/v1/models/${'a'.repeat(3000)}`), 404, 'not-found');
    isProblem(await api.call('GET', '/v1/artifacts/art_x/content/..%2f..%2fetc%2fpasswd'), 404, 'not-found');
    const text = await raw(`GET /v1/models/a%00b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\nConnection: close\r\n\r\n`);
    expect(text).toMatch(/^HTTP\/1\.1 404/);
    isProblem(await api.call('GET', '/v1/jobs?model=a%00b'), 422, 'validation-failed');
    const body = { model: 'm', recipe: { method: 'static', exclude: { names: ['a\0'] } } };
    const answer = await api.call('POST', '/v1/jobs', { json: body });
    isProblem(answer, 422, 'validation-failed');
    expect(answer.body.errors[0].pointer).toBe('/recipe/exclude/names/0');
  });

  it('a fault of ours says nothing of its cause', async () => {
    await api.db.client.$executeRaw`alter table models rename to models_away`;
    try {
      const answer = await api.call('GET', '/v1/models');
      isProblem(answer, 500, 'internal-error');
      expect(answer.text).not.toMatch(/models_away|prisma|select/i);
    } finally {
      await api.db.client.$executeRaw`alter table models_away rename to models`;
    }
  });
});

describe('service routes', () => {
  it('need no key', async () => {
    expect(await api.call('GET', '/livez', { key: null })).toMatchObject({ status: 200, text: 'ok' });
    const ready = await api.call('GET', '/readyz', { key: null });
    expect(ready.status).toBe(200);
    expect(ready.body.parts.map((part: { name: string; ok: boolean }) => [part.name, part.ok])).toEqual([
      ['database', true],
      ['queue', true],
      ['storage', true],
    ]);
    const metrics = await api.call('GET', '/metrics', { key: null });
    expect(metrics.text).toMatch(/halftone_http_request_duration_seconds_count\{method="GET",route="\/livez",status="200"\} [1-9]/);
    const document = await api.call('GET', '/openapi.json', { key: null });
    expect(document.body.openapi).toBe('3.1.0');
  });

  it('shows a reference whose script and document come from here', async () => {
    const page = await api.call('GET', '/docs/', { key: null });
    expect(page.status).toBe(200);
    const sources = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]!);
    expect(sources.length).toBeGreaterThan(0);
    for (const source of sources) expect(source).not.toMatch(/^(https?:)?\/\//);
    const script = await api.call('GET', '/docs/js/scalar.js', { key: null });
    expect(script.status).toBe(200);
    expect(script.text.length).toBeGreaterThan(1e6);
    expect((await api.call('GET', '/docs', { key: null })).status).toBe(301);
  });

  it('every route of the document says who it is for and what may go wrong', async () => {
    const { body } = await api.call('GET', '/openapi.json', { key: null });
    for (const [path, item] of Object.entries<
      Record<string, { summary?: string; tags?: string[]; security?: unknown[]; responses: object; operationId?: string }>
    >(body.paths)) {
      for (const [method, operation] of Object.entries(item)) {
        const where = `${method} ${path}`;
        expect(operation.summary, where).toBeTruthy();
        expect(operation.tags, where).toHaveLength(1);
        expect(operation.security, where).toBeDefined();
        expect(operation.operationId, where).toBeTruthy();
        if (path.startsWith('/v1/')) {
          expect(operation.security, where).toEqual([{ apiKey: [] }]);
          expect(Object.keys(operation.responses), where).toEqual(expect.arrayContaining(['401', '403', '429', '500']));
        }
      }
    }
  });
});

describe('without a database', () => {
  it('the service says that it cannot do it now, and is unready but alive', async () => {
    const other = await startApi();
    try {
      expect((await other.call('GET', '/v1/models')).status).toBe(200);
      await other.loseDatabase();
      isProblem(await other.call('GET', '/v1/models'), 503, 'service-unavailable');
      const upload = await other.call('POST', '/v1/models', {
        body: new Uint8Array(10),
        headers: { 'content-type': 'application/octet-stream' },
      });
      isProblem(upload, 503, 'service-unavailable');
      const ready = await other.call('GET', '/readyz', { key: null });
      expect([ready.status, ready.body.status]).toEqual([503, 'unready']);
      expect(ready.body.parts.find((part: { name: string }) => part.name === 'storage').ok).toBe(true);
      expect(ready.text).not.toMatch(/postgresql:\/\//);
      expect((await other.call('GET', '/livez', { key: null })).status).toBe(200);
    } finally {
      await other.stop();
    }
  });
});
