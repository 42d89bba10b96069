import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { formatMark, markOf, parseMark, stateOf } from '../../../src/store/process.ts';
import { openScratch } from '../../../src/store/scratch.ts';
import { temporaryFolder } from './support.ts';

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A process that waits, leading a group of its own as jobs' children do. */
async function sleeper() {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { detached: true, stdio: 'ignore' });
  await once(child, 'spawn');
  return child;
}

it('tells a process from another that has its id now', async () => {
  const child = await sleeper();
  const mark = markOf(child.pid)!;
  expect(stateOf(mark)).toBe('alive');
  expect(stateOf({ ...mark, stamp: '1' })).toBe('dead');
  expect(stateOf({ ...mark, machine: 'another' })).toBe('elsewhere');
  expect(parseMark(formatMark(mark))).toEqual(mark);
  expect(parseMark(`${formatMark(mark)}.and.more`)).toEqual(mark);
  for (const text of ['', 'a', 'a.b.c', '../x.1.2']) expect(parseMark(text)).toBeNull();
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(stateOf(mark)).toBe('dead');
});

it('knows the folders of the dead, ends their children, and leaves the living alone', async () => {
  const root = path.join(folder, 'work');
  const mine = await openScratch(root);
  const dead = `${mine.workerId.split('.')[0]}.999999999.1.abcd`;
  const orphan = await sleeper();
  const job = path.join(root, dead, 'job_1-1');
  mkdirSync(job, { recursive: true });
  await mine.noteChild(job, orphan.pid!);

  const other = await openScratch(root);
  expect(other.dead).toEqual([dead]);
  const gone = once(orphan, 'exit');
  await other.forget(dead);
  expect((await gone)[1]).toBe('SIGKILL');
  expect(readdirSync(root).sort()).toEqual([mine.workerId, other.workerId].sort());
  await other.close();
  expect(readdirSync(root)).toEqual([mine.workerId]);
  await mine.close();
});

it('removes what another machine has left for a day, and nothing younger', async () => {
  const root = path.join(folder, 'shared');
  const [old, young] = ['elsewhere-12345678.1.1.aaaa', 'elsewhere-12345678.2.2.bbbb'].map((name) => path.join(root, name)) as [
    string,
    string,
  ];
  for (const one of [old, young]) mkdirSync(one, { recursive: true });
  writeFileSync(path.join(root, 'not ours'), '');
  const yesterday = new Date(Date.now() - 25 * 3600 * 1000);
  utimesSync(old, yesterday, yesterday);
  const mine = await openScratch(root);
  expect([mine.dead, existsSync(old), existsSync(young), existsSync(path.join(root, 'not ours'))]).toEqual([[], false, true, true]);
  await mine.close();
});
