/** A disk that fills up while a body comes in. Needs a small file system of its own: root on Linux may mount one. */
import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { npz } from '../../demo/npz.ts';
import { all, eventually, type Harness, start } from './support/harness.ts';
import { classifier, IMAGE, images } from './support/models.ts';

/** An embedded PostgreSQL takes some 100 MB of it. */
const SIZE_MB = 320;
const mount = (at: string): unknown =>
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE_MB}m,mode=755`, 'tmpfs', at], { stdio: 'ignore' });
const unmount = (at: string): unknown => execFileSync('umount', ['-l', at]);

/** Tried and undone at once: hooks do not run where every test of a file is left out. */
const mountable = (() => {
  // On an S3 server it is that server's disk.
  if (process.env.S3_ENDPOINT) return false;
  const folder = mkdtempSync(join(tmpdir(), 'halftone-disk-'));
  try {
    mount(folder);
    unmount(folder);
    return true;
  } catch {
    console.warn('full-disk.test.ts: this user cannot mount a small file system; the full disk is not tried');
    return false;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
})();

/** Writes until the disk is full, then gives `left` bytes back. */
function fill(path: string, left: number): void {
  const file = openSync(path, 'w');
  let written = 0;
  try {
    for (const chunk = Buffer.alloc(1 << 16); ; ) written += writeSync(file, chunk);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    ftruncateSync(file, Math.max(0, written - left));
  } finally {
    closeSync(file);
  }
}

let folder: string;
let harness: Harness;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-disk-'));
  mount(folder);
  mkdirSync(join(folder, 'data'));
  harness = await start({}, { dataDir: join(folder, 'data') });
}, 180_000);
afterAll(async () => {
  await harness?.close();
  unmount(folder);
  rmSync(folder, { recursive: true, force: true });
});

describe('a full disk', () => {
  it.runIf(mountable)('refuses the upload with 507, keeps nothing of it, and serves on', async () => {
    async function* endless(): AsyncGenerator<Buffer> {
      // As a model begins: the reader must not be the one that refuses it.
      yield classifier();
      const chunk = Buffer.alloc(1 << 20, 1);
      for (let i = 0; i < SIZE_MB; i++) yield chunk;
    }
    for (const kind of ['models', 'datasets']) {
      const response = await harness.client.fetch('POST', `/v1/${kind}?name=large`, {
        body: endless() as unknown as RequestInit['body'],
        headers: { 'content-type': 'application/octet-stream' },
        duplex: 'half',
      });
      expect([kind, response.status, ((await response.json()) as { code: string }).code]).toEqual([kind, 507, 'storage-full']);
      expect(await all(harness.client, `/v1/${kind}`)).toEqual([]);
    }
    expect(
      await eventually(
        () => harness.objects(),
        (left) => left.length === 0,
      ),
    ).toEqual([]);
    // The database's own writes may have met the full disk too; it must be back, and so must the service.
    const ready = async () => (await fetch(`${harness.client.url}/readyz`)).status;
    expect(await eventually(ready, (status) => status === 200, 30_000)).toBe(200);
    const model = await harness.client.upload<{ id: string }>('/v1/models?name=small', classifier());
    const data = npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] } });
    const set = await harness.client.upload<{ id: string }>('/v1/datasets?name=small', data);
    await harness.client.json('DELETE', `/v1/models/${model.id}`);
    await harness.client.json('DELETE', `/v1/datasets/${set.id}`);
  });

  it.runIf(mountable)('refuses a job, or fails it by name, and the next one runs', async () => {
    const model = await harness.client.upload<{ id: string }>('/v1/models?name=small', classifier());
    const data = npz({ image: { data: images(1, 4).images, shape: [4, ...IMAGE] } });
    const set = await harness.client.upload<{ id: string }>('/v1/datasets?name=small', data);
    const post = async () => {
      const response = await harness.client.fetch('POST', '/v1/jobs', {
        body: JSON.stringify({ model: model.id, recipe: { method: 'static' }, calibration: set.id, deviceProfiles: ['host-1-thread'] }),
        headers: { 'content-type': 'application/json' },
      });
      return { status: response.status, body: (await response.json()) as { id: string; code: string } };
    };
    const filler = join(folder, 'filler');
    // To the last byte, and with room for the job's rows but not for its files.
    for (const left of [0, 300_000]) {
      fill(filler, left);
      const { status, body } = await post();
      if (status === 202) await sleep(5000);
      rmSync(filler);
      if (status !== 202) {
        expect([status, body.code]).toEqual([507, 'storage-full']);
        continue;
      }
      // One that had to wait for room, the database's or the queue's, may run now.
      const job = await harness.client.follow(body.id);
      expect(['storage-full', undefined]).toContain(job.error?.code);
      await harness.client.json('DELETE', `/v1/jobs/${body.id}`);
    }
    const ready = async () => (await fetch(`${harness.client.url}/readyz`)).status;
    expect(await eventually(ready, (status) => status === 200, 30_000)).toBe(200);
    const { body } = await post();
    expect((await harness.client.follow(body.id)).error).toBeNull();
    await harness.client.json('DELETE', `/v1/jobs/${body.id}`);
    await harness.client.json('DELETE', `/v1/models/${model.id}`);
    await harness.client.json('DELETE', `/v1/datasets/${set.id}`);
    expect(
      await eventually(
        () => harness.objects(),
        (objects) => objects.length === 0,
      ),
    ).toEqual([]);
  });
});
