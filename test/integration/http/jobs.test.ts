import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import tar from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { workers } from '../../../src/store/db/index.ts';
import { classifier } from '../../acceptance/support/models.ts';
import { field, graph, int, node, model as onnx, tensor, value } from '../../acceptance/support/onnx.ts';
import { type Answer, type Api, KEY, startApi } from './support/api.ts';
import { floats, integers, npz } from './support/npz.ts';
import { begin, fail, lose, succeed, tell } from './support/worker.ts';

let api: Api;
let model = '';
let data = '';
let sequences = '';
beforeAll(async () => {
  api = await startApi();
  const up = async (path: string, body: Buffer) =>
    (await api.call('POST', path, { body, headers: { 'content-type': 'application/octet-stream' } })).body.id as string;
  model = await up('/v1/models?name=net', classifier());
  data = await up('/v1/datasets?name=data', npz({ image: floats([12, 3, 24, 24]), labels: integers([12]) }));
  sequences = await up('/v1/datasets', npz({ image: floats([6, 3, 24, 24]), labels: integers([6, 4]) }));
});
afterAll(() => api?.stop());

const upload = (path: string, body: Buffer) => api.call('POST', path, { body, headers: { 'content-type': 'application/octet-stream' } });
const post = (json: object, headers: Record<string, string> = {}): Promise<Answer> => api.call('POST', '/v1/jobs', { json, headers });
const start = async (more: object = {}): Promise<string> => {
  const answer = await post({ model, recipe: { method: 'static' }, calibration: data, evaluation: data, ...more });
  expect(answer.status, answer.text).toBe(202);
  return answer.body.id;
};

