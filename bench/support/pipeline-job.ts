/**
 * Measurements of the pipeline in a process of their own, so that peak memory and caches belong to them alone: the engine on
 * one model up to the gate, and the floor it is compared with.
 */
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { StageRun } from '../../src/domain/job.ts';
import type { DeviceProfile } from '../../src/domain/profile.ts';
import type { Recipe } from '../../src/domain/recipe.ts';
import type { TaskEvent } from '../../src/domain/task.ts';
import { openDataset } from '../../src/evaluate/dataset.ts';
import { createRunner } from '../../src/runtime/runner.ts';
import { runTask } from '../../src/search/run-task.ts';

export interface PipelineRequest {
  model: string;
  calibration: string;
  workDir: string;
  /** Jobs by name, each with its recipes. */
  jobs: Record<string, Recipe[]>;
  /** Rounds that are timed; one before them fills caches (the file's, the layer costs') and is not. 0 = only that one. */
  rounds: number;
}
interface JobTime {
  /** Those that ended: read to gate. */
  stages: StageRun[];
}
export interface PipelineAnswer {
  /** Inference over the data, and one read and one write of the model: one figure a round. */
  floors: number[];
  /** By name, one a round (where there are no rounds, the one before them). */
  jobs: Record<string, JobTime[]>;
  error: string | null;
}

const HOST: DeviceProfile = {
  id: 'prf_bench',
  name: 'host',
  builtIn: true,
  executionProvider: 'cpu',
  threads: null,
  memoryLimitBytes: null,
  allowedWeightTypes: ['int8', 'uint8'],
  allowedActivationTypes: ['int8', 'uint8'],
  allowedGranularities: ['tensor', 'channel'],
  requireSymmetricActivations: false,
  highestOpset: 23,
  float16: true,
  workers: [],
  shapes: {},
  machine: null,
};

/** What any way of observing must do: read the model, run it over the data, write a model. The runtime and its threads are the engine's. */
async function floor(request: PipelineRequest): Promise<number> {
  const session = await createRunner().open(request.model, { threads: 0 });
  const data = await openDataset(request.calibration, request.workDir, session.inputs);
  await session.run(data.feed(0));
  const start = performance.now();
  const bytes = readFileSync(request.model);
  for (let group = 0; group < data.groups; group++) await session.run(data.feed(group));
  const file = openSync(join(request.workDir, 'floor.onnx'), 'w');
  writeSync(file, bytes);
  fsyncSync(file);
  closeSync(file);
  const ms = performance.now() - start;
  await data.close();
  session.close();
  return ms;
}

/** A job up to its last gate (another gate stage, before the measurements, finds what the runtime refuses: cached with them). What it learns is added to `statistics`. */
async function job(request: PipelineRequest, recipes: Recipe[], statistics: Record<string, unknown>): Promise<JobTime> {
  const stages: StageRun[] = [];
  const enough = new AbortController();
  const onEvent = (event: TaskEvent): void => {
    if (event.type === 'statistic') statistics[event.key] = event.value;
    if (event.type === 'stage') stages.push(event.run);
    // All recipes are through their gates.
    if (event.type === 'progress' && event.stage === 'evaluate') enough.abort();
  };
  const workDir = await mkdtemp(join(request.workDir, 'job-'));
  try {
    await runTask(
      {
        jobId: 'job_bench',
        workDir,
        modelPath: request.model,
        modelSha256: request.model,
        calibrationPath: request.calibration,
        calibrationSha256: request.calibration,
        evaluationPath: null,
        evaluationSha256: null,
        recipes,
        metric: null,
        deviceProfiles: [HOST],
        maxAccuracyDrop: 0.01,
        shapes: {},
        seed: 1,
        statistics: { ...statistics },
        machineLockPath: join(workDir, 'machine.lock'),
        onnxRuntimeLibrary: null,
      },
      onEvent,
      enough.signal,
    );
  } catch (cause) {
    if (!enough.signal.aborted) throw cause;
  } finally {
    await rm(workDir, { recursive: true, force: true });
  }
  return { stages };
}

/** Floor and jobs take turns, so that a slow spell of the machine falls on all of them. */
async function measure(request: PipelineRequest): Promise<PipelineAnswer> {
  const answer: PipelineAnswer = { floors: [], jobs: {}, error: null };
  const statistics: Record<string, unknown> = {};
  try {
    for (let round = 0; round <= request.rounds; round++) {
      const timed = round > 0 || request.rounds === 0;
      if (request.rounds > 0) {
        const ms = await floor(request);
        if (timed) answer.floors.push(ms);
      }
      for (const [name, recipes] of Object.entries(request.jobs)) {
        const time = await job(request, recipes, statistics);
        if (timed) answer.jobs[name] = [...(answer.jobs[name] ?? []), time];
      }
    }
  } catch (cause) {
    answer.error = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
  }
  return answer;
}

process.once('message', async (request: PipelineRequest) => {
  const answer = await measure(request);
  process.send!(answer, () => process.disconnect());
});
