import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { withMachine } from '../../../src/runtime/machine-lock.ts';

const built = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'dist', 'src', 'runtime', 'machine-lock.js');
let folder: string;
let lock: string;
const children: ChildProcess[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-lock-'));
  lock = join(folder, 'deep', 'machine.lock');
});
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** Another process that runs `body` with withMachine and `lock` at hand. */
function other(body: string): ChildProcess {
  const source = `import { withMachine } from ${JSON.stringify(`file://${built}`)}; const lock = ${JSON.stringify(lock)};
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms)); ${body}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}
/** Waits for a line that the process writes; fails when it ends without one. */
const says = (child: ChildProcess, word: string) =>
  new Promise<void>((resolve, reject) => {
    let text = '';
    child.stdout!.on('data', (chunk) => {
      text += chunk;
      if (text.includes(word)) resolve();
    });
    child.on('close', () => reject(new Error(`ended without '${word}'`)));
  });
/** Holds the lock until told to let go. */
const holder = async (mode: 'shared' | 'exclusive') => {
  const child = other(
    `await withMachine(lock, '${mode}', async () => { console.log('in'); await new Promise((r) => process.stdin.once('data', r)); }); process.exit(0);`,
  );
  await says(child, 'in');
  return child;
};
const soon = () => AbortSignal.timeout(250);
const enters = (mode: 'shared' | 'exclusive', signal?: AbortSignal) => withMachine(lock, mode, async () => mode, signal);

it('lets nobody in beside an exclusive holder, of any process', async () => {
  const child = await holder('exclusive');
  await expect(enters('shared', soon())).rejects.toThrow(/timeout/);
  await expect(enters('exclusive', soon())).rejects.toThrow(/timeout/);
  const waiting = enters('shared');
  child.stdin!.write('go');
  expect(await waiting).toBe('shared');
});

it('lets shared holders in beside each other, and an exclusive one only after them', async () => {
  const child = await holder('shared');
  expect(await enters('shared')).toBe('shared');
  await expect(enters('exclusive', soon())).rejects.toThrow(/timeout/);
  // The waiter that gave up must not have left the turnstile shut.
  expect(await enters('shared', soon())).toBe('shared');
  child.stdin!.write('go');
  expect(await enters('exclusive')).toBe('exclusive');
});

it('is free again when its holder is killed', async () => {
  const child = await holder('exclusive');
  child.kill('SIGKILL');
  expect(await enters('exclusive', AbortSignal.timeout(5000))).toBe('exclusive');
});

it('does not starve an exclusive waiter behind a stream of shared holders', async () => {
  // Each holds for 60 ms and comes back at once, out of step: without a turnstile there is no moment without a holder.
  const loops = [0, 1, 2].map((i) =>
    other(
      `console.log('ready'); await sleep(${i * 20}); for (;;) { const until = Date.now() + 60; await withMachine(lock, 'shared', () => sleep(until - Date.now())); }`,
    ),
  );
  await Promise.all(loops.map((child) => says(child, 'ready')));
  await sleep(200);
  expect(await enters('exclusive', AbortSignal.timeout(10_000))).toBe('exclusive');
});

it('excludes within one process too', async () => {
  let inside = 0;
  let most = 0;
  const run = (mode: 'shared' | 'exclusive') =>
    withMachine(lock, mode, async () => {
      inside += 1;
      if (mode === 'exclusive') expect(inside).toBe(1);
      most = Math.max(most, inside);
      await sleep(15);
      inside -= 1;
    });
  await Promise.all([run('shared'), run('shared'), run('exclusive'), run('shared'), run('exclusive'), run('shared')]);
  expect(inside).toBe(0);
  expect(most).toBeGreaterThanOrEqual(2);
});

it('lets go when the work throws, and passes its result and its error on', async () => {
  expect(await withMachine(lock, 'exclusive', async () => 42)).toBe(42);
  await expect(
    withMachine(lock, 'exclusive', async () => {
      throw new Error('no');
    }),
  ).rejects.toThrow('no');
  expect(await enters('exclusive', soon())).toBe('exclusive');
});

it('makes files that other users can lock, whatever the umask', async () => {
  const umask = process.umask(0o077);
  try {
    await enters('shared');
  } finally {
    process.umask(umask);
  }
  const files = readdirSync(dirname(lock));
  expect(files.sort()).toEqual(['machine.lock', 'machine.lock.turn']);
  for (const file of files) expect(statSync(join(dirname(lock), file)).mode & 0o777).toBe(0o666);
});

it('does not start when it is aborted already', async () => {
  let ran = false;
  const work = withMachine(
    lock,
    'shared',
    async () => {
      ran = true;
    },
    AbortSignal.abort(new Error('stop')),
  );
  await expect(work).rejects.toThrow('stop');
  expect(ran).toBe(false);
});
