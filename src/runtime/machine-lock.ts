/**
 * The machine's lock: computing holds it shared, measuring exclusive. It is flock(2) on a file, so it holds between all processes
 * of the machine whoever started them, and the kernel drops it when a holder dies, however it dies.
 */
import { chmod, type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lockFile } from '../../native/index.ts';

/**
 * Opens a lock file for anyone on the machine to share, making it where it is missing. An existing one is opened without O_CREAT:
 * in a folder as /tmp the kernel refuses O_CREAT on a file of another user (fs.protected_regular).
 */
async function openLock(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, 'a+', 0o666);
  await chmod(path, 0o666).catch(() => undefined); // against the umask; someone else's file has its mode already
  return file;
}

async function acquire(file: FileHandle, mode: 'shared' | 'exclusive', signal: AbortSignal | undefined): Promise<void> {
  for (let pause = 2; ; pause = Math.min(50, pause * 1.5)) {
    signal?.throwIfAborted();
    if (await lockFile(file.fd, mode, false)) return;
    await sleep(pause, undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
}

/**
 * Runs `fn` while this process holds the lock at `lockPath`. Whoever wants in first passes a turnstile (`lockPath`.turn), and who
 * waits for the machine stands in it: so a waiter for exclusive use lets no further shared holder in, and gets its turn when those
 * inside are done. Not re-entrant: to go from shared to exclusive, let go first. Throws the signal's reason when aborted while
 * waiting; `fn` itself is not interrupted.
 */
export async function withMachine<T>(
  lockPath: string,
  mode: 'shared' | 'exclusive',
  fn: () => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const lock = await openLock(lockPath);
  try {
    const turnstile = await openLock(`${lockPath}.turn`);
    try {
      await acquire(turnstile, 'exclusive', signal);
      await acquire(lock, mode, signal);
    } finally {
      await turnstile.close(); // closing unlocks
    }
    return await fn();
  } finally {
    await lock.close();
  }
}
