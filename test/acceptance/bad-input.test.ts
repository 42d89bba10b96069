/**
 * What a user can send that cannot work: each is answered with its code of the error catalogue, as problem+json or in the
 * failed job, and leaves no row and no object behind.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Job } from '../../demo/client.ts';
import { npy, npyFile, npz, zip } from '../../demo/npz.ts';
import { all, eventually, type Harness, start } from './support/harness.ts';
import { CLASSES, classifier, external, IMAGE, images, random, single, uniform } from './support/models.ts';
import { field, graph, int, model, node, tensor, value } from './support/onnx.ts';

const MAX_MODEL_BYTES = 3_000_000;
const SIZE = IMAGE[0] * IMAGE[1] * IMAGE[2];
let harness: Harness;

interface Problem {
  status: number;
  code: string;
  title: string;
  detail: string;
  remedy: string;
  instance: string;
  errors: { pointer: string }[];
}

/** Sends and expects a refusal in full problem+json. */
async function problem(method: string, path: string, init: RequestInit & { duplex?: 'half' } = {}): Promise<Problem> {
  const response = await harness.client.fetch(method, path, init);
  const body = (await response.json()) as Problem;
  expect(response.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(body.status).toBe(response.status);
  for (const part of [body.title, body.detail, body.remedy, body.instance]) expect(typeof part === 'string' && part.length > 0).toBe(true);
  return body;
}
const octets = { 'content-type': 'application/octet-stream' };
const upload = (kind: 'models' | 'datasets', body: Buffer): Promise<Problem> =>
  problem('POST', `/v1/${kind}?name=bad`, { body, headers: octets });
const postJob = (body: unknown): Promise<Problem> =>
  problem('POST', '/v1/jobs', { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } });

/** Models and data sets that a test uploads on its way; removed after it. */
const made: string[] = [];
async function good(kind: 'models' | 'datasets', content: Buffer): Promise<string> {
  const { id } = await harness.client.upload<{ id: string }>(`/v1/${kind}?name=good`, content);
  if (!made.includes(`${kind}/${id}`)) made.push(`${kind}/${id}`);
  return id;
}

/**
 * Posts a job that cannot work and gives the code that says so: at once where a header tells, else in the failed job or in
 * the variant. The job is removed.
 */
async function failure(request: Record<string, unknown>): Promise<string> {
  const response = await harness.client.fetch('POST', '/v1/jobs', {
    body: JSON.stringify(request),
    headers: { 'content-type': 'application/json' },
  });
  const answer = (await response.json()) as { id: string; code: string; detail?: string };
  if (response.status === 422) return answer.code;
  expect([response.status, answer.detail]).toEqual([202, undefined]);
  const job = await harness.client.follow(answer.id);
  await harness.client.json('DELETE', `/v1/jobs/${answer.id}`);
  if (job.status === 'failed') return job.error!.code;
  return job.variants[0]?.error?.code ?? `the job ${job.status}`;
}

const dataset = (count: number, change: (data: Float32Array) => void = () => {}): Buffer => {
  const data = images(3, count).images;
  change(data);
  return npz({ image: { data, shape: [count, ...IMAGE] } });
};

beforeAll(async () => {
  harness = await start({ MAX_MODEL_BYTES: String(MAX_MODEL_BYTES), MAX_DATASET_BYTES: '20000000', UPLOAD_STALL_SECONDS: '2' });
}, 180_000);
afterEach(async () => {
  for (const path of made.splice(0)) await (await harness.client.fetch('DELETE', `/v1/${path}`)).arrayBuffer();
  for (const path of ['models', 'datasets', 'jobs']) expect([path, await all(harness.client, `/v1/${path}`)]).toEqual([path, []]);
  expect(
    await eventually(
      () => harness.objects(),
      (left) => left.length === 0,
    ),
  ).toEqual([]);
});
afterAll(async () => {
  // Whatever was sent, no request ended as a bug of ours.
  const log = harness?.service.tail(100_000) ?? '';
  await harness?.close();
  expect(log).not.toMatch(/internal-error|unhandled|uncaught/i);
});

