/** What a job's process and its descendants take, and whether the system killed for memory. */
import { execFile } from 'node:child_process';
import fs from 'node:fs/promises';
import { promisify } from 'node:util';

/**
 * Memory that a process and its descendants hold and that the system cannot take back, in bytes: anonymous and shared
 * pages. Pages of mapped files (a model of 20 GB that is only read) are not counted, as they go when memory is short.
 * 0 where the process is gone.
 */
export async function treeMemory(pid: number): Promise<number> {
  if (process.platform !== 'linux') return psTreeMemory(pid);
  const own = await fs.readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(own)?.[1] ?? 0) * 1024;
  let sum = field('RssAnon') + field('RssShmem');
  for (const child of await childrenOf(pid)) sum += await treeMemory(child);
  return sum;
}

/** Children that any of its threads started. Reads a few small files; a look through all of /proc would disturb what is measured meanwhile. */
async function childrenOf(pid: number): Promise<number[]> {
  const threads = await fs.readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = await Promise.all(threads.map((thread) => fs.readFile(`/proc/${pid}/task/${thread}/children`, 'utf8').catch(() => '')));
  return lists
    .flatMap((list) => list.trim().split(' '))
    .filter(Boolean)
    .map(Number);
}

async function psTreeMemory(root: number): Promise<number> {
  const { stdout } = await promisify(execFile)('ps', ['-axo', 'pid=,ppid=,rss=']);
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number, number]);
  const tree = new Set([root]);
  for (let size = 0; size !== tree.size; ) {
    size = tree.size;
    for (const [pid, parent] of rows) if (tree.has(parent)) tree.add(pid);
  }
  return rows.reduce((sum, [pid, , rss]) => (tree.has(pid) ? sum + rss * 1024 : sum), 0);
}

/** How often the system has killed for want of memory: in our control group where it counts, else on the whole machine. A rise while a child was killed is evidence. */
export async function oomKills(): Promise<number> {
  const group = await fs.readFile('/sys/fs/cgroup/memory.events', 'utf8').catch(() => '');
  const counted = /^oom_kill (\d+)$/m.exec(group) ?? /^oom_kill (\d+)$/m.exec(await fs.readFile('/proc/vmstat', 'utf8').catch(() => ''));
  return Number(counted?.[1] ?? 0);
}

/** When memory runs out the job's process is to go, not the database. Anyone may raise the score of their own process. */
export async function offerToOomKiller(pid: number): Promise<void> {
  await fs.writeFile(`/proc/${pid}/oom_score_adj`, '900').catch(() => {});
}

/** Kills what is left of the process group that a child leads, the child included. */
export function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nothing is left.
  }
}
