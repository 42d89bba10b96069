/** The contract of the object store, the same for both drivers. S3 where S3_ENDPOINT names a server (with S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY). */

import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { HalftoneError } from '../../../src/domain/errors.ts';
import type { ObjectInfo, ObjectStore } from '../../../src/domain/objects.ts';
import { openDiskStore, openS3Store } from '../../../src/store/index.ts';
import { stream, temporaryFolder, text } from './support.ts';

const sha = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const codeOf = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'resolved',
    (error: HalftoneError) => error.code ?? error.message,
  );
async function hashOf(readable: AsyncIterable<unknown>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of readable) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}
async function listed(store: ObjectStore): Promise<ObjectInfo[]> {
  const all: ObjectInfo[] = [];
  for await (const object of store.list()) all.push(object);
  return all;
}
/** Pseudo-random bytes in chunks of odd sizes, made as they are read. */
async function* many(bytes: number): AsyncGenerator<Uint8Array> {
  const block = randomBytes(1 << 20);
  for (let sent = 0; sent < bytes; ) {
    const size = Math.min(bytes - sent, 1 + ((sent * 7919 + 65_537) % (1 << 20)));
    block.writeUInt32LE(sent >>> 0, 0);
    yield Buffer.from(block.subarray(0, size));
    sent += size;
  }
}

