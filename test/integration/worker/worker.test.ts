/** The worker on real rows, objects and processes; only the engine inside the child is a stand-in (child.mjs). */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ClaimedJob, Execution } from '../../../src/domain/execution.ts';
import type { ObjectStore } from '../../../src/domain/objects.ts';
import {
  collect,
  createExecution,
  events,
  type JobRecord,
  jobs,
  models,
  openScratch,
  results,
  type Scratch,
  statistics,
  sweep,
  tarSize,
} from '../../../src/store/index.ts';
import { createWorker, type JobWorker, type WorkerOptions } from '../../../src/worker/index.ts';
import { built, makeJob, makeModel, openTestStores, type TestStores, text } from '../store/support.ts';

const CHILD = path.join(import.meta.dirname, 'child.mjs');
const childEnvironment = { PATH: process.env.PATH ?? '', TEST_GUARD: built('src/worker/guard.js') };
const LEASE_SECONDS = 3;
const LINUX = process.platform === 'linux';

let stores: TestStores;
let scratch: Scratch;
let execution: Execution;
beforeAll(async () => {
  stores = await openTestStores();
  execution = createExecution(stores, LEASE_SECONDS);
  scratch = await openScratch(path.join(stores.folder, 'work'));
});
afterAll(async () => {
  await scratch?.close();
  await stores?.close();
});

const said: { level: string; message: string; fields: Record<string, unknown> }[] = [];
const log = Object.fromEntries(
  ['debug', 'info', 'warn', 'error'].map((level) => [
    level,
    (fields: object, message: string) => said.push({ level, message, fields: { ...fields } }),
  ]),
) as unknown as WorkerOptions['log'];
const workers: JobWorker[] = [];
function worker(change: Partial<WorkerOptions> = {}): JobWorker {
  const made = createWorker({
    execution,
    objects: stores.objects,
    workerId: scratch.workerId,
    folder: scratch.folder,
    noteChild: scratch.noteChild,
    concurrency: 4,
    labels: [],
    childEnvironment,
    deadlineSeconds: 60,
    memoryBytes: 2e9,
    leaseSeconds: LEASE_SECONDS,
    cancelGraceMs: 200,
    machineLockPath: path.join(stores.folder, 'machine.lock'),
    log,
    childScript: CHILD,
    ...change,
  });
  workers.push(made);
  return made;
}
afterEach(async () => {
  await Promise.all(workers.splice(0).map((one) => one.stop(0)));
  expect(readdirSync(scratch.folder)).toEqual([]);
  said.length = 0;
});

/** A job whose child does as it is told. Each has a model of its own. */
let serial = 0;
async function jobThat(order: { do: string } & Record<string, unknown>, change: Partial<jobs.NewJob> = {}): Promise<JobRecord> {
  const model = await makeModel(stores, Buffer.from(JSON.stringify({ ...order, serial: serial++ })));
  return makeJob(stores, { modelId: model.id, ...change });
}
const read = async (id: string): Promise<JobRecord> => (await jobs.get(stores.db.client, id))!;
const eventTypes = async (id: string): Promise<string[]> => (await events.after(stores.db.client, id, 0)).map((event) => event.type);
async function eventually<T>(probe: () => Promise<T> | T, check: (value: T) => boolean, ms = 15_000): Promise<T> {
  for (const deadline = Date.now() + ms; ; await sleep(20)) {
    const value = await probe();
    if (check(value) || Date.now() > deadline) return value;
  }
}
/** The id of the process that runs a job now. */
async function childOf(id: string): Promise<number> {
  const pid = await eventually(
    () => {
      for (const owner of readdirSync(path.join(stores.folder, 'work'))) {
        for (const run of readdirSync(path.join(stores.folder, 'work', owner))) {
          const file = path.join(stores.folder, 'work', owner, run, 'child');
          if (run.startsWith(id) && existsSync(file)) return Number(readFileSync(file, 'utf8').split('.')[1]);
        }
      }
      return 0;
    },
    (found) => found > 0,
  );
  // It must have said where it is, or its death would be one in stage `read`.
  await eventually(
    () => read(id),
    (job) => job.stage !== null,
  );
  return pid;
}
const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !LINUX || !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