describe('a model', () => {
  const whole = classifier();
  const cases: [string, () => Buffer, string | string[]][] = [
    ['of text', () => Buffer.from('this is not a model, it is a letter to the editor\n'.repeat(20)), ['not-onnx']],
    ['of nothing', () => Buffer.alloc(0), ['not-onnx', 'malformed-body']],
    ['of zeros', () => Buffer.alloc(4096), ['not-onnx', 'model-corrupt']],
    ['in a zip', () => zip({ 'model.onnx': whole }), ['not-onnx']],
    ['cut in half', () => whole.subarray(0, whole.length >> 1), ['model-corrupt', 'not-onnx']],
    ['short of its last byte', () => whole.subarray(0, whole.length - 1), ['model-corrupt', 'not-onnx']],
    ['without a graph', () => Buffer.concat([int(1, 8), field(8, int(2, 17))]), ['not-onnx', 'graph-invalid', 'model-corrupt']],
    ['whose tensor says to be longer than it is', () => lying([64, 64, 3, 3]), ['model-corrupt', 'graph-invalid']],
    ['whose tensor says to be shorter than it is', () => lying([1]), ['model-corrupt', 'graph-invalid']],
    ['whose tensor says to have 2^60 values', () => lying([2 ** 30, 2 ** 30]), ['model-corrupt', 'model-limit-exceeded', 'graph-invalid']],
    ['whose tensor has a negative dimension', () => lying([-4]), ['model-corrupt', 'graph-invalid']],
    [
      'with a length field of 2^63',
      () => Buffer.concat([Buffer.from([0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), whole]),
      ['model-corrupt', 'not-onnx'],
    ],
    ['of opset 5', () => classifier({ opset: 5 }), ['opset-unsupported']],
    ['of opset 99', () => classifier({ opset: 99 }), ['opset-unsupported']],
    ['with a cycle', cyclic, ['graph-invalid']],
    ['that lacks an initializer', dangling, ['graph-invalid']],
    ['that makes one value twice', twice, ['graph-invalid']],
    ['nested a thousand graphs deep', nested, ['model-limit-exceeded', 'model-corrupt']],
    [
      'of a quarter of a million nodes and some',
      () => small(Array<Buffer>(260_000).fill(Buffer.concat([field(2, ''), field(4, 'Abs')]))),
      ['model-limit-exceeded'],
    ],
    ['without nodes', () => small([]), ['graph-invalid']],
    [
      'with a name that two nodes have',
      () => small([named('n', node('Relu', ['x'], ['h'])), named('n', node('Relu', ['h'], ['y']))]),
      ['graph-invalid'],
    ],
    ['of an IR version to come', () => model(graph('ir', relu), { irVersion: 99 }), ['opset-unsupported']],
    // ONNX Runtime 1.30 dies of these two.
    ['with an output that nobody named', () => small([node('Split', ['x'], ['y', ''])]), ['graph-invalid']],
    ['with an input that nobody named', () => small([node('Sum', ['x', ''], ['y'])]), ['graph-invalid']],
    ['with external data that did not come', () => external().model, ['external-data-missing']],
    ['with external data at an absolute path', () => external('/etc/passwd').model, ['external-data-path']],
    ['with external data that climbs out', () => external('../../../etc/passwd').model, ['external-data-path']],
    ['with external data that climbs out in the middle', () => external('a/../../w.bin').model, ['external-data-path']],
  ];
  it.each(cases)('%s is refused', async (_, make, codes) => {
    const answer = await upload('models', make());
    expect(codes).toContain(answer.code);
    expect(answer.status).toBe(answer.code === 'malformed-body' ? 400 : 422);
  });

  it('whose external data is shorter than it says is refused', async () => {
    const { model: body, weights } = external('w.bin');
    for (const [name, content, codes] of [
      ['w.bin', weights.subarray(0, 100), ['external-data-range']],
      // One file that nobody asked for, one that is missing: either may be named.
      ['other.bin', weights, ['external-data-missing', 'validation-failed']],
    ] as const) {
      const form = new FormData();
      form.append('model', new Blob([body]), 'model.onnx');
      form.append(name, new Blob([content]), name);
      expect(codes).toContain((await problem('POST', '/v1/models?name=bad', { body: form })).code);
    }
  });

  it('whose files name a place outside their folder is refused', async () => {
    const form = new FormData();
    form.append('model', new Blob([external('../w.bin').model]), 'model.onnx');
    form.append('../w.bin', new Blob([external().weights]), 'w.bin');
    expect(['external-data-path', 'validation-failed']).toContain((await problem('POST', '/v1/models?name=bad', { body: form })).code);
  });

  it('with bytes flipped is refused or taken, and never a fault of ours', async () => {
    const next = uniform(99);
    for (let round = 0; round < 60; round++) {
      const bytes = Buffer.from(whole);
      for (let i = 0; i < 1 + (round % 5); i++)
        bytes[Math.floor(((next() + 1) / 2) * (round % 2 === 0 ? 400 : bytes.length))] = Math.floor(((next() + 1) / 2) * 256);
      const response = await harness.client.fetch('POST', '/v1/models?name=mutant', { body: bytes, headers: octets });
      const answer = (await response.json()) as { id?: string; code?: string };
      if (answer.id !== undefined) made.push(`models/${answer.id}`);
      else
        expect([422, answer.code]).toEqual([
          response.status,
          expect.stringMatching(/^(not-onnx|model-|graph-|opset-|external-|operator-)/),
        ]);
    }
  });

  it('with an operator that the runtime does not know is refused, or fails its job, by name', async () => {
    for (const bytes of [single('Frobnicate'), single('Frobnicate', {}, { domain: 'com.example' })]) {
      const response = await harness.client.fetch('POST', '/v1/models?name=custom', { body: bytes, headers: octets });
      const answer = (await response.json()) as { id: string; code: string; detail: string };
      if (response.status === 422) {
        expect(answer.code).toBe('operator-unsupported');
        expect(answer.detail).toContain('Frobnicate');
        continue;
      }
      made.push(`models/${answer.id}`);
      expect(['operator-unsupported', 'model-does-not-run', 'nothing-to-quantize']).toContain(
        await failure({ model: answer.id, recipe: { method: 'dynamic' } }),
      );
    }
  });

  it('that is quantized already is told so', async () => {
    const body = graph('quantized', {
      nodes: [
        node('QuantizeLinear', ['x', 's', 'z'], ['q']),
        node('DequantizeLinear', ['q', 's', 'z'], ['d']),
        node('DequantizeLinear', ['w', 's'], ['dw']),
        node('MatMul', ['d', 'dw'], ['m']),
        node('QuantizeLinear', ['m', 's', 'z'], ['qm']),
        node('DequantizeLinear', ['qm', 's', 'z'], ['y']),
      ],
      initializers: [
        tensor('s', [], new Float32Array([0.02])),
        Buffer.concat([int(2, 2), field(8, 'z'), field(9, Buffer.from([128]))]),
        Buffer.concat([
          int(1, 4),
          int(1, 4),
          int(2, 3),
          field(8, 'w'),
          field(9, Buffer.from(Int8Array.from({ length: 16 }, (_, i) => i - 8).buffer)),
        ]),
      ],
      inputs: [value('x', [2, 4])],
      outputs: [value('y', [2, 4])],
    });
    const id = await good('models', model(body));
    const data = await good('datasets', npz({ x: { data: random(1, 8 * 8), shape: [16, 4] } }));
    expect(await failure({ model: id, recipe: { method: 'static' }, calibration: data })).toBe('already-quantized');
  });

  it('in which nothing can be quantized is told so, or stays the best', async () => {
    const id = await good('models', single('Erf'));
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', { model: id, recipe: { method: 'dynamic' } });
    const job = await harness.client.follow(posted.id);
    await harness.client.json('DELETE', `/v1/jobs/${posted.id}`);
    const code = job.error?.code ?? job.variants[0]!.error?.code;
    expect(code === 'nothing-to-quantize' || (job.best === null && job.bestReason !== null)).toBe(true);
  });

  it('over the limit is refused by its header, and by its bytes', async () => {
    const body = Buffer.alloc(MAX_MODEL_BYTES + 1, 8);
    expect(await upload('models', body)).toMatchObject({ status: 413, code: 'payload-too-large' });
    async function* chunks(): AsyncGenerator<Buffer> {
      for (let i = 0; i < 4; i++) yield body.subarray(0, 1_000_000);
    }
    const response = await harness.client
      .fetch('POST', '/v1/models?name=bad', { body: chunks() as unknown as RequestInit['body'], headers: octets, duplex: 'half' })
      .catch(() => null);
    // A server may also close the connection while the body still comes.
    if (response !== null) expect([response.status, ((await response.json()) as Problem).code]).toEqual([413, 'payload-too-large']);
  });

  it('cut off half way, or stalled, leaves nothing', async () => {
    const head = `POST /v1/models?name=cut HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${harness.client.key}\r\nContent-Type: application/octet-stream\r\nContent-Length: ${whole.length}\r\n\r\n`;
    const cut = connect(harness.service.port, '127.0.0.1');
    await once(cut, 'connect');
    cut.write(head);
    cut.write(whole.subarray(0, 5000));
    await sleep(300);
    cut.destroy();
    const stalled = connect(harness.service.port, '127.0.0.1');
    await once(stalled, 'connect');
    stalled.write(head);
    stalled.write(whole.subarray(0, 5000));
    let answer = '';
    stalled.on('data', (data) => {
      answer += data;
    });
    await Promise.race([once(stalled, 'close'), sleep(20_000)]);
    stalled.destroy();
    expect(answer).toMatch(/^HTTP\/1\.1 408 /);
    expect(answer).toContain('upload-stalled');
  });
});

describe('a data set', () => {
  const header = (descr: string, shape: string): string => `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  const cases: [string, () => Buffer, string[]][] = [
    ['of text', () => Buffer.from('x,y,label\n1,2,3\n'), ['not-npz']],
    ['of nothing', () => Buffer.alloc(0), ['not-npz', 'malformed-body']],
    ['that is an .npy alone', () => npy({ data: random(1, 8), shape: [8] }), ['not-npz']],
    ['cut in half', () => dataset(4).subarray(0, 10_000), ['not-npz', 'dataset-corrupt']],
    ['without arrays', () => zip({}), ['dataset-empty', 'not-npz']],
    ['with other files in it', () => zip({ 'readme.txt': Buffer.from('hello') }), ['dataset-array-refused', 'dataset-corrupt', 'not-npz']],
    ['of pickled objects', () => zip({ 'image.npy': npyFile(header('|O', '(2,)'), Buffer.from('\x80\x04K\x01.')) }), ['dataset-pickled']],
    [
      'of structured records',
      () => zip({ 'image.npy': npyFile(`{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }`, Buffer.alloc(8)) }),
      ['dataset-dtype', 'dataset-pickled', 'dataset-corrupt'],
    ],
    ['of strings', () => zip({ 'image.npy': npyFile(header('<U3', '(2,)'), Buffer.alloc(24)) }), ['dataset-dtype']],
    [
      'with code for a header',
      () => zip({ 'image.npy': npyFile(`__import__('os').system('true')`, Buffer.alloc(8)) }),
      ['dataset-corrupt'],
    ],
    [
      'shorter than its shape',
      () => zip({ 'image.npy': npyFile(header('<f4', '(100, 3, 24, 24)'), Buffer.alloc(400)) }),
      ['dataset-corrupt', 'dataset-shape'],
    ],
    [
      'with a shape of 2^62',
      () => zip({ 'image.npy': npyFile(header('<f4', '(4611686018427387904, 2)'), Buffer.alloc(8)) }),
      ['dataset-corrupt', 'dataset-shape'],
    ],
    ['with zero samples', () => npz({ image: { data: new Float32Array(0), shape: [0, ...IMAGE] } }), ['dataset-empty']],
    [
      'whose arrays differ in samples',
      () => npz({ a: { data: random(1, 8), shape: [8] }, b: { data: random(1, 6), shape: [6] } }),
      ['dataset-shape'],
    ],
    [
      'whose labels are of another length',
      () => npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] }, labels: { data: new BigInt64Array(3), shape: [3] } }),
      ['dataset-labels'],
    ],
    [
      'whose labels are fractions',
      () => npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] }, labels: { data: new Float32Array(4), shape: [4] } }),
      ['dataset-labels', 'dataset-dtype'],
    ],
    ['of labels alone', () => npz({ labels: { data: new BigInt64Array(3), shape: [3] } }), ['dataset-empty', 'dataset-missing-input']],
  ];
  it.each(cases)('%s is refused', async (_, make, codes) => {
    const answer = await upload('datasets', make());
    expect(codes).toContain(answer.code);
    expect(answer.status).toBe(answer.code === 'malformed-body' ? 400 : 422);
  });

  const job = async (content: Buffer, more: Record<string, unknown> = {}): Promise<string> =>
    failure({
      model: await good('models', classifier()),
      recipe: { method: 'static' },
      calibration: await good('datasets', content),
      ...more,
    });
  const mismatches: [string, () => Buffer, string[]][] = [
    [
      'another name',
      () => npz({ picture: { data: images(1, 4).images, shape: [4, ...IMAGE] } }),
      ['dataset-missing-input', 'dataset-array-refused'],
    ],
    [
      'an array too many',
      () => npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] }, extra: { data: random(1, 4), shape: [4] } }),
      ['dataset-array-refused'],
    ],
    ['another shape', () => npz({ image: { data: random(1, 4 * 4 * 24 * 24), shape: [4, 4, 24, 24] } }), ['dataset-shape']],
    ['another rank', () => npz({ image: { data: random(1, 4 * 24), shape: [4, 24] } }), ['dataset-shape']],
    ['another type', () => npz({ image: { data: new Int32Array(4 * SIZE), shape: [4, ...IMAGE] } }), ['dataset-dtype']],
    ['a NaN', () => dataset(8, (data) => data.fill(Number.NaN, SIZE * 5 + 7, SIZE * 5 + 8)), ['dataset-not-finite']],
    ['an Inf', () => dataset(8, (data) => data.fill(Number.POSITIVE_INFINITY, SIZE * 5 + 7, SIZE * 5 + 8)), ['dataset-not-finite']],
  ];
  it.each(mismatches)('with %s does not fit its model, and the job says so', async (_, make, codes) => {
    expect(codes).toContain(await job(make()));
  });

  it('with a label beyond the classes fails the evaluation, by name', async () => {
    const labels = BigInt64Array.from([0n, 1n, 2n, BigInt(CLASSES + 5)]);
    const evaluation = await good(
      'datasets',
      npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] }, labels: { data: labels, shape: [4] } }),
    );
    expect(['dataset-labels', 'metric-unsuitable']).toContain(await job(dataset(8), { evaluation, metric: 'top1' }));
  });
});

describe('a job', () => {
  it('that asks for what cannot be is refused at once', async () => {
    const id = await good('models', classifier());
    const data = await good('datasets', dataset(8));
    const cases: [Record<string, unknown>, number, string][] = [
      [{ model: id, recipe: { method: 'static' } }, 422, 'calibration-missing'],
      [{ model: 'mdl_00000000000000000000000000', recipe: { method: 'dynamic' } }, 422, 'validation-failed|not-found|model-deleted'],
      [
        { model: id, recipe: { method: 'static' }, calibration: 'dst_00000000000000000000000000' },
        422,
        'validation-failed|not-found|dataset-deleted',
      ],
      [
        { model: id, recipe: { method: 'dynamic' }, deviceProfiles: ['toaster'] },
        422,
        'not-found|validation-failed|profile-not-measurable',
      ],
      [{ model: id, recipe: { method: 'dynamic' }, webhook: 'whe_00000000000000000000000000' }, 422, 'not-found|validation-failed'],
      [{ model: id }, 422, 'validation-failed'],
      [{ model: id, recipes: [] }, 422, 'validation-failed'],
      [{ model: id, recipe: { method: 'magic' } }, 422, 'validation-failed'],
      [{ model: id, recipe: { method: 'dynamic', strength: 11 } }, 422, 'validation-failed'],
      [{ model: id, recipe: { method: 'dynamic' }, metric: 'beauty' }, 422, 'validation-failed'],
      [{ model: id, recipe: { method: 'dynamic' }, evaluation: data, metric: 'top1' }, 422, 'metric-unsuitable|dataset-labels'],
      [
        { model: id, recipe: { method: 'dynamic' }, evaluation: data, metric: { name: 'agreement', output: 'nothing' } },
        422,
        'output-unknown',
      ],
      [{ model: id, recipe: { method: 'static', weights: { granularity: 'block' } }, calibration: data }, 422, 'recipe-unsupported'],
    ];
    for (const [request, status, code] of cases) {
      const answer = await postJob(request);
      expect([JSON.stringify(request), answer.code]).toEqual([JSON.stringify(request), expect.stringMatching(new RegExp(`^(${code})$`))]);
      expect([status, 404]).toContain(answer.status);
      if (answer.code === 'validation-failed') expect(answer.errors.length).toBeGreaterThan(0);
    }
  });

  it('on a deleted model or data set is refused', async () => {
    const id = await good('models', classifier());
    const data = await good('datasets', dataset(8));
    await harness.client.json('DELETE', `/v1/datasets/${data}`);
    expect(['dataset-deleted', 'not-found']).toContain(
      (await postJob({ model: id, recipe: { method: 'static' }, calibration: data })).code,
    );
    await harness.client.json('DELETE', `/v1/models/${id}`);
    expect(['model-deleted', 'not-found']).toContain((await postJob({ model: id, recipe: { method: 'dynamic' } })).code);
  });

  it('for a device that no worker stands for is refused, and waits for nobody', async () => {
    const profile = await harness.client.json<{ id: string }>('POST', '/v1/device-profiles', { name: 'far-away', workers: ['moon'] });
    const id = await good('models', classifier());
    const answer = await postJob({ model: id, recipe: { method: 'dynamic' }, deviceProfiles: ['host', 'far-away'] });
    expect([answer.status, answer.code, answer.errors[0]!.pointer]).toEqual([422, 'profile-not-measurable', '/deviceProfiles/1']);
    expect(answer.detail).toContain("'moon'");
    await (await harness.client.fetch('DELETE', `/v1/device-profiles/${profile.id}`)).arrayBuffer();
  });

  it('on a model whose names are markup and break lines runs, and its report shows them as text', async () => {
    const evil = '<script>alert("1")</script>\n\\\u202e';
    const side = 64;
    const parts = {
      nodes: [
        named(`${evil}1`, node('MatMul', [evil, 'w'], ['a'])),
        named(`"><img src=x onerror=alert(2)>`, node('Relu', ['a'], ['b'])),
        named(`${evil}2`, node('MatMul', ['b', 'w'], [`${evil}y`])),
      ],
      initializers: [tensor('w', [side, side], random(5, side * side, 0.2))],
      inputs: [value(evil, ['N', side])],
      outputs: [value(`${evil}y`, ['N', side])],
    };
    const id = await good('models', model(graph(evil, parts)));
    const data = await good('datasets', npz({ [evil]: { data: random(6, 32 * side), shape: [32, side] } }));
    const posted = await harness.client.json<Job>('POST', '/v1/jobs', {
      model: id,
      recipes: [{ method: 'static' }],
      calibration: data,
      deviceProfiles: ['host-1-thread'],
    });
    const job = await harness.client.follow(posted.id);
    expect(job.error).toBeNull();
    const report = await harness.client.fetch('GET', `/v1/jobs/${posted.id}/report`, { headers: { accept: 'text/html' } });
    const page = await report.text();
    await harness.client.json('DELETE', `/v1/jobs/${posted.id}`);
    expect(page).toContain('&lt;script&gt;');
    expect(page).not.toMatch(/<script>alert|<img src=x/);
  });

  it('whose recipe the profile forbids is refused', async () => {
    const profile = await harness.client.json<{ id: string }>('POST', '/v1/device-profiles', {
      name: 'tensor-only',
      threads: 1,
      allowedGranularities: ['tensor'],
      float16: false,
    });
    const id = await good('models', classifier());
    const data = await good('datasets', dataset(8));
    for (const recipe of [{ method: 'float16' }, { method: 'static', weights: { granularity: 'channel' } }]) {
      const answer = await postJob({ model: id, recipe, calibration: data, deviceProfiles: ['tensor-only'] });
      expect([answer.status, answer.code]).toEqual([422, 'profile-forbids']);
    }
    await (await harness.client.fetch('DELETE', `/v1/device-profiles/${profile.id}`)).arrayBuffer();
  });
});

