/**
 * API and worker in one process group. The worker is a process of its own, so that the API answers whatever the worker
 * does; when it dies it is started again.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Lifetime, main } from './lifetime.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import { runApi } from './run-api.ts';

const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;
/** A worker that has lived for so long is not one that cannot start. */
const STABLE_MS = 30_000;
/** The API goes up without its worker after so long: jobs wait then. */
const WORKER_PATIENCE_MS = 60_000;

await main('serve', async (lifetime) => {
  const { metrics, listen } = await runApi(lifetime);
  const ready = keepWorker(lifetime, (message) => {
    if (message.type === 'stage') metrics.stage({ stage: message.run.name, ms: message.run.ms, peakRssBytes: message.run.peakRssBytes });
    else if (message.type === 'ended') metrics.jobEnded(message.status);
  });
  await Promise.race([ready, sleep(WORKER_PATIENCE_MS, undefined, { ref: false })]);
  await listen();
});

/** Starts the worker, again and again. Resolves when it is ready for the first time. */
function keepWorker({ config, log, onShutdown }: Lifetime, hear: (message: FromWorker) => void): Promise<void> {
  let worker: ChildProcess | null = null;
  let stopping = false;
  let pause = FIRST_PAUSE_MS;
  let isReady = () => {};
  const ready = new Promise<void>((resolve) => {
    isReady = resolve;
  });

  const start = () => {
    const started = Date.now();
    const child = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), [], { execArgv: [] });
    worker = child;
    child.on('message', (message: FromWorker) => {
      if (message.type === 'ready') isReady();
      else hear(message);
    });
    child.on('error', (error) => log.error({ err: error }, 'the worker could not be started'));
    child.on('exit', (code, signal) => {
      worker = null;
      if (stopping) return;
      pause = Date.now() - started > STABLE_MS ? FIRST_PAUSE_MS : Math.min(pause * 2, LONGEST_PAUSE_MS);
      log.error({ code, signal, pause }, 'the worker died; starting it again');
      setTimeout(() => {
        if (!stopping) start();
      }, pause);
    });
  };
  start();

  onShutdown({
    name: 'worker',
    capMs: config.shutdownGraceSeconds * 1000 + 15_000,
    async run() {
      stopping = true;
      const child = worker;
      if (!child) return;
      const gone = once(child, 'exit');
      if (child.connected) child.send({ type: 'stop' } satisfies ToWorker, () => {});
      await gone;
    },
  });
  return ready;
}