describe('a job', () => {
  it('that succeeds leaves variants, artifacts, figures and events, and nothing else', async () => {
    const job = await jobThat({ do: 'succeed' }, { recipes: [{ method: 'dynamic' }, { method: 'float16' }], shapes: { n: 3 } });
    expect(await worker().run(job.id)).toBe(true);
    const ended = await read(job.id);
    expect([ended.status, ended.progress, ended.stages.length, ended.bestReason, ended.leaseOwner, ended.error]).toEqual([
      'succeeded',
      1,
      4,
      'the fastest',
      null,
      null,
    ]);
    const variants = await results.listVariants(stores.db.client, job.id);
    expect(variants.map((variant) => [variant.position, variant.benchmarks.length, variant.evaluation?.value])).toEqual([
      [-1, 1, 40],
      [0, 1, 40],
      [1, 1, 40],
    ]);
    expect(ended.bestVariantId).toBe(variants[1]!.id);
    // Each has the id that its event told.
    const told = (await events.after(stores.db.client, job.id, 0)).filter(({ type }) => type === 'variant');
    expect(told.map(({ data }) => [data.index, data.id])).toEqual(variants.slice(1).map(({ position, id }) => [position, id]));
    for (const variant of variants.slice(1)) {
      expect(await text(await stores.objects.read(variant.artifact!.sha256))).toBe(`variant ${variant.position} of ${job.id}`);
    }
    const types = await eventTypes(job.id);
    expect(types.filter((type) => type !== 'progress')).toEqual([
      'queued',
      'started',
      'stage',
      'stage',
      'stage',
      'stage',
      'variant',
      'variant',
      'succeeded',
    ]);
    // No path of this machine gets out.
    expect(JSON.stringify(await events.after(stores.db.client, job.id, 0))).not.toContain(stores.folder);
    const model = await models.get(stores.db.client, job.modelId);
    expect(await statistics.forModel(stores.db.client, model!.sha256)).toEqual({ costs: { conv: 1 } });
    const artifact = await results.getArtifact(stores.db.client, variants[1]!.artifact!.id);
    expect(artifact?.manifest.shapes).toEqual({ n: 3 });
  });

  it('has no credentials in its process, and gets what earlier jobs measured', async () => {
    const bytes = Buffer.from(JSON.stringify({ do: 'succeed', serial: serial++ }));
    const model = await makeModel(stores, bytes);
    const one = worker();
    for (const expected of [{}, { costs: { conv: 1 } }]) {
      const job = await makeJob(stores, { modelId: model.id });
      await one.run(job.id);
      const [, variant] = await results.listVariants(stores.db.client, job.id);
      const { manifest } = (await results.getArtifact(stores.db.client, variant!.artifact!.id))!;
      expect(manifest.statistics).toEqual(expected);
      const names = Object.keys(manifest.environment as object).filter((name) => !name.startsWith('NODE_CHANNEL'));
      expect(names.sort()).toEqual(['PATH', 'TEST_GUARD', 'TMPDIR']);
    }
  });

  it('of several files is one .tar to whoever downloads it', async () => {
    const job = await jobThat({ do: 'external' });
    await worker().run(job.id);
    const [, variant] = await results.listVariants(stores.db.client, job.id);
    const artifact = (await results.getArtifact(stores.db.client, variant!.artifact!.id))!;
    expect(artifact.files.map((file) => [file.path, file.sizeBytes])).toEqual([
      ['model.onnx', 9],
      ['weights.bin', 3000],
    ]);
    expect(artifact.sizeBytes).toBe(tarSize(artifact.files));
  });

  it('that fails says why, with a code of the catalogue', async () => {
    const failing = await jobThat({ do: 'fail' });
    const bug = await jobThat({ do: 'bug' });
    await Promise.all([worker().run(failing.id), worker().run(bug.id)]);
    expect([(await read(failing.id)).status, (await read(failing.id)).error]).toEqual([
      'failed',
      { code: 'calibration-missing', detail: 'no data' },
    ]);
    expect((await read(bug.id)).error).toEqual({ code: 'internal-error', detail: 'oops \uFFFD in “node\uFFFD”' });
    expect((await read(failing.id)).attempts).toEqual({});
  });

  it('is run by one of several workers that hear of it', async () => {
    const job = await jobThat({ do: 'succeed', pause: 20 });
    const several = [worker(), worker(), worker()];
    await Promise.all(several.flatMap((one) => [one.run(job.id), one.run(job.id)]));
    expect((await eventTypes(job.id)).filter((type) => type === 'started').length).toBe(1);
    expect((await read(job.id)).status).toBe('succeeded');
  });

  it('on a model that was deleted meanwhile fails, and says so', async () => {
    const job = await jobThat({ do: 'succeed' });
    const freed = await stores.db.transaction((tx) => models.markDeleted(tx, job.modelId));
    await collect(stores, freed!);
    await worker().run(job.id);
    expect((await read(job.id)).error?.code).toBe('model-deleted');
  });

  it('whose stored bytes were damaged fails before its process starts', async () => {
    const job = await jobThat({ do: 'succeed' });
    const damaged: ObjectStore = {
      ...stores.objects,
      localPath: async () => null,
      read: async () => (await import('node:stream')).Readable.from([Buffer.from('not what was put')]),
    };
    await worker({ objects: damaged }).run(job.id);
    expect((await read(job.id)).error).toMatchObject({ code: 'internal-error', detail: expect.stringContaining('damaged') });
  });

  it('waits for its turn where all places are taken', async () => {
    const one = worker({ concurrency: 1 });
    const [first, second] = [await jobThat({ do: 'succeed', pause: 50 }), await jobThat({ do: 'succeed' })];
    const running = [one.run(first.id), one.run(second.id)];
    await eventually(
      () => read(first.id),
      (job) => job.status === 'running',
    );
    expect((await read(second.id)).status).toBe('queued');
    await Promise.all(running);
    expect((await read(second.id)).startedAt!.getTime()).toBeGreaterThanOrEqual((await read(first.id)).endedAt!.getTime() - 50);
  });
});