describe('what headers show is refused at POST', () => {
  const cases: [string, () => object, string, string][] = [
    ['no recipe', () => ({ model }), 'validation-failed', '/recipe'],
    [
      'recipe and recipes',
      () => ({ model, recipe: { method: 'dynamic' }, recipes: [{ method: 'dynamic' }] }),
      'validation-failed',
      '/recipes',
    ],
    ['unknown model', () => ({ model: 'mdl_x', recipe: { method: 'dynamic' } }), 'validation-failed', '/model'],
    ['unknown data set', () => ({ model, recipe: { method: 'static' }, calibration: 'dst_x' }), 'validation-failed', '/calibration'],
    [
      'unknown profile',
      () => ({ model, recipe: { method: 'dynamic' }, deviceProfiles: ['host', 'toaster'] }),
      'validation-failed',
      '/deviceProfiles/1',
    ],
    [
      'a profile twice',
      () => ({ model, recipe: { method: 'dynamic' }, deviceProfiles: ['host', 'host'] }),
      'validation-failed',
      '/deviceProfiles/1',
    ],
    ['unknown webhook', () => ({ model, recipe: { method: 'dynamic' }, webhook: 'whe_x' }), 'validation-failed', '/webhook'],
    [
      'static without calibration',
      () => ({ model, recipes: [{ method: 'dynamic' }, { method: 'static' }] }),
      'calibration-missing',
      '/calibration',
    ],
    [
      'block granularity',
      () => ({ model, recipes: [{ method: 'dynamic', weights: { granularity: 'block' } }] }),
      'recipe-unsupported',
      '/recipes/0/weights/granularity',
    ],
    [
      'float16 with weights',
      () => ({ model, recipe: { method: 'float16', weights: { type: 'int8' } } }),
      'recipe-unsupported',
      '/recipe/weights',
    ],
    [
      'dynamic with calibration',
      () => ({ model, recipe: { method: 'dynamic', activations: { calibration: 'mse' } } }),
      'recipe-unsupported',
      '/recipe/activations/calibration',
    ],
    ['metric without data', () => ({ model, recipe: { method: 'dynamic' }, metric: 'top1' }), 'metric-unsuitable', '/metric'],
    ['ctc on classes', () => ({ model, recipe: { method: 'dynamic' }, evaluation: data, metric: 'ctc' }), 'metric-unsuitable', '/metric'],
    [
      'top1 on sequences',
      () => ({ model, recipe: { method: 'dynamic' }, evaluation: sequences, metric: 'top1' }),
      'metric-unsuitable',
      '/metric',
    ],
    [
      'unknown output',
      () => ({ model, recipe: { method: 'dynamic' }, evaluation: data, metric: { name: 'top1', output: 'nose' } }),
      'output-unknown',
      '/metric/output',
    ],
    [
      'blank for classes',
      () => ({ model, recipe: { method: 'dynamic' }, evaluation: data, metric: { name: 'top1', blank: 0 } }),
      'metric-unsuitable',
      '/metric/blank',
    ],
  ];
  it.each(cases)('%s', async (_, body, code, pointer) => {
    const answer = await post(body());
    expect([answer.status, answer.body.code], answer.text).toEqual([422, code]);
    expect(answer.body.errors[0].pointer).toBe(pointer);
    expect(await api.db.client.job.count()).toBe(0);
    expect(await api.db.client.outbox.count()).toBe(0);
  });

  it('data that does not feed the model', async () => {
    const refused = async (arrays: Parameters<typeof npz>[0]) => {
      const { body } = await upload('/v1/datasets', npz(arrays));
      const answer = await post({ model, recipe: { method: 'static' }, calibration: body.id });
      expect(answer.body.errors[0].pointer).toBe('/calibration');
      return answer.body.code;
    };
    expect(await refused({ picture: floats([4, 3, 24, 24]) })).toBe('dataset-array-refused');
    expect(await refused({ image: floats([4, 3, 24, 24]), extra: floats([4, 1]) })).toBe('dataset-array-refused');
    expect(await refused({ image: floats([4, 3, 24]) })).toBe('dataset-shape');
    expect(await refused({ image: floats([4, 1, 24, 24]) })).toBe('dataset-shape');
    expect(await refused({ image: integers([4, 3, 24, 24]) })).toBe('dataset-dtype');
  });

  it('inputs that no .npz can feed and outputs that cannot be compared', async () => {
    const refused = async (inputs: Buffer[], outputs: Buffer[]) => {
      const made = await upload('/v1/models', onnx(graph('odd', { nodes: [node('Relu', ['x'], ['y'])], inputs, outputs })));
      expect(made.status, made.text).toBe(201);
      const answer = await post({ model: made.body.id, recipe: { method: 'dynamic' } });
      await api.call('DELETE', `/v1/models/${made.body.id}`);
      if (answer.status === 202) {
        await api.call('POST', `/v1/jobs/${answer.body.id}/cancel`);
        await api.call('DELETE', `/v1/jobs/${answer.body.id}`);
        return 'taken';
      }
      expect(answer.body.errors[0].pointer).toBe('/model');
      return `${answer.status} ${answer.body.code}`;
    };
    const [float, text] = [1, 8];
    const sequence = (name: string) => Buffer.concat([field(1, name), field(2, field(4, field(1, field(1, int(1, float)))))]);
    const unranked = (name: string) => Buffer.concat([field(1, name), field(2, field(1, int(1, float)))]);
    expect(await refused([value('x', [4], text)], [value('y', [4])])).toBe('422 model-input');
    expect(await refused([sequence('x')], [value('y', [4])])).toBe('422 model-input');
    expect(await refused([unranked('x')], [value('y', [4])])).toBe('422 model-input');
    expect(await refused([value('x', [4])], [sequence('y')])).toBe('422 model-output');
    expect(await refused([value('x', [4])], [value('y', [4], text)])).toBe('422 model-output');
    // A rank or a type that an output leaves to inference is the runtime's to find.
    expect(await refused([value('x', [4])], [unranked('y')])).toBe('taken');
    expect(await refused([value('x', [4])], [field(1, 'y')])).toBe('taken');
    expect(await refused([value('x', [])], [value('y', [])])).toBe('taken');
  });

  it('a device that no living worker stands for', async () => {
    for (const [name, workers] of [
      ['board', ['arm', 'lab']],
      ['phone', ['phone']],
    ] as const)
      await api.call('POST', '/v1/device-profiles', { json: { name, workers } });
    const answerFor = async (...deviceProfiles: string[]) => {
      const { status, body } = await post({ model, recipe: { method: 'dynamic' }, deviceProfiles });
      if (status !== 202) return [status, body.code, body.errors[0].pointer, body.detail];
      const row = await api.db.client.job.findUniqueOrThrow({ where: { id: body.id } });
      await api.call('POST', `/v1/jobs/${body.id}/cancel`);
      await api.call('DELETE', `/v1/jobs/${body.id}`);
      return [status, row.labels];
    };
    const refused = (at: number, text: string) => [422, 'profile-not-measurable', `/deviceProfiles/${at}`, expect.stringContaining(text)];
    // Any worker will do, now or later.
    expect(await answerFor('host')).toEqual([202, '']);
    expect(await answerFor('board')).toEqual(refused(0, "'arm', 'lab'"));
    await workers.seen(api.db.client, 'one', ['arm']);
    expect(await answerFor('board')).toEqual(refused(0, "'arm', 'lab'"));
    await workers.seen(api.db.client, 'two', ['lab', 'rack 7', 'arm']);
    await workers.seen(api.db.client, 'three', ['phone']);
    expect(await answerFor('board')).toEqual([202, 'arm,lab']);
    expect(await answerFor('host', 'board')).toEqual([202, 'arm,lab']);
    // Each has a worker, and no worker has both.
    expect(await answerFor('board', 'phone')).toEqual(refused(1, 'post a job for each'));
    await workers.seen(api.db.client, 'three', ['phone', 'lab', 'arm']);
    expect(await answerFor('board', 'phone')).toEqual([202, 'arm,lab,phone']);
    await api.db.client.$executeRaw`update workers set seen_at = now() - interval '6 minutes'`;
    expect(await answerFor('phone')).toEqual(refused(0, "'phone'"));
    expect(await workers.forgetGone(api.db.client)).toBe(0);
    await api.db.client.$executeRaw`update workers set seen_at = now() - interval '1 hour'`;
    expect(await workers.forgetGone(api.db.client)).toBe(3);
  });

  it('what the target forbids, and only the target', async () => {
    const made = await api.call('POST', '/v1/device-profiles', {
      json: {
        name: 'dsp',
        requireSymmetricActivations: true,
        allowedWeightTypes: ['int8'],
        allowedActivationTypes: ['int8'],
        allowedGranularities: ['tensor'],
        float16: false,
      },
    });
    expect(made.status, made.text).toBe(201);
    const refused = async (recipe: object, deviceProfiles = ['dsp']) => {
      const answer = await post({ model, recipe, calibration: data, deviceProfiles });
      return answer.status === 202 ? 'accepted' : [answer.body.code, answer.body.errors[0].pointer];
    };
    expect(await refused({ method: 'static', weights: { type: 'uint8' } })).toEqual(['profile-forbids', '/recipe/weights/type']);
    expect(await refused({ method: 'static', weights: { granularity: 'channel' } })).toEqual([
      'profile-forbids',
      '/recipe/weights/granularity',
    ]);
    expect(await refused({ method: 'static', activations: { type: 'uint8' } })).toEqual(['profile-forbids', '/recipe/activations/type']);
    expect(await refused({ method: 'static', activations: { symmetric: false } })).toEqual([
      'profile-forbids',
      '/recipe/activations/symmetric',
    ]);
    expect(await refused({ method: 'float16' })).toEqual(['profile-forbids', '/recipe/method']);
    expect(await refused({ method: 'dynamic' })).toEqual(['profile-forbids', '/recipe/method']);
    expect(await refused({ method: 'static', weights: { type: 'uint8' } }, ['host', 'dsp'])).toBe('accepted');
    const used = await api.call('DELETE', '/v1/device-profiles/dsp');
    expect([used.status, used.body.code]).toEqual([409, 'in-use']);
    const { body } = await api.call('GET', '/v1/jobs?status=queued');
    for (const job of body.items) await api.call('POST', `/v1/jobs/${job.id}/cancel`);
    expect((await api.call('DELETE', `/v1/device-profiles/${made.body.id}`)).status).toBe(204);
    const builtIn = await api.call('DELETE', '/v1/device-profiles/host');
    expect([builtIn.status, builtIn.body.code]).toEqual([409, 'conflict']);
    const taken = await api.call('POST', '/v1/device-profiles', { json: { name: 'host' } });
    expect([taken.status, taken.body.code]).toEqual([409, 'conflict']);
  });

  it('a quantized model', async () => {
    const bytes = onnx(
      graph('q', {
        nodes: [node('QuantizeLinear', ['x', 's', 'z'], ['q']), node('DequantizeLinear', ['q', 's', 'z'], ['y'])],
        initializers: [tensor('s', [], Float32Array.of(0.1))],
        inputs: [value('x', [1, 4])],
        outputs: [value('y', [1, 4])],
      }),
      { opset: 13 },
    );
    const uploaded = await upload('/v1/models', bytes);
    // The zero point is missing, so that the graph is not sound: the reader says so before anything else.
    expect([uploaded.status, uploaded.body.code]).toEqual([422, 'graph-invalid']);
    const sound = onnx(
      graph('q', {
        nodes: [node('QuantizeLinear', ['x', 's'], ['q']), node('DequantizeLinear', ['q', 's'], ['y'])],
        initializers: [tensor('s', [], Float32Array.of(0.1))],
        inputs: [value('x', [1, 4])],
        outputs: [value('y', [1, 4])],
      }),
      { opset: 13 },
    );
    const taken = await upload('/v1/models', sound);
    expect([taken.status, taken.body.alreadyQuantized]).toEqual([201, true]);
    const answer = await post({ model: taken.body.id, recipe: { method: 'dynamic' } });
    expect([answer.status, answer.body.code]).toEqual([422, 'already-quantized']);
    expect(answer.body.detail).toMatch(/1 QuantizeLinear/);
  });

  it('what was deleted', async () => {
    const gone = (await upload('/v1/models', classifier({ seed: 5 }))).body.id;
    const goneData = (await upload('/v1/datasets', npz({ image: floats([3, 3, 24, 24]) }))).body.id;
    await api.call('DELETE', `/v1/models/${gone}`);
    await api.call('DELETE', `/v1/datasets/${goneData}`);
    expect((await post({ model: gone, recipe: { method: 'dynamic' } })).body.code).toBe('model-deleted');
    expect((await post({ model, recipe: { method: 'static' }, calibration: goneData })).body.code).toBe('dataset-deleted');
  });
});

