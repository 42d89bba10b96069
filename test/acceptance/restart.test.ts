/**
 * What a job survives: an orderly restart, kill -9 of its process, of its worker, of everything at once. HALFTONE_KILLS=child,worker,all
 * sets how many kills of each kind (2,1,2 by default; 30,10,10 is the full trial). Linux only: children are found in /proc.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Job, ServerEvent } from '../../demo/client.ts';
import { npz } from '../../demo/npz.ts';
import { all, eventually, type Harness, start } from './support/harness.ts';
import { fitted, IMAGE, images, labelsFrom, logitsOf, uniform } from './support/models.ts';

const [CHILD_KILLS, WORKER_KILLS, FULL_KILLS] = (process.env.HALFTONE_KILLS ?? '2,1,2').split(',').map(Number) as [number, number, number];
const PROC = existsSync('/proc/self/stat');
const next = uniform(5);

let harness: Harness;
let request: Record<string, unknown>;

interface Process {
  pid: number;
  parent: number;
  group: number;
  command: string;
}
function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        // The name of the program, in brackets, may hold spaces: fields are counted from the last bracket.
        const fields = readFileSync(`/proc/${name}/stat`, 'utf8')
          .replace(/^.*\) /s, '')
          .split(' ');
        if (fields[0] === 'Z') return [];
        return [
          {
            pid: Number(name),
            parent: Number(fields[1]),
            group: Number(fields[2]),
            command: readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' '),
          },
        ];
      } catch {
        return [];
      }
    });
}
/** Everything that descends from the service. */
function descendants(): Process[] {
  const everything = processes();
  const found = new Set([harness.service.child.pid!]);
  for (let grown = true; grown; ) {
    grown = false;
    for (const one of everything)
      if (found.has(one.parent) && !found.has(one.pid)) {
        found.add(one.pid);
        grown = true;
      }
  }
  return everything.filter((one) => found.has(one.pid));
}
const jobProcesses = (): Process[] => descendants().filter((one) => /worker\/child\.js/.test(one.command));
const workers = (): Process[] => descendants().filter((one) => /bin\/worker\.js/.test(one.command));
/** kill -9; what has gone meanwhile needs none. */
function kill(victims: Process[]): void {
  for (const { pid } of victims)
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
}
const post = (): Promise<Job> => harness.client.json<Job>('POST', '/v1/jobs', request);
/** Waits until a job runs and a random while beyond. */
async function running(id: string): Promise<void> {
  await eventually(
    () => harness.client.json<Job>('GET', `/v1/jobs/${id}`),
    (job) => job.status !== 'queued',
    60_000,
  );
  await sleep(((next() + 1) / 2) * 4000);
}
/** The job ended once and well; its result is whole. */
async function sound(id: string): Promise<void> {
  const job = await harness.client.follow(id, () => {}, 120_000);
  expect([job.status, job.error]).toEqual(['succeeded', null]);
  expect(job.variants.map((variant) => [variant.error, variant.artifact !== null, variant.benchmarks.length])).toEqual([
    [null, true, 1],
    [null, true, 1],
  ]);
  for (const variant of job.variants) expect((await harness.client.bytes(variant.artifact!.href)).length).toBe(variant.artifact!.sizeBytes);
  const ends: ServerEvent[] = [];
  for await (const event of harness.client.events(`/v1/jobs/${id}/events`, { signal: AbortSignal.timeout(20_000) }))
    if (['succeeded', 'failed', 'canceled'].includes(event.event)) ends.push(event);
  expect(ends.map((event) => event.event)).toEqual(['succeeded']);
}

beforeAll(async () => {
  const bytes = await fitted({ width: 32 });
  const evaluation = images(21, 120);
  const calibration = images(22, 64);
  harness = await start();
  const model = await harness.client.upload<{ id: string }>('/v1/models?name=survivor', bytes);
  const labels = labelsFrom(await logitsOf(bytes, evaluation));
  const data = npz({ image: { data: evaluation.images, shape: [120, ...IMAGE] }, labels: { data: labels, shape: [120] } });
  request = {
    model: model.id,
    recipes: [{ method: 'static' }, { method: 'dynamic' }],
    calibration: (
      await harness.client.upload<{ id: string }>(
        '/v1/datasets?name=c',
        npz({ image: { data: calibration.images, shape: [64, ...IMAGE] } }),
      )
    ).id,
    evaluation: (await harness.client.upload<{ id: string }>('/v1/datasets?name=e', data)).id,
  };
}, 180_000);
afterAll(async () => {
  await harness?.close();
});

describe('a job', () => {
  it('goes on after an orderly restart in its middle', async () => {
    const { id } = await post();
    await running(id);
    expect(await harness.service.stop()).toBe(0);
    await harness.restart();
    await sound(id);
  });

  it.runIf(PROC)(`survives kill -9 of its process, ${CHILD_KILLS} times`, { timeout: 60_000 + CHILD_KILLS * 60_000 }, async () => {
    for (let round = 0; round < CHILD_KILLS; round++) {
      const { id } = await post();
      await running(id);
      kill(jobProcesses());
      await sound(id);
      expect(
        await eventually(
          () => jobProcesses().length,
          (count) => count === 0,
        ),
      ).toBe(0);
      await harness.client.json('DELETE', `/v1/jobs/${id}`);
    }
  });

  it.runIf(PROC)(`survives kill -9 of its worker, ${WORKER_KILLS} times`, { timeout: 60_000 + WORKER_KILLS * 90_000 }, async () => {
    for (let round = 0; round < WORKER_KILLS; round++) {
      const { id } = await post();
      await running(id);
      const orphans = jobProcesses();
      expect(workers().length).toBe(1);
      kill(workers());
      await sound(id);
      // The child of a dead worker must not compute on.
      const alive = () => processes().filter((one) => orphans.some((orphan) => orphan.pid === one.pid && orphan.command === one.command));
      expect(await eventually(alive, (left) => left.length === 0)).toEqual([]);
      await harness.client.json('DELETE', `/v1/jobs/${id}`);
    }
  });

  it.runIf(PROC)(`survives kill -9 of everything at once, ${FULL_KILLS} times`, { timeout: 60_000 + FULL_KILLS * 120_000 }, async () => {
    for (let round = 0; round < FULL_KILLS; round++) {
      const { id } = await post();
      await running(id);
      kill(descendants());
      await harness.service.exited;
      await harness.restart();
      await sound(id);
      await harness.client.json('DELETE', `/v1/jobs/${id}`);
    }
  });

  it('leaves nothing behind after all that', async () => {
    for (const kind of ['jobs', 'models', 'datasets']) {
      for (const { id } of await all<{ id: string }>(harness.client, `/v1/${kind}`))
        await harness.client.json('DELETE', `/v1/${kind}/${id}`);
      expect(await all(harness.client, `/v1/${kind}`)).toEqual([]);
    }
    expect(
      await eventually(
        () => harness.objects(),
        (left) => left.length === 0,
        60_000,
      ),
    ).toEqual([]);
  });
});
