/** `npm start` as a supervisor sees it: a signal to npm's own process reaches the service, which shuts down in order. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { freePort, ROOT } from '../../demo/service.ts';

it('npm start serves, and ends with 0 on SIGTERM', { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-npm-start-'));
  const port = await freePort();
  const npm = process.env.npm_execpath?.endsWith('.js') ? [process.execPath, process.env.npm_execpath] : ['npm'];
  const child = spawn(npm[0]!, [...npm.slice(1), 'start'], {
    cwd: ROOT,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PORT: String(port),
      HOST: '127.0.0.1',
      DATA_DIR: folder,
      HALFTONE_API_KEY: '',
      DATABASE_URL: '',
      REDIS_URL: '',
      S3_ENDPOINT: '',
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data) => {
      output += data;
    });
  const ended = once(child, 'exit');
  try {
    const answers = async () => {
      const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null);
      await response?.arrayBuffer();
      return response?.status ?? 0;
    };
    while ((await answers()) !== 200 && child.exitCode === null) await sleep(200);
    // Without HALFTONE_API_KEY the first key is made and printed, once.
    const keys = output.match(/\bhft_[0-9A-Za-z]{49}\b/g) ?? [];
    expect([new Set(keys).size, output.slice(0, 2000)]).toEqual([1, expect.anything()]);
    const models = await fetch(`http://127.0.0.1:${port}/v1/models`, { headers: { authorization: `Bearer ${keys[0]}` } });
    expect([models.status, await models.json()]).toEqual([200, { items: [], nextPageToken: null }]);
    child.kill('SIGTERM');
    expect((await ended)[0]).toBe(0);
    expect(await answers()).toBe(0);
  } finally {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // It has ended.
    }
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
});