describe('a request', () => {
  it('that is not well formed is told what is wrong', async () => {
    const json = { 'content-type': 'application/json' };
    const cases: [string, string, RequestInit, number, string][] = [
      ['GET', '/v1/nothing', {}, 404, 'not-found'],
      ['GET', '/v1/models/mdl_nothing', {}, 404, 'not-found'],
      ['GET', '/v1/jobs/../../etc/passwd', {}, 404, 'not-found'],
      ['PUT', '/v1/models', { body: '{}', headers: json }, 405, 'method-not-allowed|not-found'],
      ['POST', '/v1/jobs', { body: '{"model":', headers: json }, 400, 'malformed-body'],
      ['POST', '/v1/jobs', { body: '[]', headers: json }, 422, 'validation-failed'],
      ['POST', '/v1/jobs', { body: '<job/>', headers: { 'content-type': 'application/xml' } }, 415, 'unsupported-media-type'],
      ['POST', '/v1/models?name=x', { body: 'hello', headers: { 'content-type': 'text/plain' } }, 415, 'unsupported-media-type'],
      ['GET', '/v1/models?pageToken=abc', {}, 422, 'page-token-invalid'],
      ['GET', '/v1/models?pageSize=0', {}, 422, 'validation-failed'],
      ['GET', '/v1/jobs?status=sleeping', {}, 422, 'validation-failed'],
      [
        'POST',
        '/v1/webhook-endpoints',
        { body: '{"url":"http://169.254.169.254/latest/meta-data"}', headers: json },
        422,
        'webhook-target',
      ],
      ['POST', '/v1/webhook-endpoints', { body: '{"url":"https://127.0.0.1/x"}', headers: json }, 422, 'webhook-target'],
      ['POST', '/v1/webhook-endpoints', { body: '{"url":"not a url"}', headers: json }, 422, 'webhook-target|validation-failed'],
    ];
    for (const [method, path, init, status, code] of cases) {
      const answer = await problem(method, path, init);
      expect([method, path, answer.code]).toEqual([method, path, expect.stringMatching(new RegExp(`^(${code})$`))]);
      expect([status, answer.code === 'not-found' ? 404 : status]).toContain(answer.status);
    }
  });
});