describe('a job’s life', () => {
  it('is followed, with what came before and what comes', async () => {
    const id = await start();
    const stream = await fetch(`${api.url}/v1/jobs/${id}/events`, { headers: { authorization: `Bearer ${KEY}` } });
    expect(stream.headers.get('content-type')).toMatch(/^text\/event-stream/);
    const text = stream.text();
    await begin(api, id);
    const running = await api.call('GET', `/v1/jobs/${id}`);
    expect(running.body).toMatchObject({ status: 'running', stage: 'read', progress: 0.1, etaSeconds: 5, stages: [{ name: 'read' }] });
    expect((await api.call('DELETE', `/v1/jobs/${id}`)).body.code).toBe('in-use');
    expect((await api.call('DELETE', `/v1/models/${model}`)).body.code).toBe('in-use');
    expect((await api.call('DELETE', `/v1/datasets/${data}`)).body.code).toBe('in-use');
    const report = await api.call('GET', `/v1/jobs/${id}/report`);
    expect([report.status, report.body.code]).toEqual([409, 'conflict']);
    const waiting = api.call('GET', `/v1/jobs/${id}`, { headers: { prefer: 'respond-async, wait=30' } });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const before = Date.now();
    await succeed(api, id, { 'model.onnx': Buffer.from('bytes of a model') });
    const ended = await waiting;
    expect(Date.now() - before).toBeLessThan(2000);
    expect(ended.headers.get('preference-applied')).toBe('wait=30');
    expect(ended.body).toMatchObject({ status: 'succeeded', progress: 1, error: null, baseline: { recipe: null, artifact: null } });
    expect(ended.body.best).toBe(ended.body.variants[0].id);
    expect(ended.body.variants[0].artifact.href).toBe(`/v1/artifacts/${ended.body.variants[0].artifact.id}/content`);

    const events = (await text).split('\n\n').filter((frame) => frame.startsWith('id: '));
    expect(events.map((frame) => /event: (.*)/.exec(frame)![1])).toEqual(['queued', 'started', 'progress', 'succeeded']);
    expect(events.map((frame) => /^id: (\d+)/.exec(frame)![1])).toEqual(['1', '2', '3', '4']);
    expect(JSON.parse(/data: (.*)/.exec(events[2]!)![1]!)).toMatchObject({ job: id, stage: 'read', progress: 0.1 });

    const resumed = await api.call('GET', `/v1/jobs/${id}/events`, { headers: { 'last-event-id': '2' } });
    expect([...resumed.text.matchAll(/^id: (\d+)/gm)].map((match) => match[1])).toEqual(['3', '4']);
    expect((await api.call('GET', `/v1/jobs/${id}/events`, { headers: { 'last-event-id': '4' } })).status).toBe(204);
    expect((await api.call('GET', '/v1/jobs/job_none/events')).status).toBe(404);
  });

  it('shows each variant as soon as it is told of, under the id that it keeps; nothing of a run that was lost', async () => {
    const recipes = [{ method: 'static' as const }, { method: 'dynamic' as const }];
    const id = await start({ recipe: undefined, recipes });
    const shown = async () => (await api.call('GET', `/v1/jobs/${id}`)).body.variants as { id: string; index: number; artifact: unknown }[];
    await begin(api, id);
    expect(await shown()).toEqual([]);
    await tell(api, id, 0);
    expect(await shown()).toMatchObject([
      { index: 0, recipe: recipes[0], artifact: null, error: null, benchmarks: [{ deviceProfile: 'host' }] },
    ]);
    expect((await api.call('GET', '/v1/benchmarks?pageSize=200')).body.items.some((row: { job: string }) => row.job === id)).toBe(false);
    await lose(api, id);
    expect(await shown()).toEqual([]);
    await begin(api, id);
    expect(await shown()).toEqual([]);
    const second = await tell(api, id, 1, { error: { code: 'gate-load', detail: 'node a' }, evaluation: null, benchmarks: [] });
    // What speaks of no recipe of the job's, or is nonsense, is passed over.
    for (const index of [2, -1, 0.5, 'length', null]) await tell(api, id, index);
    const first = await tell(api, id, 0);
    expect((await shown()).map((variant) => [variant.index, variant.id])).toEqual([
      [0, first],
      [1, second],
    ]);
    const listed = (await api.call('GET', '/v1/jobs?status=running')).body.items.find((job: { id: string }) => job.id === id);
    expect(listed.variants).toEqual(await shown());
    await succeed(api, id, { 'model.onnx': Buffer.from('told of before') }, recipes);
    const ended = await api.call('GET', `/v1/jobs/${id}`);
    expect(ended.body.variants.map((variant: { id: string }) => variant.id)).toEqual([first, second]);
    expect(ended.body.best).toBe(first);
    expect(ended.body.variants[0].artifact.href).toContain('/v1/artifacts/art_');
  });

  it('that failed says why each recipe did', async () => {
    const id = await start({ recipe: undefined, recipes: [{ method: 'static' }, { method: 'dynamic' }] });
    await begin(api, id);
    await tell(api, id, 0);
    await tell(api, id, 1, { error: { code: 'gate-load', detail: 'node a' }, evaluation: null, benchmarks: [], kernels: null });
    await fail(api, id);
    const { variants } = (await api.call('GET', `/v1/jobs/${id}`)).body;
    expect(variants).toMatchObject([{ index: 1, recipe: { method: 'dynamic' }, artifact: null, error: { code: 'gate-load' } }]);
    const page = await api.call('GET', `/v1/jobs/${id}/report`, { headers: { accept: 'text/html' } });
    expect(page.text).toContain('Variant 1: dynamic');
  });

  it('a wait ends at its time, of the request that made the job too', async () => {
    const held = Date.now();
    const made = await post({ model, recipe: { method: 'dynamic' } }, { prefer: 'wait=1' });
    expect([made.status, made.body.status, made.headers.get('preference-applied')]).toEqual([202, 'queued', 'wait=1']);
    expect(Date.now() - held).toBeGreaterThan(900);
    await api.call('POST', `/v1/jobs/${made.body.id}/cancel`);
    const id = await start();
    const before = Date.now();
    const answer = await api.call('GET', `/v1/jobs/${id}`, { headers: { prefer: 'wait=1' } });
    expect(answer.body.status).toBe('queued');
    expect(answer.headers.get('retry-after')).toBe('2');
    expect(Date.now() - before).toBeGreaterThan(900);
    await api.call('POST', `/v1/jobs/${id}/cancel`);
  });

  it('is canceled at once while it waits, and asked to stop while it runs', async () => {
    const waiting = await start();
    const canceled = await api.call('POST', `/v1/jobs/${waiting}/cancel`);
    expect([canceled.status, canceled.body.status]).toEqual([200, 'canceled']);
    expect(
      (await api.call('POST', `/v1/jobs/${waiting}/cancel`, { headers: { 'content-type': 'application/json' }, body: '' })).status,
    ).toBe(200);
    const running = await start();
    await begin(api, running);
    const asked = await api.call('POST', `/v1/jobs/${running}/cancel`);
    expect([asked.status, asked.body.status]).toEqual([202, 'running']);
    await fail(api, running);
    const late = await api.call('POST', `/v1/jobs/${running}/cancel`);
    expect([late.status, late.body.code]).toEqual([409, 'conflict']);
  });

  it('fails with a code, what happened and what to do', async () => {
    const id = await start();
    await begin(api, id);
    await fail(api, id);
    const { body } = await api.call('GET', `/v1/jobs/${id}`);
    expect(body).toMatchObject({ status: 'failed', error: { code: 'dataset-not-finite', detail: 'sample 3 of image holds NaN' } });
    expect(body.error.remedy).toBeTruthy();
    expect((await api.call('GET', `/v1/jobs/${id}/report`, { headers: { accept: 'text/html' } })).text).toContain('dataset-not-finite');
  });

  it('is reported as JSON or HTML, by Accept', async () => {
    const id = await start();
    await begin(api, id);
    await succeed(api, id, { 'model.onnx': Buffer.from('another') });
    const report = (accept?: string) => api.call('GET', `/v1/jobs/${id}/report`, accept ? { headers: { accept } } : {});
    expect((await report()).body).toMatchObject({ id, context: { model: { name: 'net' }, calibration: { name: 'data', samples: 12 } } });
    const page = await report('text/html,application/xhtml+xml;q=0.9,*/*;q=0.8');
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page.headers.get('content-security-policy')).toMatch(/default-src 'none'/);
    expect(page.text).toMatch(/^<!doctype html>/);
    expect((await report('application/json;q=0.5, text/html;q=0.4')).headers.get('content-type')).toMatch(/json/);
    expect((await report('image/png')).status).toBe(406);
  });

  it('ends streams and waits when the server closes', async () => {
    const other = await startApi();
    const up = (path: string, body: Buffer) => other.call('POST', path, { body, headers: { 'content-type': 'application/octet-stream' } });
    const { body: net } = await up('/v1/models', classifier());
    const { body: job } = await other.call('POST', '/v1/jobs', { json: { model: net.id, recipe: { method: 'dynamic' } } });
    const stream = await fetch(`${other.url}/v1/jobs/${job.id}/events`, { headers: { authorization: `Bearer ${KEY}` } });
    const reading = stream.text();
    const waiting = other.call('GET', `/v1/jobs/${job.id}`, { headers: { prefer: 'wait=50' } });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = Date.now();
    await other.stop();
    expect(Date.now() - before).toBeLessThan(6000);
    expect(await reading).toContain('event: queued');
    expect((await waiting).body.status).toBe('queued');
  });
});