describe('a hostile child', () => {
  it('cannot have files published that are not its own, nor under another hash', async () => {
    for (const order of [{ do: 'steal' }, { do: 'lie' }]) {
      const job = await jobThat(order);
      await worker().run(job.id);
      const ended = await read(job.id);
      expect([ended.status, (await results.listVariants(stores.db.client, job.id)).length]).toEqual(['failed', 0]);
      await sweep(stores, { minAgeMs: -1000, staleMs: 3600_000 });
    }
  });

  it('cannot bring the worker down by what it says', async () => {
    const job = await jobThat({ do: 'babble' });
    await worker().run(job.id);
    expect((await read(job.id)).status).toBe('succeeded');
    const empty = await jobThat({ do: 'empty' });
    await worker().run(empty.id);
    expect((await read(empty.id)).error?.code).toBe('internal-error');
  });
});

describe('a child that dies', () => {
  const runThrice = async (job: JobRecord, change: Partial<WorkerOptions> = {}) => {
    const one = worker(change);
    const attempts: number[] = [];
    for (let i = 0; i < 3; i++) {
      await one.run(job.id);
      attempts.push(Object.values((await read(job.id)).attempts).reduce((sum, count) => sum + count, 0));
    }
    return attempts;
  };

  it.each(['crash', 'abort', 'exit', 'nothing'])(
    'by its own doing (%s) uses up an attempt, and fails the job at the third',
    async (how) => {
      const job = await jobThat({ do: how, stage: 'transform' });
      expect(await runThrice(job)).toEqual([1, 2, 3]);
      const ended = await read(job.id);
      expect([ended.status, ended.error?.code, ended.attempts]).toEqual(['failed', 'child-crashed', { transform: 3 }]);
      expect(ended.error?.detail).toContain('in stage transform');
    },
  );

  it.runIf(LINUX)(
    'over its memory limit is killed, and fails the job at the third',
    async () => {
      const job = await jobThat({ do: 'memory' });
      expect(await runThrice(job, { memoryBytes: 200e6 })).toEqual([1, 2, 3]);
      expect((await read(job.id)).error?.code).toBe('child-memory');
    },
    60_000,
  );

  it('at its deadline is killed, and fails the job at the third', async () => {
    const job = await jobThat({ do: 'block' });
    expect(await runThrice(job, { deadlineSeconds: 1 })).toEqual([1, 2, 3]);
    expect((await read(job.id)).error?.code).toBe('child-deadline');
  });

  it.runIf(LINUX).each(['SIGKILL', 'SIGTERM'] as const)('of %s from outside uses up no attempt, however often', async (signal) => {
    const job = await jobThat({ do: 'wait' });
    const one = worker();
    for (let i = 0; i < 4; i++) {
      const running = one.run(job.id);
      process.kill(await childOf(job.id), signal);
      await running;
      const back = await read(job.id);
      expect([back.status, back.attempts, back.leaseOwner]).toEqual(['queued', {}, null]);
    }
    expect((await read(job.id)).starts).toBe(4);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
  });
});

