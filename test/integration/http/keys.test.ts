import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newApiKey } from '../../../src/services/key-format.ts';
import { type Api, KEY, startApi } from './support/api.ts';

let api: Api;
beforeAll(async () => {
  api = await startApi({ rateLimit: { max: 40, windowSeconds: 60 } });
});
afterAll(() => api?.stop());

const make = async (json: object) => (await api.call('POST', '/v1/api-keys', { json })).body;

describe('API keys', () => {
  it('shows a key once and keeps only its hash', async () => {
    const made = await make({ name: 'reader', scopes: ['read'] });
    expect(made.secret).toMatch(/^hft_[0-9A-Za-z]{49}$/);
    expect(made.hint).toBe(made.secret.slice(0, 10));
    const read = await api.call('GET', `/v1/api-keys/${made.id}`);
    expect(read.text).not.toContain(made.secret);
    const rows = await api.db.client.apiKey.findMany();
    expect(JSON.stringify(rows)).not.toContain(made.secret);
    expect(rows.find((row) => row.id === made.id)?.hash).toBe(createHash('sha256').update(made.secret).digest('hex'));
  });

  it('takes HALFTONE_API_KEY as it is', async () => {
    expect((await api.call('GET', '/v1/models', { key: KEY })).status).toBe(200);
  });

  it('refuses none, unknown, mistyped and malformed ones with 401', async () => {
    const mistyped = newApiKey().replace(/.$/, (last) => (last === 'a' ? 'b' : 'a'));
    const asked: [string | null, RegExp][] = [
      [null, /no Authorization/],
      ['not-a-key-that-we-know', /not known/],
      [newApiKey(), /not known/],
      [mistyped, /checksum/],
    ];
    for (const [key, why] of asked) {
      const answer = await api.call('GET', '/v1/models', { key });
      expect(answer.status).toBe(401);
      expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer/);
      expect(answer.body).toMatchObject({ code: 'unauthenticated', status: 401 });
      expect(answer.body.detail).toMatch(why);
    }
    const basic = await api.call('GET', '/v1/models', { key: null, headers: { authorization: 'Basic eDp5' } });
    expect(basic.status).toBe(401);
  });

  it('lets a key do what its scopes say', async () => {
    const reader = (await make({ name: 'r', scopes: ['read'] })).secret;
    const writer = (await make({ name: 'w', scopes: ['write'] })).secret;
    expect((await api.call('GET', '/v1/models', { key: reader })).status).toBe(200);
    const refused = await api.call('POST', '/v1/jobs', { key: reader, json: {} });
    expect([refused.status, refused.body.code]).toEqual([403, 'forbidden']);
    expect((await api.call('GET', '/v1/models', { key: writer })).status).toBe(200);
    expect((await api.call('GET', '/v1/api-keys', { key: writer })).status).toBe(403);
  });

  it('ends with its expiry and its deletion', async () => {
    const made = await make({ name: 'short', scopes: ['read'], expiresAt: new Date(Date.now() + 60_000).toISOString() });
    expect((await api.call('GET', '/v1/models', { key: made.secret })).status).toBe(200);
    await api.db.client.apiKey.update({ where: { id: made.id }, data: { expiresAt: new Date(Date.now() - 1) } });
    const late = await api.call('GET', '/v1/models', { key: made.secret });
    expect([late.status, late.body.detail]).toEqual([401, expect.stringMatching(/expired/)]);
    const other = await make({ name: 'gone', scopes: ['read'] });
    expect((await api.call('DELETE', `/v1/api-keys/${other.id}`)).status).toBe(204);
    expect((await api.call('GET', '/v1/models', { key: other.secret })).status).toBe(401);
    expect(
      (await api.call('POST', '/v1/api-keys', { json: { name: 'past', scopes: ['read'], expiresAt: '2020-01-01T00:00:00Z' } })).status,
    ).toBe(422);
  });

  it('notes the last use', async () => {
    const made = await make({ name: 'used', scopes: ['read'] });
    expect(made.lastUsedAt).toBeNull();
    await api.call('GET', '/v1/models', { key: made.secret });
    await expect.poll(async () => (await api.call('GET', `/v1/api-keys/${made.id}`)).body.lastUsedAt).not.toBeNull();
  });

  it('keeps the last admin key', async () => {
    const list = await api.call('GET', '/v1/api-keys');
    const admin = list.body.items.find((key: { scopes: string[] }) => key.scopes.includes('admin'));
    const answer = await api.call('DELETE', `/v1/api-keys/${admin.id}`);
    expect([answer.status, answer.body.code]).toEqual([409, 'conflict']);
  });

  it('replaces the environment’s key when that changes, and makes one only on an empty database', async () => {
    await api.services.keys.ensureFirst('another-key-from-the-environment');
    expect((await api.call('GET', '/v1/models', { key: KEY })).status).toBe(401);
    expect((await api.call('GET', '/v1/models', { key: 'another-key-from-the-environment' })).status).toBe(200);
    await api.services.keys.ensureFirst(KEY);
    expect(await api.services.keys.ensureFirst(undefined)).toBeNull();
  });

  it('counts requests by key and says how many are left', async () => {
    const key = (await make({ name: 'busy', scopes: ['read'] })).secret;
    const first = await api.call('GET', '/v1/models', { key });
    expect(first.headers.get('ratelimit-policy')).toBe('"default";q=40;w=60');
    expect(first.headers.get('ratelimit')).toMatch(/^"default";r=39;t=\d+$/);
    expect(first.headers.get('x-ratelimit-limit')).toBeNull();
    let last = first;
    for (let i = 0; i < 40; i++) last = await api.call('GET', '/v1/models', { key });
    expect([last.status, last.body.code]).toEqual([429, 'rate-limited']);
    expect(Number(last.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(last.headers.get('ratelimit')).toMatch(/^"default";r=0;t=\d+$/);
    const another = (await make({ name: 'calm', scopes: ['read'] })).secret;
    expect((await api.call('GET', '/v1/models', { key: another })).status).toBe(200);
    expect((await api.call('GET', '/livez', { key })).status).toBe(200);
  });

  it('counts those without a valid key by address, so that keys cannot be guessed at leisure', async () => {
    const seen = new Set<number>();
    for (let i = 0; i < 45; i++) seen.add((await api.call('HEAD', '/v1/models', { key: `guess-number-${i}-of-many` })).status);
    expect([...seen]).toEqual([401, 429]);
    const last = await api.call('GET', '/v1/models', { key: 'guess-of-another-kind' });
    expect([last.status, last.body.code]).toEqual([429, 'rate-limited']);
    expect((await api.call('GET', '/v1/models')).status).toBe(200);
  });
});
