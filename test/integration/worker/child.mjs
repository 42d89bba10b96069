// Stands in for the engine: what it does is written in the model's bytes, {"do": …}. Everything around it is real.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const { dieWithParent } = await import(process.env.TEST_GUARD);
dieWithParent(Number(process.argv[2]));

const say = (event) => new Promise((resolve) => process.send(event, undefined, undefined, resolve));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const evaluation = {
  metric: 'sqnr',
  value: 40,
  drop: null,
  agreement: null,
  sqnrDb: 40,
  cosine: 1,
  maxError: 0.1,
  samples: 4,
  leftOut: 0,
  ci95: [39, 41],
  dropStandardError: null,
};
const benchmark = (deviceProfile, speedup) => ({
  deviceProfile,
  latencyMs: { p50: 1, p90: 1, p99: 1, mean: 1, min: 1, samples: 10 },
  speedup: { value: speedup, ci95: [speedup, speedup] },
  peakRssBytes: 1000,
  modelRssBytes: 10,
  loadMs: 1,
});
const kernels = { ran: {}, quantized: [], leftInFloat: [], notes: [] };

function write(task, name, bytes) {
  const file = path.join(task.workDir, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, bytes);
  return { path: file, name: path.basename(name), sizeBytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
}

async function succeed(task, order, files) {
  for (const [i, stage] of ['read', 'prepare', 'plan', 'emit'].entries()) {
    await say({ type: 'progress', stage, progress: i / 4, etaSeconds: 4 - i });
    await say({ type: 'stage', run: { name: stage, ms: 1, peakRssBytes: 1000 } });
    await sleep(order.pause ?? 0);
  }
  const variants = task.recipes.map((recipe, index) => ({
    index,
    recipe,
    files: files ?? [write(task, `v${index}/model.onnx`, Buffer.from(`variant ${index} of ${task.jobId}`))],
    manifest: { environment: process.env, shapes: task.shapes, statistics: task.statistics },
    evaluation,
    benchmarks: task.deviceProfiles.map((profile) => benchmark(profile.name, 2)),
    kernels,
    error: null,
  }));
  for (const variant of variants) await say({ type: 'variant', variant });
  const baseline = {
    index: -1,
    recipe: null,
    evaluation,
    benchmarks: task.deviceProfiles.map((profile) => benchmark(profile.name, 1)),
    kernels: null,
    error: null,
  };
  await say({ type: 'done', result: { baseline, variants, best: 0, bestReason: 'the fastest' } });
}

async function run(task) {
  const order = JSON.parse(readFileSync(task.modelPath, 'utf8'));
  await say({ type: 'progress', stage: order.stage ?? 'observe', progress: 0.1, etaSeconds: 10 });
  switch (order.do) {
    case 'succeed':
      await say({ type: 'statistic', key: 'costs', value: { conv: 1 } });
      await succeed(task, order);
      break;
    case 'external':
      await succeed(task, order, [
        write(task, 'x/model.onnx', Buffer.from('the model')),
        write(task, 'x/weights.bin', Buffer.alloc(3000, 7)),
      ]);
      break;
    case 'wait':
      setInterval(() => {}, 1000);
      return;
    case 'block':
      for (;;);
    case 'crash':
      process.kill(process.pid, 'SIGSEGV');
      break;
    case 'abort':
      process.abort();
      break;
    case 'exit':
      process.exit(3);
      break;
    case 'nothing':
      process.exit(0);
      break;
    case 'memory': {
      const held = [];
      for (;;) {
        held.push(Buffer.alloc(20e6, held.length + 1));
        await sleep(20);
      }
    }
    case 'fail':
      await say({ type: 'failed', error: { code: 'calibration-missing', detail: 'no data', stage: 'observe' } });
      break;
    case 'bug':
      await say({ type: 'failed', error: { code: 'no-such-code', detail: 'oops \0 in “node\0”', stage: 'observe' } });
      break;
    case 'steal': {
      const bytes = readFileSync('/etc/hostname');
      await succeed(task, order, [
        { path: '/etc/hostname', name: 'model.onnx', sizeBytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') },
      ]);
      break;
    }
    case 'lie': {
      const file = write(task, 'v/model.onnx', Buffer.from('something else'));
      await succeed(task, order, [{ ...file, sha256: 'a'.repeat(64) }]);
      break;
    }
    case 'babble':
      for (const nonsense of [null, 7, 'x', {}, { type: 'progress' }, { type: 'variant' }, { type: 'stage', run: null }])
        await say(nonsense);
      await succeed(task, order);
      break;
    case 'empty':
      await say({ type: 'done', result: {} });
      break;
  }
  await sleep(200);
  process.exit(0);
}

process.on('message', (command) => {
  if (command.type === 'start') void run(command.task);
  // A cancel is not heard: the worker has to insist.
});