describe('a cancel', () => {
  it('ends a child that does not listen', async () => {
    const job = await jobThat({ do: 'block' });
    const one = worker();
    const running = one.run(job.id);
    const pid = await childOf(job.id);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
    one.look(job.id);
    await running;
    expect((await read(job.id)).status).toBe('canceled');
    expect(isAlive(pid)).toBe(false);
    expect((await eventTypes(job.id)).filter((type) => type !== 'progress')).toEqual(['queued', 'started', 'cancel-requested', 'canceled']);
  });

  it('is heard with the next renewal of the lease where nobody tells', async () => {
    const job = await jobThat({ do: 'wait' });
    const running = worker().run(job.id);
    await childOf(job.id);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
    await running;
    expect((await read(job.id)).status).toBe('canceled');
  });
});

describe('a worker', () => {
  it('gives its jobs back when it is stopped, after their grace', async () => {
    const quick = await jobThat({ do: 'succeed', pause: 50 });
    const slow = await jobThat({ do: 'wait' });
    const one = worker();
    const running = [one.run(quick.id), one.run(slow.id)];
    const pid = await childOf(slow.id);
    await one.stop(3000);
    await Promise.all(running);
    expect([(await read(quick.id)).status, (await read(slow.id)).status, (await read(slow.id)).attempts]).toEqual([
      'succeeded',
      'queued',
      {},
    ]);
    expect(isAlive(pid)).toBe(false);
    expect(await one.run(slow.id)).toBe(false);
  });

  it('whose lease was taken away stops its child and writes nothing', async () => {
    const job = await jobThat({ do: 'wait' });
    const running = worker().run(job.id);
    const pid = await childOf(job.id);
    await execution.requeueOwnedBy(`${scratch.workerId}/`, 'taken away');
    const other = await execution.claim(job.id, 'other');
    expect(other?.jobId).toBe(job.id);
    await running;
    expect(isAlive(pid)).toBe(false);
    expect([(await read(job.id)).status, (await read(job.id)).leaseOwner]).toEqual(['running', 'other']);
    await execution.cancel(job.id, 'other');
  });

  it('waits for a database that is away with the end of a job, and writes it once', async () => {
    let refusals = 3;
    const flaky: Execution = {
      ...execution,
      succeed: (...args) =>
        refusals-- > 0
          ? Promise.reject(Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }))
          : execution.succeed(...args),
    };
    const job = await jobThat({ do: 'succeed' });
    await worker({ execution: flaky }).run(job.id);
    expect((await read(job.id)).status).toBe('succeeded');
    expect((await eventTypes(job.id)).filter((type) => type === 'succeeded').length).toBe(1);
  });

  it('does not keep a result that came after the job was lost', async () => {
    const job = await jobThat({ do: 'succeed', pause: 100 });
    const late: Execution = {
      ...execution,
      renew: async () => ({ held: true, cancelRequested: false }),
      report: async () => true,
      async claim(id, owner): Promise<ClaimedJob | null> {
        const claimed = await execution.claim(id, owner);
        // Lost at once, and the worker does not hear of it.
        await execution.requeue(id, owner, 'lost');
        return claimed;
      },
    };
    await worker({ execution: late }).run(job.id);
    expect((await read(job.id)).status).toBe('queued');
    expect(await results.listVariants(stores.db.client, job.id)).toEqual([]);
    expect((await sweep(stores, { minAgeMs: -1000, staleMs: 3600_000 })).objects).toBe(0);
    await stores.db.transaction((tx) => jobs.requestCancel(tx, job.id));
  });
});