describe('artifacts', () => {
  const bytes = Buffer.from(Array.from({ length: 5000 }, (_, i) => i & 255));
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  let job = '';
  let artifact = '';
  beforeAll(async () => {
    job = await start();
    await begin(api, job);
    await succeed(api, job, { 'model.onnx': bytes });
    artifact = (await api.call('GET', `/v1/jobs/${job}`)).body.variants[0].artifact.id;
  });
  const get = async (headers: Record<string, string> = {}, path = '', method = 'GET') => {
    const response = await fetch(`${api.url}/v1/artifacts/${artifact}/content${path}`, {
      method,
      headers: { authorization: `Bearer ${KEY}`, ...headers },
    });
    return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) };
  };

  it('has a manifest and its files', async () => {
    const { body } = await api.call('GET', `/v1/artifacts/${artifact}`);
    expect(body).toMatchObject({ job, model, sha256, sizeBytes: 5000, files: [{ path: 'model.onnx', sha256 }], manifest: { seed: 0 } });
  });

  it('is sent whole, with a strong tag', async () => {
    const answer = await get();
    expect(answer.status).toBe(200);
    expect(answer.bytes.equals(bytes)).toBe(true);
    expect(answer.headers.get('etag')).toBe(`"${sha256}"`);
    expect(answer.headers.get('content-length')).toBe('5000');
    expect(answer.headers.get('accept-ranges')).toBe('bytes');
    expect(answer.headers.get('content-encoding')).toBeNull();
    const head = await get({}, '', 'HEAD');
    expect([head.status, head.headers.get('content-length'), head.bytes.length]).toEqual([200, '5000', 0]);
    expect((await get({}, '/model.onnx')).bytes.equals(bytes)).toBe(true);
    expect((await get({}, '/other')).status).toBe(404);
  });

  it('is sent in ranges', async () => {
    const range = async (headers: Record<string, string>) => {
      const answer = await get(headers);
      return [answer.status, answer.headers.get('content-range'), answer.bytes.length];
    };
    expect(await range({ range: 'bytes=0-99' })).toEqual([206, 'bytes 0-99/5000', 100]);
    expect(await range({ range: 'bytes=4990-' })).toEqual([206, 'bytes 4990-4999/5000', 10]);
    expect(await range({ range: 'bytes=-5' })).toEqual([206, 'bytes 4995-4999/5000', 5]);
    expect(await range({ range: 'bytes=0-0' })).toEqual([206, 'bytes 0-0/5000', 1]);
    expect(await range({ range: 'bytes=4999-99999' })).toEqual([206, 'bytes 4999-4999/5000', 1]);
    expect(await range({ range: 'bytes=0-99,200-299' })).toEqual([200, null, 5000]);
    expect(await range({ range: 'bytes=5000-' })).toEqual([416, 'bytes */5000', expect.any(Number)]);
    expect(await range({ range: 'bytes=0-99', 'if-range': `"${sha256}"` })).toEqual([206, 'bytes 0-99/5000', 100]);
    expect(await range({ range: 'bytes=0-99', 'if-range': '"other"' })).toEqual([200, null, 5000]);
    expect((await get({ range: 'bytes=100-199' })).bytes.equals(bytes.subarray(100, 200))).toBe(true);
    expect(await range({ 'if-none-match': `W/"x", "${sha256}"` })).toEqual([304, null, 0]);
    expect((await get({ 'if-match': '"other"' })).status).toBe(412);
  });

  it('is one .tar where there is external data, in any range, and its parts by name', async () => {
    const parts = {
      'model.onnx': Buffer.from('the graph'),
      'weights/w.bin': Buffer.alloc(3000, 7),
      [`${'deep/'.repeat(30)}ä.bin`]: Buffer.from('x'),
    };
    const id = await start();
    await begin(api, id);
    await succeed(api, id, parts);
    const ref = (await api.call('GET', `/v1/jobs/${id}`)).body.variants[0].artifact;
    artifact = ref.id;
    const whole = await get();
    expect(whole.headers.get('content-type')).toBe('application/x-tar');
    expect([whole.bytes.length, createHash('sha256').update(whole.bytes).digest('hex')]).toEqual([ref.sizeBytes, ref.sha256]);
    const found: Record<string, Buffer> = {};
    const extract = tar.extract();
    extract.on('entry', async (header, stream, next) => {
      const chunks: Buffer[] = [];
      for await (const chunk of stream) chunks.push(chunk as Buffer);
      found[header.name] = Buffer.concat(chunks);
      next();
    });
    await new Promise((resolve, reject) => {
      extract.on('finish', () => resolve(null)).on('error', reject);
      Readable.from([whole.bytes]).pipe(extract);
    });
    expect(found).toEqual(parts);
    for (const [start, end] of [
      [0, 511],
      [500, 1600],
      [1024, 4000],
      [whole.bytes.length - 1025, whole.bytes.length - 1],
    ] as const) {
      const piece = await get({ range: `bytes=${start}-${end}` });
      expect(piece.status).toBe(206);
      expect(piece.bytes.equals(whole.bytes.subarray(start, end + 1))).toBe(true);
    }
    const { body } = await api.call('GET', `/v1/artifacts/${artifact}`);
    for (const file of body.files) {
      const response = await fetch(`${api.url}${file.href}`, { headers: { authorization: `Bearer ${KEY}` } });
      expect(Buffer.from(await response.arrayBuffer()).equals(parts[file.path as keyof typeof parts]!)).toBe(true);
      expect(response.headers.get('etag')).toBe(`"${file.sha256}"`);
    }
  });

  it('goes with its bytes, and so does the job', async () => {
    const id = await start();
    await begin(api, id);
    await succeed(api, id, { 'model.onnx': Buffer.from('to be deleted') });
    const hash = createHash('sha256').update('to be deleted').digest('hex');
    const own = (await api.call('GET', `/v1/jobs/${id}`)).body.variants[0].artifact.id;
    expect(await api.objects.stat(hash)).not.toBeNull();
    expect((await api.call('DELETE', `/v1/artifacts/${own}`)).status).toBe(204);
    expect(await api.objects.stat(hash)).toBeNull();
    expect((await api.call('GET', `/v1/artifacts/${own}/content`)).status).toBe(404);
    const after = (await api.call('GET', `/v1/jobs/${id}`)).body;
    expect(after.variants[0]).toMatchObject({ artifact: null, evaluation: { metric: 'top1' } });
    expect((await api.call('DELETE', `/v1/jobs/${id}`)).status).toBe(204);
    expect((await api.call('GET', `/v1/jobs/${id}`)).status).toBe(404);
    expect(await api.db.client.variant.count({ where: { jobId: id } })).toBe(0);
    expect(await api.db.client.jobEvent.count({ where: { jobId: id } })).toBe(0);
    expect(await readdir(join(api.dir, 'objects', 'staging'))).toEqual([]);
  });

  it('lists what was measured', async () => {
    const all = await api.call('GET', `/v1/benchmarks?deviceProfile=host&model=${model}`);
    expect(all.body.items.length).toBeGreaterThan(1);
    expect(all.body.items[0]).toMatchObject({ deviceProfile: 'host', model, speedup: { value: expect.any(Number) } });
    expect((await api.call('GET', '/v1/benchmarks?deviceProfile=toaster')).status).toBe(404);
    const first = await api.call('GET', '/v1/benchmarks?pageSize=1');
    const second = await api.call('GET', `/v1/benchmarks?pageSize=1&pageToken=${first.body.nextPageToken}`);
    expect(second.body.items[0]).not.toEqual(first.body.items[0]);
  });
});

