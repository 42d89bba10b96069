/**
 * One measurement of the pipeline in a process of its own, so that peak memory and caches belong to it alone: the engine on
 * one model up to the gate, or the floor it is compared with.
 */
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { StageRun } from '../../src/domain/job.ts';
import type { DeviceProfile } from '../../src/domain/profile.ts';
import type { Recipe } from '../../src/domain/recipe.ts';
import type { TaskEvent } from '../../src/domain/task.ts';
import { openDataset } from '../../src/evaluate/dataset.ts';
import { createRunner } from '../../src/runtime/runner.ts';
import { runTask } from '../../src/search/run-task.ts';

export interface PipelineRequest {
  kind: 'floor' | 'job';
  model: string;
  calibration: string;
  workDir: string;
  recipe: Recipe;
  statistics: Record<string, unknown>;
}
export interface PipelineAnswer {
  /** Floor: inference over the data, and one read and one write of the model. Job: the stages read to gate but measure. */
  ms: number;
  stages: StageRun[];
  statistics: Record<string, unknown>;
  /** Largest of the stages' peaks. */
  peakRssBytes: number;
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
async function floor(request: PipelineRequest): Promise<PipelineAnswer> {
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
  return { ms, stages: [], statistics: {}, peakRssBytes: 0, error: null };
}

async function job(request: PipelineRequest): Promise<PipelineAnswer> {
  const stages: StageRun[] = [];
  const statistics: Record<string, unknown> = { ...request.statistics };
  const enough = new AbortController();
  const onEvent = (event: TaskEvent): void => {
    if (event.type === 'statistic') statistics[event.key] = event.value;
    if (event.type === 'stage') {
      stages.push(event.run);
      if (event.run.name === 'gate') enough.abort();
    }
  };
  let error: string | null = null;
  try {
    await runTask(
      {
        jobId: 'job_bench',
        workDir: request.workDir,
        modelPath: request.model,
        modelSha256: request.model,
        calibrationPath: request.calibration,
        calibrationSha256: request.calibration,
        evaluationPath: null,
        evaluationSha256: null,
        recipes: [request.recipe],
        metric: null,
        deviceProfiles: [HOST],
        maxAccuracyDrop: 0.01,
        shapes: {},
        seed: 1,
        statistics: request.statistics,
        machineLockPath: join(request.workDir, 'machine.lock'),
      },
      onEvent,
      enough.signal,
    );
  } catch (cause) {
    if (!enough.signal.aborted) error = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
  }
  const ms = stages.filter((stage) => stage.name !== 'measure').reduce((sum, stage) => sum + stage.ms, 0);
  return { ms, stages, statistics, peakRssBytes: Math.max(0, ...stages.map((stage) => stage.peakRssBytes)), error };
}

process.once('message', async (request: PipelineRequest) => {
  const answer = await (request.kind === 'floor' ? floor(request) : job(request));
  process.send!(answer, () => process.disconnect());
});