describe.runIf(LINUX)('kill -9 of a worker', () => {
  const launched: ChildProcess[] = [];
  async function launch(ids: string[]): Promise<ChildProcess> {
    const settings = {
      store: built('src/store/index.js'),
      worker: built('src/worker/index.js'),
      url: stores.url,
      objects: path.join(stores.folder, 'objects'),
      work: path.join(stores.folder, 'work'),
      lock: path.join(stores.folder, 'machine.lock'),
      child: CHILD,
      childEnvironment,
      leaseSeconds: 60,
      jobs: ids,
    };
    const child = fork(path.join(import.meta.dirname, 'worker-process.mjs'), [JSON.stringify(settings)], { execArgv: [] });
    launched.push(child);
    await once(child, 'message');
    return child;
  }
  async function kill(child: ChildProcess): Promise<void> {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }
  afterEach(async () => {
    for (const child of launched.splice(0)) if (child.exitCode === null && child.signalCode === null) await kill(child);
  });

  it('takes its children with it, however busy they are, and the next one goes on at once', async () => {
    const jobsToDo = [await jobThat({ do: 'block' }), await jobThat({ do: 'wait' })];
    const ids = jobsToDo.map((job) => job.id);
    const first = await launch(ids);
    const pids = await Promise.all(ids.map(childOf));
    await kill(first);
    expect(
      await eventually(
        () => pids.filter(isAlive).length,
        (count) => count === 0,
        3000,
      ),
    ).toBe(0);
    const second = await launch(ids);
    // Its leases had a minute to go.
    for (const id of ids) {
      const job = await eventually(
        () => read(id),
        (one) => one.starts === 2,
        10_000,
      );
      expect([job.starts, job.attempts]).toEqual([2, {}]);
    }
    await Promise.all(ids.map((id) => stores.db.transaction((tx) => jobs.requestCancel(tx, id))));
    await kill(second);
    await execution.requeueOwnedBy('', 'over');
  });

  it('again and again costs nothing but time: every job ends once and leaves nothing behind', async () => {
    const made = [];
    for (let i = 0; i < 6; i++) made.push(await jobThat({ do: 'succeed', pause: 120 }));
    const ids = made.map((job) => job.id);
    for (let round = 0; round < 5; round++) {
      const child = await launch(ids);
      await sleep(200 + round * 150);
      await kill(child);
    }
    const last = await launch(ids);
    for (const id of ids) {
      const job = await eventually(
        () => read(id),
        (one) => one.status !== 'queued' && one.status !== 'running',
        30_000,
      );
      expect([job.status, job.attempts]).toEqual(['succeeded', {}]);
      expect((await eventTypes(id)).filter((type) => type === 'succeeded').length).toBe(1);
      expect((await results.listVariants(stores.db.client, id)).length).toBe(2);
    }
    await kill(last);
    const cleaner = await openScratch(path.join(stores.folder, 'work'));
    for (const dead of cleaner.dead) await cleaner.forget(dead);
    await cleaner.close();
    expect(readdirSync(path.join(stores.folder, 'work'))).toEqual([path.basename(scratch.folder)]);
    await sweep(stores, { minAgeMs: -1000, staleMs: 3600_000 });
    expect(readdirSync(path.join(stores.folder, 'objects', 'staging'))).toEqual([]);
    for (const id of ids) await collect(stores, (await stores.db.transaction((tx) => jobs.removeEnded(tx, id)))!);
    expect((await sweep(stores, { minAgeMs: -1000, staleMs: 3600_000 })).objects).toBe(0);
  }, 90_000);
});
