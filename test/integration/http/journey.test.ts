import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { classifier } from '../../acceptance/support/models.ts';
import { type Api, startApi } from './support/api.ts';
import { floats, integers, npz } from './support/npz.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api?.stop());

const model = classifier();
const data = npz({ image: floats([12, 3, 24, 24]), labels: integers([12]) });
const octets = { 'content-type': 'application/octet-stream' };

describe('from upload to job', () => {
  let modelId = '';
  let dataId = '';

  it('takes a model', async () => {
    const answer = await api.call('POST', '/v1/models?name=net', { body: model, headers: octets });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({
      name: 'net',
      sha256: createHash('sha256').update(model).digest('hex'),
      sizeBytes: model.length,
      inputs: [{ name: 'image', type: 'float32', shape: ['batch', 3, 24, 24] }],
      alreadyQuantized: false,
    });
    expect(answer.headers.get('location')).toBe(`/v1/models/${answer.body.id}`);
    modelId = answer.body.id;
  });

  it('knows the same bytes again', async () => {
    const answer = await api.call('POST', '/v1/models?name=other', { body: model, headers: octets });
    expect([answer.status, answer.body.id]).toEqual([200, modelId]);
  });

  it('takes a data set', async () => {
    const answer = await api.call('POST', '/v1/datasets?name=data', { body: data, headers: octets });
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({
      samples: 12,
      labels: 'class',
      arrays: [{ name: 'image', dtype: 'float32', shape: [12, 3, 24, 24] }],
    });
    dataId = answer.body.id;
  });

  it('makes a job with its row, event and message', async () => {
    const answer = await api.call('POST', '/v1/jobs', {
      json: { model: modelId, recipe: { method: 'static' }, calibration: dataId, evaluation: dataId, metric: 'top1' },
    });
    expect(answer.status, answer.text).toBe(202);
    expect(answer.headers.get('location')).toBe(`/v1/jobs/${answer.body.id}`);
    expect(answer.headers.get('retry-after')).toBe('2');
    expect(answer.body).toMatchObject({ status: 'queued', deviceProfiles: ['host'], metric: { name: 'top1' }, best: null, variants: [] });
    const outbox = await api.db.client.outbox.findMany();
    expect(outbox).toHaveLength(1);
    const read = await api.call('GET', `/v1/jobs/${answer.body.id}`);
    expect(read.body).toEqual(answer.body);
    const list = await api.call('GET', '/v1/jobs?status=queued');
    expect(list.body.items).toHaveLength(1);
  });
});
