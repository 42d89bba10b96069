/** Oracle: the values themselves, fetched from ONNX Runtime with every value an output, and added up here. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ObservedStatistics, TensorValue } from '../../../../src/domain/runner.ts';
import { type Attribute, intsAttr } from '../../../../src/onnx/graph.ts';
import type { Model } from '../../../../src/onnx/model.ts';
import { type Observations, observe, rangesBy } from '../../../../src/quant/observe/observe.ts';
import { inFolder, randomFeeds } from '../emit/quantize.ts';
import { asFloats, floats, modelOf, node, normals, run, runner, weight } from '../prepare/graphs.ts';

const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: output, attributes });
const NODES = [
  op('Conv', ['x', 'w', 'b'], 'c', intsAttr('pads', [1, 1, 1, 1])),
  op('Relu', ['c'], 'r'),
  op('GlobalAveragePool', ['r'], 'y'),
];
const CONSTANTS = [weight('w', [5, 3, 3, 3]), weight('b', [5])];
const model = modelOf(NODES, { x: [2, 3, 6, 7] }, ['y'], CONSTANTS);
const everything = modelOf(NODES, { x: [2, 3, 6, 7] }, ['y', 'c', 'r'], CONSTANTS);
const VALUES = ['x', 'c', 'r', 'y'];

const observeRuns = (
  runs: Record<string, TensorValue>[],
  more: Partial<Parameters<typeof observe>[4]> = {},
  held: Record<string, TensorValue>[] = [],
  of: Model = model,
) =>
  inFolder((workDir) =>
    observe(
      runner,
      of,
      VALUES,
      runs,
      {
        threads: 1,
        channelAxes: new Map([
          ['c', 1],
          ['y', -1],
        ]),
        workDir,
        ...more,
      },
      held,
    ),
  );

async function byHand(value: string, feeds: Record<string, TensorValue>[]): Promise<{ all: number[]; runs: number[][]; dims: number[] }> {
  const runs: number[][] = [];
  let dims: number[] = [];
  for (const feed of feeds) {
    const tensor = value === 'x' ? feed.x! : (await run(everything, feed))[value]!;
    dims = tensor.dims;
    runs.push([...asFloats(tensor)]);
  }
  return { all: runs.flat(), runs, dims };
}

describe('observe', () => {
  it('statistics of inputs, inner values and outputs are those of the values', async () => {
    const feeds = randomFeeds(model, 7);
    const { observations } = await observeRuns(feeds);
    expect([...observations.keys()]).toEqual(VALUES);
    for (const value of VALUES) {
      const s = observations.get(value)!;
      const { all, runs, dims } = await byHand(value, feeds);
      expect(s).toMatchObject({ count: all.length, nans: 0, infs: 0, min: Math.min(...all), max: Math.max(...all) });
      const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length;
      expect(s.sum).toBeCloseTo(
        all.reduce((a, b) => a + b, 0),
        2,
      );
      expect(s.meanMin).toBeCloseTo(mean(runs.map((r) => Math.min(...r))), 5);
      expect(s.meanMax).toBeCloseTo(mean(runs.map((r) => Math.max(...r))), 5);
      expect(s.histogram!.counts.reduce((a, b) => a + b, 0)).toBe(all.length);
      const axis = value === 'c' ? 1 : value === 'y' ? dims.length - 1 : null;
      if (axis === null) {
        expect(s.channels).toBeNull();
        continue;
      }
      const [length, inner] = [dims[axis]!, dims.slice(axis + 1).reduce((a, b) => a * b, 1)];
      for (let c = 0; c < length; c++) {
        const own = all.filter((_, i) => Math.floor(i / inner) % length === c);
        expect(s.channels!.mean[c]).toBeCloseTo(mean(own), 4);
        expect([s.channels!.min[c], s.channels!.max[c]]).toEqual([Math.min(...own), Math.max(...own)]);
      }
    }
  });
  it('are the same bits with one thread and with two', async () => {
    const feeds = randomFeeds(model, 9);
    const [one, two] = [await observeRuns(feeds, { threads: 1 }), await observeRuns(feeds, { threads: 2 })];
    expect([...two.observations]).toEqual([...one.observations]);
  });
  it('a value with many elements counts some of them, its extremes are still of all', async () => {
    const feeds = randomFeeds(model, 3);
    const { observations } = await observeRuns(feeds, { elements: () => 4e6 });
    const all = (await byHand('c', feeds)).all;
    const s = observations.get('c')!;
    expect(s.histogram!.counts.reduce((a, b) => a + b, 0)).toBeLessThan(all.length / 3);
    expect([s.min, s.max, s.count]).toEqual([Math.min(...all), Math.max(...all), all.length]);
  });
  it('held-back runs are not observed; what comes back are the float model’s outputs for them', async () => {
    const feeds = randomFeeds(model, 3);
    const held = randomFeeds(model, 2, { seed: 900, scale: 50 });
    const { observations, reference } = await observeRuns(feeds, {}, held);
    expect([...observations]).toEqual([...(await observeRuns(feeds)).observations]);
    for (const [i, feed] of held.entries()) {
      expect(Object.keys(reference[i]!)).toEqual(['y']);
      expect(Buffer.from(reference[i]!.y!.bytes)).toEqual(Buffer.from((await run(everything, feed)).y!.bytes));
    }
  });
  it('NaN and infinities are counted', async () => {
    const feeds = randomFeeds(model, 2);
    const x = asFloats(feeds[1]!.x!);
    x[0] = Number.NaN;
    x[5] = Number.POSITIVE_INFINITY;
    feeds[1]!.x = floats(x, [2, 3, 6, 7]);
    const { observations } = await observeRuns(feeds);
    expect(observations.get('x')).toMatchObject({ nans: 1, infs: 1 });
    expect(observations.get('c')!.nans + observations.get('c')!.infs).toBeGreaterThan(0);
    expect(Number.isFinite(observations.get('x')!.max)).toBe(true);
  });
  it('reports each run, and reads them one after the other', async () => {
    const done: number[] = [];
    let taken = 0;
    function* runs() {
      for (const feed of randomFeeds(model, 10)) {
        taken++;
        yield feed;
        // A stream: never more than the lanes ahead of what is done.
        expect(taken - done.length).toBeLessThanOrEqual(5);
      }
    }
    await inFolder((workDir) =>
      observe(runner, model, VALUES, runs(), { threads: 2, channelAxes: new Map(), workDir, onRun: (n) => done.push(n) }),
    );
    expect(done).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  });
  it('ends when told to, and when a run fails', async () => {
    const controller = new AbortController();
    const ended = observeRuns(randomFeeds(model, 20), {
      signal: controller.signal,
      onRun: (n) => n === 3 && controller.abort(new Error('enough')),
    });
    await expect(ended).rejects.toThrow('enough');
    const feeds = randomFeeds(model, 4);
    feeds[2] = { x: floats(normals(5, 1), [5]) };
    await expect(observeRuns(feeds)).rejects.toThrow(/shape|rank|dim/i);
  });
  it('without runs there is nothing', async () => {
    const { observations } = await observeRuns([]);
    expect([...observations.values()].every((s) => s.count === 0)).toBe(true);
    expect(rangesBy('auto', observations).size).toBe(0);
  });
});

/** Observations of one value, as the engine's observer makes them. */
async function observed(x: ArrayLike<number>): Promise<Observations> {
  const identity = modelOf([op('Neg', ['x'], 'y')], { x: [x.length] }, ['y']);
  const { observations } = await inFolder((workDir) =>
    observe(runner, identity, ['x'], [{ x: floats(x, [x.length]) }], { threads: 1, channelAxes: new Map(), workDir }),
  );
  return observations;
}
const RULES = ['minmax', 'percentile', 'entropy', 'mse', 'auto'] as const;