const S3 = {
  endpoint: process.env.S3_ENDPOINT ?? '',
  bucket: process.env.S3_BUCKET ?? 'halftone-test',
  region: process.env.S3_REGION ?? 'us-east-1',
  accessKeyId: process.env.S3_ACCESS_KEY_ID ?? '',
  secretAccessKey: process.env.S3_SECRET_ACCESS_KEY ?? '',
  prefix: `test-${randomBytes(6).toString('hex')}`,
};
if (S3.endpoint === '') console.log('S3_ENDPOINT is not set: the object store is tested on disk only');

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.each(['disk', 's3'] as const)('objects on %s', (kind) => {
  describe.skipIf(kind === 's3' && S3.endpoint === '')('keep the contract', () => {
    let store: ObjectStore;
    beforeAll(async () => {
      store = kind === 'disk' ? await openDiskStore(path.join(folder, 'objects')) : await openS3Store(S3);
    });
    afterAll(async () => {
      for (const object of await listed(store)) await store.delete(object.sha256);
      await store.close();
    });
    const put = async (bytes: string | Uint8Array): Promise<string> => {
      const staged = await store.stage(stream(bytes));
      await staged.commit();
      await staged.discard();
      return staged.sha256;
    };

    it('gives back what was put, under its hash', async () => {
      const staged = await store.stage(stream('hello ', 'world'));
      expect([staged.sha256, staged.sizeBytes]).toEqual([sha('hello world'), 11]);
      expect(await store.stat(staged.sha256)).toBeNull();
      expect(await text(await staged.read())).toBe('hello world');
      expect(await text(await staged.read({ start: 6, end: 8 }))).toBe('wor');
      await staged.commit();
      await staged.discard();
      expect(await store.stat(staged.sha256)).toMatchObject({ sha256: staged.sha256, sizeBytes: 11 });
      expect(await text(await store.read(staged.sha256))).toBe('hello world');
      expect(await text(await store.read(staged.sha256, { start: 0, end: 0 }))).toBe('h');
      expect(await text(await store.read(staged.sha256, { start: 6, end: 10 }))).toBe('world');
    });

    it('takes an empty object', async () => {
      const hash = await put('');
      expect(await store.stat(hash)).toMatchObject({ sizeBytes: 0 });
      expect(await text(await store.read(hash))).toBe('');
    });

    it('takes the same bytes twice, and commits again what was removed in between', async () => {
      const first = await store.stage(stream('twice'));
      const second = await store.stage(stream('twice'));
      await first.commit();
      await second.commit();
      await first.discard();
      await store.delete(second.sha256);
      expect(await store.stat(second.sha256)).toBeNull();
      await second.commit();
      await second.discard();
      expect(await text(await store.read(second.sha256))).toBe('twice');
    });

    it('streams what is larger than any buffer, in parts', async () => {
      const size = 3 * 16 * 1024 * 1024 + 12_345;
      const hash = createHash('sha256');
      const watched = async function* () {
        for await (const chunk of many(size)) {
          hash.update(chunk);
          yield chunk;
        }
      };
      const staged = await store.stage(watched());
      await staged.commit();
      await staged.discard();
      expect([staged.sizeBytes, staged.sha256]).toEqual([size, hash.digest('hex')]);
      expect(await hashOf(await store.read(staged.sha256))).toBe(staged.sha256);
    });

    it('takes exactly one part, and one byte more', async () => {
      for (const size of [16 * 1024 * 1024, 16 * 1024 * 1024 + 1]) {
        const staged = await store.stage(many(size));
        await staged.commit();
        await staged.discard();
        expect((await store.stat(staged.sha256))?.sizeBytes).toBe(size);
        expect(await hashOf(await store.read(staged.sha256))).toBe(staged.sha256);
      }
    });

    it('keeps nothing of a stream that breaks, is too long, or is not what was announced', async () => {
      const broken = async function* () {
        yield Buffer.from('some');
        throw new Error('the client went away');
      };
      const before = (await listed(store)).length;
      expect(await codeOf(store.stage(broken()))).toBe('the client went away');
      expect(await codeOf(store.stage(stream('12345'), { maxBytes: 4 }))).toBe('payload-too-large');
      expect(await codeOf(store.stage(stream('12345'), { maxBytes: 5 }))).toBe('resolved');
      expect(await codeOf(store.stage(stream('12345'), { expectedBytes: 6 }))).toBe('upload-incomplete');
      expect(await codeOf(store.stage(stream('12345'), { expectedBytes: 4 }))).toBe('upload-incomplete');
      expect(await codeOf(store.stage(stream('12345'), { expectedSha256: sha('other') }))).toBe('upload-incomplete');
      expect(await codeOf(store.stage(stream('12345'), { signal: AbortSignal.abort(new Error('no more')) }))).toBe('no more');
      const late = new AbortController();
      const slow = async function* () {
        for await (const chunk of many(40 * 1024 * 1024)) {
          yield chunk;
          late.abort(new Error('too slow'));
        }
      };
      expect(await codeOf(store.stage(slow(), { signal: late.signal }))).toBe('too slow');
      // The one that resolved was never committed.
      expect((await listed(store)).length).toBe(before);
      expect(await store.abortStale(-60_000)).toBe(1);
    });

    it('says `not-found` of what is not there, and of what is no hash', async () => {
      expect(await codeOf(store.read(sha('never put')))).toBe('not-found');
      expect(await store.stat(sha('never put'))).toBeNull();
      expect(await store.localPath(sha('never put'))).toBeNull();
      await store.delete(sha('never put'));
      for (const bad of ['../../etc/passwd', '', 'A'.repeat(64), `${'a'.repeat(63)}/`]) {
        expect(await codeOf(store.read(bad))).toBe('not-found');
        expect(await codeOf(store.stat(bad))).toBe('not-found');
        expect(await codeOf(store.delete(bad))).toBe('not-found');
      }
    });

    it('lists what is there and forgets what was deleted', async () => {
      const hashes = await Promise.all(['a', 'b', 'c'].map((bytes) => put(`listed ${bytes}`)));
      const found = new Map((await listed(store)).map((object) => [object.sha256, object]));
      for (const hash of hashes) {
        expect(found.get(hash)?.sizeBytes).toBe(8);
        expect(Math.abs(Date.now() - found.get(hash)!.modifiedAt.getTime())).toBeLessThan(60_000);
      }
      await store.delete(hashes[0]!);
      const left = new Set((await listed(store)).map((object) => object.sha256));
      expect(hashes.map((hash) => left.has(hash))).toEqual([false, true, true]);
    });

    it('aborts what was staged long ago and leaves what is young', async () => {
      const staged = await store.stage(stream('not finished'));
      expect(await store.abortStale(3600_000)).toBe(0);
      await staged.commit();
      expect(await store.abortStale(-60_000)).toBe(1);
      await staged.discard();
      expect(await text(await store.read(staged.sha256))).toBe('not finished');
    });

    it('answers a ping', () => store.ping());

    it('says where it is, or gives a URL that does', async () => {
      const hash = await put('downloaded');
      const local = await store.localPath(hash);
      const url = await store.presign(hash, 60, { filename: 'mödel "1".onnx', contentType: 'application/octet-stream' });
      if (kind === 'disk') {
        expect(statSync(local!).mode & 0o777).toBe(0o444);
        expect(url).toBeNull();
        return;
      }
      expect(local).toBeNull();
      const answer = await fetch(url!);
      expect([answer.status, await answer.text(), answer.headers.get('content-disposition')]).toEqual([
        200,
        'downloaded',
        'attachment; filename="m_del__1_.onnx"',
      ]);
      expect((await fetch(url!.replace(hash, sha('never put')))).status).toBeGreaterThanOrEqual(400);
    });
  });
});

