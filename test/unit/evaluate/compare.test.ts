import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Session, TensorValue, ValueSignature } from '../../../src/domain/runner.ts';
import { evaluate, quickCompare } from '../../../src/evaluate/compare.ts';
import { type Dataset, openDataset } from '../../../src/evaluate/dataset.ts';
import { floatValues } from '../../../src/evaluate/elements.ts';
import { wilson } from '../../../src/evaluate/interval.ts';
import { seededNormal } from '../../../src/evaluate/random.ts';
import { array, type TestArray, writeNpz } from './npz-writer.ts';

const dir = mkdtempSync(join(tmpdir(), 'halftone-compare-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let count = 0;

const tensor = (dims: number[], values: ArrayLike<number>): TensorValue => ({
  type: 'float32',
  dims,
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});
const values = (feeds: Record<string, TensorValue>) => Array.from(floatValues(feeds.x!));

/** A model that is a function: what stands behind the port does not matter to the comparison. */
function model(
  f: (x: number[], dims: number[]) => Record<string, TensorValue>,
  inputs: ValueSignature[] = [{ name: 'x', type: 'float32', dims: ['N', 3] }],
): Session & { runs: number } {
  const names = Object.keys(f([0, 0, 0], [1, 3]));
  return {
    runs: 0,
    inputs,
    outputs: names.map((name) => ({ name, type: 'float32', dims: [] })),
    loadMs: 0,
    async run(feeds) {
      this.runs++;
      return f(values(feeds), feeds.x!.dims);
    },
    observe: () => Promise.reject(new Error('not here')),
    endProfile: () => Promise.reject(new Error('not here')),
    close: () => undefined,
  };
}

async function dataset(arrays: Record<string, TestArray>, session: Session): Promise<Dataset> {
  return openDataset(writeNpz(join(dir, `${count++}.npz`), arrays), dir, session.inputs);
}

const N = 200;
const normal = seededNormal(5);
const pixels = Float32Array.from({ length: N * 3 }, normal);
const linear = (x: number[]) => [x[0]! + x[1]!, x[1]! - x[2]!, x[2]! + 0.1, x[0]! - x[1]!];
const rows = Array.from({ length: N }, (_, i) => [...pixels.subarray(i * 3, i * 3 + 3)]);
const argmax = (row: number[]) => row.indexOf(Math.max(...row));
const labels = rows.map((row, i) => (i % 10 === 0 ? (argmax(linear(row)) + 1) % 4 : argmax(linear(row))));
const x = array('float32', [N, 3], pixels);
const float = () => model((row) => ({ logits: tensor([1, 4], linear(row)) }));
const coarse = (row: number[]) => linear(row).map((v) => Math.round(v * 2) / 2);

describe('evaluate', () => {
  it('labels: top-1 of float and variants, with everything beside it, in one pass', async () => {
    const session = float();
    const variants = [
      model((row) => ({ logits: tensor([1, 4], coarse(row)) })),
      null,
      model((row) => ({ logits: tensor([1, 4], linear(row)) })),
    ];
    const set = await dataset({ x, labels: array('int64', [N], labels) }, session);
    const progress: number[] = [];
    const result = await evaluate({
      float: session,
      variants,
      dataset: set,
      metric: null,
      seed: 1,
      onProgress: (done) => progress.push(done),
    });
    await set.close();
    expect(session.runs).toBe(N);
    expect(progress).toHaveLength(N);
    expect(progress.at(-1)).toBe(1);
    expect(result.baseline).toEqual({
      metric: 'top1',
      value: 0.9,
      drop: null,
      agreement: 1,
      sqnrDb: null,
      cosine: null,
      maxError: null,
      samples: N,
      leftOut: 0,
      ci95: wilson(180, N),
      dropStandardError: null,
    });
    const hits = rows.filter((row, i) => argmax(coarse(row).map(Math.fround)) === labels[i]).length;
    const same = rows.filter((row) => argmax(coarse(row)) === argmax(linear(row))).length;
    const reference = rows.flatMap((row) => linear(row).map(Math.fround));
    const got = rows.flatMap((row) => coarse(row).map(Math.fround));
    const signal = reference.reduce((a, v) => a + v * v, 0);
    const noise = reference.reduce((a, v, i) => a + (v - got[i]!) ** 2, 0);
    const dot = reference.reduce((a, v, i) => a + v * got[i]!, 0);
    const first = result.variants[0]!;
    expect(first).toMatchObject({ finite: true, error: null });
    expect(first.evaluation).toEqual({
      metric: 'top1',
      value: hits / N,
      drop: expect.closeTo(0.9 - hits / N, 12),
      agreement: same / N,
      sqnrDb: expect.closeTo(10 * Math.log10(signal / noise), 9),
      cosine: expect.closeTo(dot / Math.sqrt(signal * got.reduce((a, v) => a + v * v, 0)), 9),
      maxError: expect.closeTo(Math.max(...reference.map((v, i) => Math.abs(v - got[i]!))), 9),
      samples: N,
      leftOut: 0,
      ci95: wilson(hits, N),
      dropStandardError: expect.any(Number),
    });
    expect(same).toBeLessThan(N);
    expect(result.variants[1]).toBeNull();
    expect(result.variants[2]!.evaluation).toMatchObject({ value: 0.9, drop: 0, agreement: 1, sqnrDb: 60, dropStandardError: 0 });
  });

  it('without labels: agreement, each sample counted once', async () => {
    const session = float();
    const set = await dataset({ x }, session);
    const { baseline, variants } = await evaluate({
      float: session,
      variants: [model((row) => ({ logits: tensor([1, 4], coarse(row)) }))],
      dataset: set,
      metric: null,
      seed: 1,
    });
    const same = rows.filter((row) => argmax(coarse(row)) === argmax(linear(row))).length;
    expect(baseline).toMatchObject({ metric: 'agreement', value: 1, ci95: [1, 1] });
    expect(variants[0]!.evaluation).toMatchObject({
      metric: 'agreement',
      value: same / N,
      agreement: same / N,
      drop: 1 - same / N,
      ci95: wilson(same, N),
    });
  });

  it('no classes: SQNR; classes only in another output: metric.output names it', async () => {
    const two = (row: number[], f: (v: number) => number) => ({
      image: tensor([1, 1, 3], row.map(f)),
      logits: tensor([1, 4], linear(row).map(f)),
    });
    const session = model((row) => two(row, (v) => v));
    const variant = model((row) => two(row, (v) => v * 0.9));
    const set = await dataset({ x }, session);
    const run = (metric: Parameters<typeof evaluate>[0]['metric']) =>
      evaluate({ float: session, variants: [variant], dataset: set, metric, seed: 1 });
    const image = await run(null);
    expect(image.baseline).toMatchObject({ metric: 'sqnr', value: 60, drop: null, agreement: null });
    expect(image.variants[0]!.evaluation).toMatchObject({
      metric: 'sqnr',
      value: expect.closeTo(20, 5),
      drop: expect.closeTo(40, 5),
      agreement: null,
      sqnrDb: expect.closeTo(20, 5),
    });
    expect((await run({ name: 'agreement', output: 'logits' })).variants[0]!.evaluation).toMatchObject({ metric: 'agreement', value: 1 });
    await expect(run({ name: 'agreement' })).rejects.toMatchObject({ code: 'metric-unsuitable' });
    await expect(run({ name: 'top1', output: 'logits' })).rejects.toMatchObject({ code: 'metric-unsuitable' });
    await expect(run({ name: 'sqnr', output: 'nothing' })).rejects.toMatchObject({
      code: 'output-unknown',
      detail: expect.stringContaining("'image', 'logits'"),
    });
  });

  it('sequences: exact ones, with the character error rate beside them', async () => {
    // Steps decided by the sign of each value: class 1 or 2, blank where it is small.
    const steps = (row: number[], shift: number) =>
      row.flatMap((v) => (Math.abs(v) < 0.3 ? [1, 0, 0] : v + shift > 0 ? [0, 1, 0] : [0, 0, 1]));
    const session = model((row) => ({ text: tensor([1, 3, 3], steps(row, 0)) }));
    const decode = (row: number[], shift: number) => {
      const path = row.map((v) => (Math.abs(v) < 0.3 ? 0 : v + shift > 0 ? 1 : 2));
      return path.filter((step, i) => step !== 0 && step !== path[i - 1]);
    };
    const text = rows.flatMap((row) => [...decode(row, 0), -1, -1, -1].slice(0, 3));
    const set = await dataset({ x, labels: array('int64', [N, 3], text) }, session);
    const { baseline, variants } = await evaluate({
      float: session,
      variants: [model((row) => ({ text: tensor([1, 3, 3], steps(row, 0.5)) }))],
      dataset: set,
      metric: null,
      seed: 1,
    });
    const exact = rows.filter((row) => decode(row, 0).join() === decode(row, 0.5).join()).length / N;
    expect(baseline).toMatchObject({ metric: 'ctc', value: 1, cer: 0, agreement: 1 });
    expect(variants[0]!.evaluation).toMatchObject({ metric: 'ctc', value: exact, agreement: exact, cer: expect.any(Number) });
    expect(variants[0]!.evaluation!.cer).toBeGreaterThan(0);
    expect(exact).toBeLessThan(1);
  });

  it('a fixed batch: samples beyond the last whole group are left out and counted', async () => {
    const f = (g: (row: number[]) => number[]) =>
      model(
        (all) => ({
          logits: tensor([all.length / 3, 4], Array.from({ length: all.length / 3 }, (_, i) => g(all.slice(i * 3, i * 3 + 3))).flat()),
        }),
        [{ name: 'x', type: 'float32', dims: [16, 3] }],
      );
    const session = f(linear);
    const set = await dataset({ x, labels: array('int64', [N], labels) }, session);
    const { baseline, variants } = await evaluate({ float: session, variants: [f(coarse)], dataset: set, metric: null, seed: 1 });
    const right = (g: (row: number[]) => number[]) => rows.slice(0, 192).filter((row, i) => argmax(g(row)) === labels[i]).length / 192;
    expect(baseline).toMatchObject({ metric: 'top1', value: right(linear), samples: 192, leftOut: 8 });
    expect(variants[0]!.evaluation).toMatchObject({ value: right(coarse), samples: 192, leftOut: 8 });
  });

  it('a variant that fails, changes its outputs or gives NaN says so, and the others go on', async () => {
    const session = float();
    const set = await dataset({ x }, session);
    let runs = 0;
    const failing = model((row) => {
      if (runs++ > 5) throw new Error('a kernel refuses');
      return { logits: tensor([1, 4], linear(row)) };
    });
    const wider = model(() => ({ logits: tensor([1, 4, 1], [1, 2, 3, 4]) }));
    const other = model(() => ({ other: tensor([1, 4], [1, 2, 3, 4]) }));
    const nan = model((row) => ({ logits: tensor([1, 4], row[0]! > 2 ? [1, Number.NaN, 0, 0] : linear(row)) }));
    const fine = model((row) => ({ logits: tensor([1, 4], linear(row)) }));
    const { variants } = await evaluate({
      float: session,
      variants: [failing, wider, other, nan, fine],
      dataset: set,
      metric: null,
      seed: 1,
    });
    expect(variants.map((variant) => [variant!.error?.code ?? null, variant!.finite, variant!.evaluation !== null])).toEqual([
      ['gate-load', true, false],
      ['gate-io-changed', true, false],
      ['gate-io-changed', true, false],
      ['gate-not-finite', false, false],
      [null, true, true],
    ]);
    expect(variants[0]!.error!.detail).toContain('a kernel refuses');
    expect(variants[3]!.error!.detail).toContain(`sample ${rows.findIndex((row) => row[0]! > 2)}`);
    // What has failed is not run again.
    expect(nan.runs).toBe(rows.findIndex((row) => row[0]! > 2) + 1);
  });

  it('another number of boxes counts as silence, not as a fault of the file', async () => {
    const session = model((row) => ({ boxes: tensor([1, 2, 3], [...row, ...row]) }));
    const set = await dataset({ x }, session);
    const fewer = model((row) => ({ boxes: tensor([1, 1, 3], row) }));
    const { variants } = await evaluate({ float: session, variants: [fewer], dataset: set, metric: null, seed: 1 });
    expect(variants[0]).toMatchObject({ error: null, finite: true, evaluation: { metric: 'sqnr', value: 0 } });
  });

  it('the float model’s own faults end the evaluation', async () => {
    const run = async (session: Session, arrays: Record<string, TestArray> = { x }, signal?: AbortSignal) =>
      evaluate({ float: session, variants: [], dataset: await dataset(arrays, session), metric: null, seed: 1, signal });
    await expect(run(model(() => ({ logits: tensor([1, 2], [Number.POSITIVE_INFINITY, 0]) })))).rejects.toMatchObject({
      code: 'model-not-finite',
      detail: expect.stringContaining('sample 0'),
    });
    let first = true;
    const broken = model(() => {
      if (!first) throw new Error('no such kernel');
      first = false;
      return { logits: tensor([1, 2], [1, 0]) };
    });
    await expect(run(broken)).rejects.toMatchObject({ code: 'model-does-not-run', detail: 'no such kernel' });
    await expect(run(float(), { x, labels: array('int64', [N], [...labels.slice(0, 7), 4, ...labels.slice(8)]) })).rejects.toMatchObject({
      code: 'dataset-labels',
      detail: expect.stringContaining('sample 7'),
    });
    await expect(run(float(), { x }, AbortSignal.abort())).rejects.toMatchObject({ code: 'canceled' });
  });
});

describe('quickCompare', () => {
  it('pools all float outputs, and shows each apart', () => {
    const ids: TensorValue = { type: 'int64', dims: [1], bytes: new Uint8Array(8) };
    const ref = [
      { a: tensor([2], [1, 2]), b: tensor([1], [100]), ids },
      { a: tensor([2], [3, 4]), b: tensor([1], [100]), ids },
    ];
    const got = [
      { a: tensor([2], [1, 1]), b: tensor([1], [100]), ids },
      { a: tensor([2], [3, 4]), b: tensor([1], [101]), ids },
    ];
    const result = quickCompare(ref, got);
    expect(result.sqnrDb).toBeCloseTo(10 * Math.log10((1 + 4 + 9 + 16 + 20000) / 2), 9);
    expect(result.perOutput).toEqual({ a: expect.closeTo(10 * Math.log10(30), 9), b: expect.closeTo(10 * Math.log10(20000), 9) });
    expect(result.finite).toBe(true);
    expect(quickCompare(ref, ref).sqnrDb).toBe(60);
    expect(quickCompare([{ a: tensor([1], [1]) }], [{ a: tensor([1], [Number.NaN]) }])).toEqual({
      sqnrDb: -200,
      perOutput: { a: -200 },
      finite: false,
    });
    expect(() => quickCompare([{ a: tensor([1], [1]) }], [{ a: tensor([2], [1, 2]) }])).toThrow(TypeError);
  });
});
