import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { benchmarkModels, measureMemory } from '../../../src/runtime/benchmark.ts';
import { writeFeeds } from '../../../src/runtime/feeds.ts';
import { constant, DataType, model, node, noise, tensor } from './models.ts';

const { FLOAT } = DataType;
const WIDTH = 256;
let folder: string;
let feedsPath: string;
const at = (name: string) => join(folder, name);

/** A chain of so many products with WIDTH × WIDTH matrices. */
function chain(length: number): Uint8Array {
  const nodes = Array.from({ length }, (_, i) =>
    node('MatMul', [i === 0 ? 'x' : `h${i}`, `w${i}`], [i === length - 1 ? 'y' : `h${i + 1}`]),
  );
  const weights = Array.from({ length }, (_, i) => constant(`w${i}`, FLOAT, [WIDTH, WIDTH], noise(WIDTH * WIDTH, 0.1, i + 1)));
  return model({ x: [FLOAT, ['n', WIDTH]] }, { y: [FLOAT, ['n', WIDTH]] }, nodes, weights);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-benchmark-'));
  feedsPath = at('feeds.bin');
  await writeFeeds(
    feedsPath,
    [1, 2, 3].map((seed) => ({ x: tensor('float32', [8, WIDTH], noise(8 * WIDTH, 1, seed)) })),
  );
  writeFileSync(at('one.onnx'), chain(4));
  writeFileSync(at('three.onnx'), chain(12));
  const cells = 10_000_000;
  writeFileSync(
    at('heavy.onnx'),
    model(
      { x: [FLOAT, ['n', WIDTH]] },
      { y: [FLOAT, ['n', WIDTH]] },
      [node('Gather', ['t', 'i'], ['g']), node('Add', ['x', 'g'], ['y'])],
      [constant('t', FLOAT, [cells], new Float32Array(cells).fill(1)), constant('i', DataType.INT64, [], [1])],
    ),
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it('finds a model as fast as itself and a third of it three times as fast', { timeout: 60_000 }, async () => {
  const done: number[] = [];
  const { float, variants } = await benchmarkModels({
    float: at('three.onnx'),
    variants: [at('three.onnx'), at('one.onnx')],
    feedsPath,
    threads: 1,
    onProgress: (share) => done.push(share),
  });
  const [same, third] = variants;
  // 95% and not 100%: the interval is widened by the half percent that two sessions of one file may differ by.
  expect(same!.speedup.ci95[0]).toBeLessThan(1.02);
  expect(same!.speedup.ci95[1]).toBeGreaterThan(0.98);
  expect(same!.speedup.value).toBeGreaterThan(0.75);
  expect(same!.speedup.value).toBeLessThan(1.33);
  expect(third!.speedup.value).toBeGreaterThan(1.8);
  expect(third!.speedup.value).toBeLessThan(5);
  expect(third!.latencyMs.p50 * third!.speedup.value).toBeGreaterThan(float.min * 0.5);
  for (const { p50, p90, p99, mean, min, samples } of [float, same!.latencyMs, third!.latencyMs]) {
    expect(min).toBeGreaterThan(0);
    expect([min, p50, p90, p99]).toEqual([min, p50, p90, p99].sort((a, b) => a - b));
    expect(mean).toBeGreaterThanOrEqual(min);
    expect(samples).toBeGreaterThanOrEqual(25);
  }
  expect(float.samples).toBe(same!.latencyMs.samples + third!.latencyMs.samples);
  expect(done).toEqual([0.5, 1]);
});

it('measures the float model alone', { timeout: 60_000 }, async () => {
  const { float, variants } = await benchmarkModels({ float: at('one.onnx'), variants: [], feedsPath, threads: 0, seconds: 0.2 });
  expect(variants).toEqual([]);
  expect(float.samples).toBeGreaterThanOrEqual(25);
});

it('passes on what the runtime says of a model or of feeds that do not fit', { timeout: 60_000 }, async () => {
  writeFileSync(at('broken.onnx'), 'not a model');
  const request = { float: at('one.onnx'), variants: [at('broken.onnx')], feedsPath, threads: 1, seconds: 0.1 };
  await expect(benchmarkModels(request)).rejects.toMatchObject({ ortMessage: expect.stringMatching(/[Pp]rotobuf/) });
  const other = at('other.bin');
  await writeFeeds(other, [{ z: tensor('float32', [1], [1]) }]);
  await expect(benchmarkModels({ ...request, variants: [], feedsPath: other })).rejects.toThrow("no input 'z'");
  await expect(measureMemory({ model: at('broken.onnx'), feedsPath, threads: 1 })).rejects.toThrow(/[Pp]rotobuf/);
});

it('stops when it is aborted', { timeout: 60_000 }, async () => {
  const started = performance.now();
  const work = benchmarkModels({
    float: at('one.onnx'),
    variants: [at('one.onnx')],
    feedsPath,
    threads: 1,
    seconds: 600,
    signal: AbortSignal.timeout(700),
  });
  await expect(work).rejects.toThrow(/timeout/);
  expect(performance.now() - started).toBeLessThan(10_000);
});

it.skipIf(process.platform !== 'linux')('ends its process when the parent is killed', { timeout: 60_000 }, async () => {
  const built = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'dist', 'src', 'runtime', 'benchmark.js');
  const request = { float: at('one.onnx'), variants: [at('one.onnx')], feedsPath, threads: 1, seconds: 600 };
  const source = `import { benchmarkModels } from ${JSON.stringify(`file://${built}`)}; await benchmarkModels(${JSON.stringify(request)});`;
  const parent = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: 'inherit' });
  /** By /proc and not ps, which a bare image lacks. The name in brackets may hold anything, so fields count from its end. */
  const childOf = (pid: number) =>
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .find((name) => {
        try {
          const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
          return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === pid;
        } catch {
          return false; // ended meanwhile
        }
      });
  await expect.poll(() => childOf(parent.pid!), { timeout: 20_000 }).toBeDefined();
  const child = Number(childOf(parent.pid!));
  await sleep(500);
  parent.kill('SIGKILL');
  await expect
    .poll(
      () => {
        try {
          process.kill(child, 0);
          return 'alive';
        } catch {
          return 'gone';
        }
      },
      { timeout: 10_000 },
    )
    .toBe('gone');
});

it('sees the memory that a model takes', { timeout: 60_000 }, async () => {
  const small = await measureMemory({ model: at('one.onnx'), feedsPath, threads: 1 });
  const large = await measureMemory({ model: at('heavy.onnx'), feedsPath, threads: 1 });
  expect(small.peakRssBytes).toBeGreaterThan(20e6);
  expect(small.modelRssBytes).toBeGreaterThan(0);
  expect(small.modelRssBytes).toBeLessThan(small.peakRssBytes);
  expect(small.loadMs).toBeGreaterThan(0);
  // 40 MB of weights, held at least once and at most a few times while loading.
  expect(large.modelRssBytes - small.modelRssBytes).toBeGreaterThan(30e6);
  expect(large.modelRssBytes - small.modelRssBytes).toBeLessThan(250e6);
});