describe('objects on disk', () => {
  it('are nothing but files under two folders, and leave nothing staged', async () => {
    const root = path.join(folder, 'plain');
    const store = await openDiskStore(root);
    const staged = await store.stage(stream('plain'));
    await staged.commit();
    await staged.discard();
    const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    expect(files.map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)))).toEqual([
      `${staged.sha256.slice(0, 2)}/${staged.sha256.slice(2, 4)}/${staged.sha256}`,
    ]);
  });

  it('replace a file that a crash of the machine cut off', async () => {
    const root = path.join(folder, 'torn');
    const store = await openDiskStore(root);
    const hash = sha('whole');
    mkdirSync(path.join(root, hash.slice(0, 2), hash.slice(2, 4)), { recursive: true });
    writeFileSync(path.join(root, hash.slice(0, 2), hash.slice(2, 4), hash), 'who');
    const staged = await store.stage(stream('whole'));
    await staged.commit();
    await staged.discard();
    expect(await text(await store.read(hash))).toBe('whole');
  });

  it('drop at once what a dead process staged, and in time what another machine did', async () => {
    const root = path.join(folder, 'stale');
    const store = await openDiskStore(root);
    const mine = await store.stage(stream('mine'));
    const [name] = readdirSync(path.join(root, 'staging'));
    const [machine] = name!.split('.');
    writeFileSync(path.join(root, 'staging', `${machine}.999999999.1.abc`), 'of a dead process');
    writeFileSync(path.join(root, 'staging', 'elsewhere-12345678.1.1.abc'), 'of another machine');
    expect(await store.abortStale(3600_000)).toBe(1);
    const long = new Date(Date.now() - 7200_000);
    utimesSync(path.join(root, 'staging', 'elsewhere-12345678.1.1.abc'), long, long);
    expect(await store.abortStale(3600_000)).toBe(1);
    await mine.commit();
    await mine.discard();
    expect(readdirSync(path.join(root, 'staging'))).toEqual([]);
  });

  it.runIf(process.platform === 'linux' && process.getuid?.() === 0)(
    'say `storage-full` on a full disk and leave nothing on it',
    async (context) => {
      const mount = path.join(folder, 'small');
      mkdirSync(mount);
      if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', mount]).status !== 0) context.skip('this machine may not mount');
      try {
        const store = await openDiskStore(path.join(mount, 'objects'));
        expect(await codeOf(store.stage(Readable.from(many(3_000_000))))).toBe('storage-full');
        expect(readdirSync(path.join(mount, 'objects', 'staging'))).toEqual([]);
        const staged = await store.stage(stream('fits'));
        await staged.commit();
        await staged.discard();
        expect(existsSync((await store.localPath(staged.sha256))!)).toBe(true);
      } finally {
        spawnSync('umount', [mount]);
      }
    },
  );
});