describe('lists', () => {
  it('come in pages that neither miss nor repeat', async () => {
    const before = (await api.call('GET', '/v1/jobs?pageSize=200')).body.items.map((job: { id: string }) => job.id);
    const seen: string[] = [];
    let token: string | null = null;
    let pages = 0;
    do {
      const answer: Answer = await api.call('GET', `/v1/jobs?pageSize=3${token ? `&pageToken=${token}` : ''}`);
      expect(answer.body.items.length).toBeLessThanOrEqual(3);
      seen.push(...answer.body.items.map((job: { id: string }) => job.id));
      token = answer.body.nextPageToken;
      // What is added meanwhile comes before the first page.
      if (pages++ === 1) await start();
    } while (token !== null);
    expect(seen).toEqual(before);
    expect([...seen].sort().reverse()).toEqual(seen);
  });

  it('refuse tokens that are not theirs', async () => {
    const { nextPageToken } = (await api.call('GET', '/v1/jobs?pageSize=1')).body;
    for (const path of [
      `/v1/models?pageToken=${nextPageToken}`,
      `/v1/jobs?status=queued&pageToken=${nextPageToken}`,
      '/v1/jobs?pageToken=abc',
    ]) {
      const answer = await api.call('GET', path);
      expect([answer.status, answer.body.code]).toEqual([422, 'page-token-invalid']);
    }
    expect((await api.call('GET', '/v1/jobs?status=sleeping')).status).toBe(422);
    const filtered = await api.call('GET', `/v1/jobs?status=failed&model=${model}`);
    expect(new Set(filtered.body.items.map((job: { status: string }) => job.status))).toEqual(new Set(['failed']));
  });
});