// --- graphs that no exporter writes

const relu = { nodes: [node('Relu', ['x'], ['y'])], inputs: [value('x', [4])], outputs: [value('y', [4])] };
const small = (nodes: Buffer[]): Buffer => model(graph('made', { ...relu, nodes }));
const named = (name: string, one: Buffer): Buffer => Buffer.concat([one, field(3, name)]);

function lying(dims: number[]): Buffer {
  const liar = Buffer.concat([...dims.map((dim) => int(1, dim)), int(2, 1), field(8, 'w'), field(9, Buffer.alloc(64 * 4))]);
  return model(
    graph('lying', {
      nodes: [node('Add', ['x', 'w'], ['y'])],
      initializers: [liar],
      inputs: [value('x', [64])],
      outputs: [value('y', [64])],
    }),
  );
}
function cyclic(): Buffer {
  return model(
    graph('cyclic', {
      nodes: [node('Add', ['x', 'b'], ['a']), node('Relu', ['a'], ['b']), node('Relu', ['b'], ['y'])],
      inputs: [value('x', [4])],
      outputs: [value('y', [4])],
    }),
  );
}
function dangling(): Buffer {
  return model(
    graph('dangling', { nodes: [node('MatMul', ['x', 'w'], ['y'])], inputs: [value('x', [4, 4])], outputs: [value('y', [4, 4])] }),
  );
}
function twice(): Buffer {
  return model(
    graph('twice', {
      nodes: [node('Relu', ['x'], ['y']), node('Erf', ['x'], ['y'])],
      inputs: [value('x', [4])],
      outputs: [value('y', [4])],
    }),
  );
}
function nested(): Buffer {
  let body = graph('leaf', { nodes: [node('Identity', ['x'], ['y'])], inputs: [], outputs: [value('y', [4])] });
  for (let depth = 0; depth < 1000; depth++)
    body = graph(`g${depth}`, {
      nodes: [node('If', ['c'], ['y'], { then_branch: { graph: body } })],
      inputs: depth === 999 ? [value('x', [4]), value('c', [], 9)] : [],
      outputs: [value('y', [4])],
    });
  return model(body);
}
