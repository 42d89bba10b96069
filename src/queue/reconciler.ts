import type { Reconcilable } from '../domain/queue.ts';
import type { Broker } from './broker.ts';
import { kindOf } from './catalogue.ts';

export interface ReconcilerOptions {
  /** Between two looks at the leases. */
  everyMs?: number;
  /** Between two sweeps through all objects; the first comes at the start. */
  sweepEveryMs?: number;
  /** What has waited for longer is put into the queue again. */
  forgottenSeconds?: number;
  log: { info(fields: object, message: string): void; error(fields: object, message: string): void };
}

/**
 * Puts right what crashes and a lost queue leave behind, every few seconds until it is stopped: jobs whose worker was
 * lost are queued again, what waits and is in no queue is put there, bytes without a row are removed. A timer and not a
 * queue's job: it must work when the queue has lost everything.
 */
export function startReconciler(source: Reconcilable, broker: Broker, options: ReconcilerOptions): { stop(): Promise<void> } {
  const { everyMs = 5000, sweepEveryMs = 600_000, forgottenSeconds = 30, log } = options;
  let stopped = false;
  let running: Promise<void> | null = null;
  let lastLook = 0;
  let lastSweep = 0;

  const step = async (what: string, work: () => Promise<void>) => {
    if (stopped) return;
    try {
      await work();
    } catch (error) {
      log.error({ err: error }, `the reconciler could not ${what}`);
    }
  };
  const round = async () => {
    await step('look after lost workers', async () => {
      const jobs = await source.requeueLost();
      if (jobs.length > 0) log.info({ jobs }, 'jobs of lost workers were queued again');
    });
    // What waits long for its turn is met each time again, so not too often.
    if (Date.now() - lastLook >= forgottenSeconds * 500) {
      lastLook = Date.now();
      await step('look for forgotten work', requeueForgotten);
    }
    if (Date.now() - lastSweep < sweepEveryMs) return;
    const afterStart = lastSweep === 0;
    lastSweep = Date.now();
    await step('sweep', async () => {
      const removed = await source.sweep(afterStart);
      if (Object.values(removed).some((count) => count > 0)) log.info(removed, 'what nothing points at was removed');
    });
  };
  const requeueForgotten = async () => {
    for (const message of await source.forgotten(forgottenSeconds)) {
      // One such id a thing: while it waits in the queue, adding it again does nothing. So nobody has to look what is in there.
      await broker.add(message, `${kindOf(message).subject}-again`);
    }
  };

  const timer = setInterval(() => {
    running ??= round().finally(() => {
      running = null;
    });
  }, everyMs);
  return {
    async stop() {
      stopped = true;
      clearInterval(timer);
      await running;
    },
  };
}