describe('Idempotency-Key', () => {
  const body = () => ({ model, recipe: { method: 'static' }, calibration: data, seed: 77 });
  const count = () => api.db.client.job.count({ where: { seed: 77 } });

  it('makes one job of many requests, however they race', async () => {
    const answers = await Promise.all(Array.from({ length: 12 }, () => post(body(), { 'idempotency-key': 'race' })));
    const made = answers.filter((answer) => answer.status === 202);
    for (const answer of answers)
      if (answer.status !== 202) expect([answer.status, answer.body.code]).toEqual([409, 'idempotency-key-in-flight']);
    expect(made.length).toBeGreaterThan(0);
    expect(new Set(made.map((answer) => answer.body.id)).size).toBe(1);
    expect(await count()).toBe(1);
    const again = await post(body(), { 'idempotency-key': '"race"' });
    expect([again.status, again.body, again.headers.get('location')]).toEqual([202, made[0]!.body, `/v1/jobs/${made[0]!.body.id}`]);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const reordered = await post({ seed: 77, calibration: data, recipe: { method: 'static' }, model }, { 'idempotency-key': 'race' });
    expect(reordered.headers.get('idempotency-replayed')).toBe('true');
    expect(await count()).toBe(1);
  });

  it('is refused for another payload, and another owner’s is another', async () => {
    const other = await post({ ...body(), seed: 78 }, { 'idempotency-key': 'race' });
    expect([other.status, other.body.code]).toEqual([422, 'idempotency-key-reused']);
    const { secret } = (await api.call('POST', '/v1/api-keys', { json: { name: 'o', scopes: ['write'] } })).body;
    const theirs = await api.call('POST', '/v1/jobs', { json: body(), headers: { 'idempotency-key': 'race' }, key: secret });
    expect([theirs.status, theirs.headers.get('idempotency-replayed')]).toEqual([202, null]);
  });

  it('is free again after a request that failed', async () => {
    const wrong = await post({ ...body(), model: 'mdl_none' }, { 'idempotency-key': 'retry' });
    expect(wrong.status).toBe(422);
    expect((await post(body(), { 'idempotency-key': 'retry' })).status).toBe(202);
    expect((await post(body(), { 'idempotency-key': '' })).status).toBe(422);
  });

  it('never keeps a secret', async () => {
    const headers = { 'idempotency-key': 'secret' };
    const first = await api.call('POST', '/v1/api-keys', { json: { name: 's', scopes: ['read'] }, headers });
    const again = await api.call('POST', '/v1/api-keys', { json: { name: 's', scopes: ['read'] }, headers });
    expect([again.status, again.body.id, again.body.secret]).toEqual([201, first.body.id, null]);
    expect(JSON.stringify(await api.db.client.idempotencyKey.findMany())).not.toContain(first.body.secret);
  });
});
