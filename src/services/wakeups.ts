/**
 * Tells those who wait for a job that something changed. The database's notifications only wake them: they read the rows
 * again and again anyway, so that a lost notification costs a second and nothing else.
 */
import type { Database } from '../store/db/index.ts';
import type { Log } from './context.ts';

/** Nobody sleeps longer than this without a look at the rows. */
const LONGEST_SLEEP_MS = 1000;

export class Wakeups {
  readonly #sleepers = new Map<string, Set<() => void>>();
  #count = 0;
  #stop: (() => Promise<void>) | null = null;

  /** Starts listening. Without it waiters look every second. */
  async start(db: Database, log: Log): Promise<void> {
    try {
      this.#stop = await db.listen('halftone_job', (id) => {
        this.#count++;
        // An empty payload: the connection is open again, anything may have been missed.
        const woken = id === '' ? [...this.#sleepers.values()] : [this.#sleepers.get(id) ?? new Set<() => void>()];
        for (const sleepers of woken) for (const wake of sleepers) wake();
      });
    } catch (error) {
      log.warn({ err: error }, 'no notifications from the database; waiting requests look every second');
    }
  }

  async stop(): Promise<void> {
    await this.#stop?.();
    for (const sleepers of this.#sleepers.values()) for (const wake of sleepers) wake();
  }

  /** Notifications so far. Read it before the rows and give it to `sleep`: a change between the two then still wakes. */
  get seen(): number {
    return this.#count;
  }

  /** Sleeps until the job changes, `ms` or a second have passed, or the signal ends it. */
  async sleep(id: string, seen: number, ms: number, signal: AbortSignal): Promise<void> {
    if (seen !== this.#count || signal.aborted) return;
    const sleepers = this.#sleepers.get(id) ?? new Set();
    this.#sleepers.set(id, sleepers);
    await new Promise<void>((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        sleepers.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, Math.max(0, Math.min(ms, LONGEST_SLEEP_MS)));
      signal.addEventListener('abort', wake, { once: true });
      sleepers.add(wake);
    });
    if (sleepers.size === 0 && this.#sleepers.get(id) === sleepers) this.#sleepers.delete(id);
  }
}
