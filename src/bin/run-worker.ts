/** A worker in this process: jobs, webhook deliveries, the outbox's relay, the reconciler. */
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { childEnvironment } from '../config.ts';
import { builtInProfiles } from '../domain/built-in-profiles.ts';
import type { JobStatus, StageRun } from '../domain/job.ts';
import { type Consumer, quantizeQueue, startReconciler, startRelay, WEBHOOK_QUEUE } from '../queue/index.ts';
import { loadLibrary } from '../runtime/library.ts';
import { detectMachine } from '../runtime/machine.ts';
import { createExecution, createOutboxSource, createReconcilable, type Database, openScratch, profiles, workers } from '../store/index.ts';
import { createWorker } from '../worker/index.ts';
import type { Lifetime } from './lifetime.ts';
import { openServices, openStores } from './stores.ts';

/** Deliveries mostly wait for others' servers. */
const WEBHOOKS_AT_ONCE = 8;
/** How often it is looked for profiles with labels that were not known before. */
const PROFILES_EVERY_MS = 5000;
/** How often a worker says that it lives; ten times as often as it would be taken for gone. */
const ALIVE_EVERY_MS = 30_000;

export interface WorkerHooks {
  onStage?: (run: StageRun) => void;
  onEnded?: (status: JobStatus) => void;
}

export async function runWorker(lifetime: Lifetime, hooks: WorkerHooks = {}): Promise<void> {
  const { config, log, onShutdown } = lifetime;
  const stores = await openStores(lifetime);
  const { db, objects, broker } = stores;
  const execution = createExecution({ db, objects }, config.jobLeaseSeconds);

  const scratch = await openScratch(path.join(config.dataDir, 'work'));
  onShutdown({ name: 'work folder', capMs: 5000, run: () => scratch.close() });
  for (const dead of scratch.dead) {
    // No lease has to run out first: that worker is known to be dead.
    const given = await execution.requeueOwnedBy(`${dead}/`, 'the worker died');
    if (given.length > 0) log.info({ jobs: given }, 'jobs of a worker that died were queued again');
    await scratch.forget(dead);
  }

  const machine = detectMachine(loadLibrary().version);
  for (const profile of builtInProfiles(machine)) await profiles.ensureBuiltIn(db.client, profile);

  const services = openServices(lifetime, stores, scratch.folder);
  onShutdown({ name: 'use cases', capMs: 3000, run: () => services.close() });

  const worker = createWorker({
    execution,
    objects,
    workerId: scratch.workerId,
    folder: scratch.folder,
    noteChild: scratch.noteChild,
    concurrency: config.workerConcurrency,
    labels: config.workerLabels,
    childEnvironment: childEnvironment(),
    deadlineSeconds: config.jobDeadlineSeconds,
    memoryBytes: config.jobMemoryBytes,
    leaseSeconds: config.jobLeaseSeconds,
    machineLockPath: config.machineLock,
    onnxRuntimeLibrary: config.onnxRuntimeLibrary,
    log,
    ...hooks,
  });

  const relay = await startRelay(createOutboxSource(db), broker, (error) => log.warn({ err: error }, 'the outbox could not be relayed'));
  const reconciler = startReconciler(createReconcilable({ db, objects }), broker, { log });
  onShutdown({ name: 'relay and reconciler', capMs: 5000, run: () => Promise.all([relay.stop(), reconciler.stop()]) });

  // Before the first job could be taken: POST refuses jobs for devices that no worker stands for.
  const live = () => workers.seen(db.client, scratch.workerId, config.workerLabels);
  await live();
  const alive = setInterval(() => {
    live().catch((error: unknown) => log.warn({ err: error }, 'this worker could not say that it lives'));
  }, ALIVE_EVERY_MS);

  const consumers = new Map<string, Consumer>();
  const consumeJobs = async () => {
    for (const labels of await profiles.labelSets(db.client)) {
      if (consumers.has(labels) || !labels.split(',').every((label) => label === '' || config.workerLabels.includes(label))) continue;
      const consumer = broker.consume(quantizeQueue(labels), 'quantize', config.workerConcurrency, async (payload) => {
        const taken = await worker.run(payload.jobId);
        if (!taken) await broker.add({ kind: 'quantize', payload }, `${payload.jobId}-again`);
      });
      consumers.set(labels, consumer);
    }
  };
  await consumeJobs();
  const watch = setInterval(() => {
    consumeJobs().catch((error: unknown) => log.warn({ err: error }, 'the profiles could not be looked through'));
  }, PROFILES_EVERY_MS);
  const deliveries = broker.consume(WEBHOOK_QUEUE, 'deliver-webhook', WEBHOOKS_AT_ONCE, async ({ deliveryId }) => {
    await services.webhooks.deliver(deliveryId, `${scratch.workerId}/${randomBytes(6).toString('hex')}`);
  });
  const unlisten = await lookForCancels(db, (jobId) => worker.look(jobId));

  const grace = config.shutdownGraceSeconds * 1000;
  onShutdown({
    name: 'jobs',
    capMs: grace + 10_000,
    async run() {
      clearInterval(watch);
      clearInterval(alive);
      await unlisten();
      // First nothing new is taken; the consumers' ends then wait for the jobs that are being stopped.
      const closed = [deliveries, ...consumers.values()].map((consumer) => consumer.close());
      await worker.stop(grace);
      await Promise.all(closed);
    },
  });
  log.info({ worker: scratch.workerId, labels: config.workerLabels, concurrency: config.workerConcurrency }, 'the worker is ready');
}

/** A cancel request then ends a job in a moment; without notifications the next renewal of its lease sees it. */
async function lookForCancels(db: Database, look: (jobId: string) => void): Promise<() => Promise<void>> {
  return db.listen('halftone_job', (jobId) => {
    if (jobId !== '') look(jobId);
  });
}
