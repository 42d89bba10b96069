/**
 * The folders that workers work in: root/<worker>/…, each named after its process, so that a later start knows which
 * are of the dead: their jobs can be queued again at once, without waiting for a lease to run out, and their children,
 * should one still be there, are ended.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { formatMark, markOf, parseMark, stateOf } from './process.ts';

export interface Scratch {
  /** Names this worker; begins the owner of its leases. */
  readonly workerId: string;
  /** This worker's own folder. */
  readonly folder: string;
  /** Workers that are certainly dead. Call `forget` when their jobs have been given back. */
  readonly dead: readonly string[];
  /** Removes a dead worker's folder and ends its children. */
  forget(workerId: string): Promise<void>;
  /** Notes a child of ours in its job's folder (group leader), so that it can be ended should this worker die. */
  noteChild(jobFolder: string, pid: number): Promise<void>;
  /** Removes this worker's own folder. */
  close(): Promise<void>;
}

const DAY_MS = 24 * 3600 * 1000;
const CHILD_FILE = 'child';

export async function openScratch(root: string): Promise<Scratch> {
  const base = path.resolve(root);
  await fs.mkdir(path.dirname(base), { recursive: true });
  await fs.mkdir(base, { recursive: true, mode: 0o700 });
  const dead: string[] = [];
  for (const name of await fs.readdir(base)) {
    const mark = parseMark(name);
    if (!mark) continue;
    const state = stateOf(mark);
    if (state === 'dead') dead.push(name);
    // Another machine's, on a shared disk: nobody works for a day without touching the folder.
    const stat = await fs.stat(path.join(base, name)).catch(() => null);
    if (state === 'elsewhere' && stat && stat.mtimeMs < Date.now() - DAY_MS) await remove(path.join(base, name));
  }
  const workerId = `${formatMark(markOf()!)}.${randomBytes(4).toString('hex')}`;
  const folder = path.join(base, workerId);
  await fs.mkdir(folder, { mode: 0o700 });
  return {
    workerId,
    folder,
    dead,
    async forget(id) {
      for (const job of await fs.readdir(path.join(base, id)).catch(() => [])) await endChild(path.join(base, id, job));
      await remove(path.join(base, id));
    },
    async noteChild(jobFolder, pid) {
      const mark = markOf(pid);
      if (mark) await fs.writeFile(path.join(jobFolder, CHILD_FILE), formatMark(mark));
    },
    close: () => remove(folder),
  };
}

async function endChild(jobFolder: string): Promise<void> {
  const mark = parseMark(await fs.readFile(path.join(jobFolder, CHILD_FILE), 'utf8').catch(() => ''));
  if (!mark || stateOf(mark) !== 'alive') return;
  try {
    process.kill(-mark.pid, 'SIGKILL');
  } catch {
    // It went by itself: it watches its parent.
  }
}

/** A child that has just been killed may still be writing: tried a few times. */
function remove(folder: string): Promise<void> {
  return fs.rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