describe('rangesBy', () => {
  it('contain zero and lie within what was seen', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 1, maxLength: 200 }),
        fc.constantFrom(...RULES),
        async (x, rule) => {
          const range = rangesBy(rule, await observed(x)).get('x')!;
          expect(range.min).toBeLessThanOrEqual(0);
          expect(range.max).toBeGreaterThanOrEqual(0);
          expect(range.min).toBeGreaterThanOrEqual(Math.min(0, ...x));
          expect(range.max).toBeLessThanOrEqual(Math.max(0, ...x));
        },
      ),
      { numRuns: 60 },
    );
  });
  it('minmax is minimum and maximum', async () => {
    expect(rangesBy('minmax', await observed([3, 4, 5])).get('x')).toEqual({ min: 0, max: 5 });
    expect(rangesBy('minmax', await observed([-3, 4])).get('x')).toEqual({ min: -3, max: 4 });
  });
  it('percentile and entropy cut a lone outlier off, and nothing much where there is none', async () => {
    const x = normals(20_000, 5);
    const spike = Float32Array.from(x);
    spike[7] = 100;
    const [plain, spiked] = [await observed(x), await observed(spike)];
    for (const rule of ['percentile', 'entropy'] as const) {
      expect(rangesBy(rule, spiked).get('x')!.max).toBeLessThan(30);
    }
    for (const rule of RULES) expect(rangesBy(rule, plain).get('x')!.max).toBeGreaterThan(2);
  });
  it('mse leaves no more squared error than minmax does', async () => {
    const error = (x: Float32Array, { min, max }: { min: number; max: number }) => {
      const scale = (max - min) / 255;
      return x.reduce((sum, v) => sum + (v - Math.min(max, Math.max(min, Math.round((v - min) / scale) * scale + min))) ** 2, 0);
    };
    for (const seed of [1, 2, 3]) {
      const x = normals(5000, seed);
      for (let i = 0; i < 5; i++) x[i * 100] = 12 + seed;
      const seen = await observed(x);
      expect(error(x, rangesBy('mse', seen).get('x')!)).toBeLessThanOrEqual(1.02 * error(x, rangesBy('minmax', seen).get('x')!));
    }
  });
  it('a value without a finite element has no range that anything hangs on', () => {
    const empty: ObservedStatistics = {
      count: 3,
      nans: 3,
      infs: 0,
      min: Infinity,
      max: -Infinity,
      meanMin: NaN,
      meanMax: NaN,
      sum: 0,
      sumSquares: 0,
      histogram: null,
      channels: null,
    };
    for (const rule of RULES) {
      const { min, max } = rangesBy(rule, new Map([['x', empty]])).get('x')!;
      expect([min, max].every((v) => !Number.isNaN(v))).toBe(true);
    }
  });
});
