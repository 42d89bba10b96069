import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { type ObservedStatistics, Observer, type ObserverOptions, range, reference, setSimd, simd } from '../../../native/index.ts';

const levels = simd === 'avx2' ? (['avx2', 'scalar'] as const) : (['scalar'] as const);
afterEach(() => setSimd('auto'));

/** Ordinary values mostly, with every kind that has gone wrong in a vector loop. */
const value = fc.oneof(
  { weight: 8, arbitrary: fc.float({ noNaN: true, min: -1000, max: 1000 }) },
  { weight: 2, arbitrary: fc.float() },
  { weight: 1, arbitrary: fc.constantFrom(0, -0, 1e-45, -1e-45, 1.17e-38, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY) },
);
/** [outer, channels, inner] with its data. */
const run = (channels: number, inner: number) =>
  fc
    .integer({ min: 1, max: 4 })
    .chain((outer) =>
      fc
        .array(value, { minLength: outer * channels * inner, maxLength: outer * channels * inner })
        .map((data) => ({ x: new Float32Array(data), dims: [outer, channels, inner] })),
    );

async function observed(
  options: ObserverOptions,
  runs: { x: Float32Array; dims: number[] }[],
  level: 'avx2' | 'scalar',
): Promise<ObservedStatistics> {
  setSimd(level);
  const observer = new Observer(options);
  for (const { x, dims } of runs) await observer.observe(x, dims);
  return observer.result();
}

/** Sums may differ by their order: by 1e-12 of the sum of magnitudes. Everything else is exact. */
function expectSame(actual: ObservedStatistics, expected: ObservedStatistics, magnitude: number): void {
  for (const name of ['count', 'nans', 'infs', 'min', 'max'] as const) expect(actual[name], name).toBe(expected[name]);
  for (const name of ['meanMin', 'meanMax', 'sum'] as const)
    if (Number.isNaN(expected[name])) expect(actual[name], name).toBeNaN();
    else expect(Math.abs(actual[name] - expected[name]), name).toBeLessThanOrEqual(1e-12 * magnitude);
  expect(Math.abs(actual.sumSquares - expected.sumSquares)).toBeLessThanOrEqual(1e-12 * expected.sumSquares);
  expect(actual.histogram).toEqual(expected.histogram);
  expect(actual.channels === null).toBe(expected.channels === null);
  if (!actual.channels || !expected.channels) return;
  expect(actual.channels.min).toEqual(expected.channels.min);
  expect(actual.channels.max).toEqual(expected.channels.max);
  actual.channels.mean.forEach((mean, c) => {
    const other = expected.channels!.mean[c]!;
    if (Number.isNaN(other)) expect(mean).toBeNaN();
    else expect(Math.abs(mean - other)).toBeLessThanOrEqual(1e-12 * magnitude);
  });
}
const magnitudeOf = (runs: { x: Float32Array }[]) =>
  runs.reduce((sum, { x }) => x.reduce((s, v) => (Number.isFinite(v) ? s + Math.abs(v) : s), sum), 0);

describe('Observer', () => {
  it('agrees with the reference on any runs, and scalar with vector to the bit', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          bins: fc.constantFrom(0, 16, 256, 2048),
          channelAxis: fc.constantFrom(undefined, 0, 1, 2, -1, -3),
          histogramStride: fc.constantFrom(1, 1, 3, 17),
          runs: fc
            .tuple(fc.integer({ min: 1, max: 40 }), fc.constantFrom(1, 2, 5, 16, 49))
            .chain(([channels, inner]) => fc.array(run(channels, inner), { minLength: 1, maxLength: 4 })),
        }),
        async ({ bins, channelAxis, histogramStride, runs }) => {
          // Axis 0 counts the samples, which differ from run to run.
          if (channelAxis === 0 || channelAxis === -3) runs.splice(1);
          const options = { bins, channelAxis, histogramStride };
          const oracle = new reference.Observer(options);
          for (const { x, dims } of runs) oracle.observe(x, dims);
          const results: ObservedStatistics[] = [];
          for (const level of levels) results.push(await observed(options, runs, level));
          expectSame(results[0]!, oracle.result(), magnitudeOf(runs));
          // Shared out to two observers and put together again.
          const [even, odd] = [new Observer(options), new Observer(options)];
          for (const [i, { x, dims }] of runs.entries()) await (i % 2 ? odd : even).observe(x, dims);
          even.merge(odd);
          expectSame(even.result(), oracle.result(), magnitudeOf(runs));
          for (const other of results.slice(1)) expect(other).toStrictEqual(results[0]);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('agrees on tensors of many blocks, whichever way the channels lie', async () => {
    const x = new Float32Array(2 * 64 * 15 * 15);
    let seed = 1;
    for (let i = 0; i < x.length; i++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
      x[i] = (seed / 2 ** 31) * (1 + i / 1000);
    }
    const withHoles = x.slice();
    for (let i = 0; i < x.length; i += 997) withHoles[i] = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY][i % 3]!;
    for (const data of [x, withHoles])
      for (const [dims, channelAxis] of [
        [[2, 64, 15, 15], 1],
        [[2, 15, 15, 64], -1],
        [[2, 64, 225], undefined],
        [[1, 2 * 64 * 225], 1],
      ] as const) {
        const runs = [
          { x: data, dims: [...dims] },
          { x: data.map((v) => v * 3), dims: [...dims] },
        ];
        const options = { bins: 2048, channelAxis, histogramStride: data === x ? 1 : 5 };
        const oracle = new reference.Observer(options);
        for (const r of runs) oracle.observe(r.x, r.dims);
        const results: ObservedStatistics[] = [];
        for (const level of levels) results.push(await observed(options, runs, level));
        expectSame(results[0]!, oracle.result(), magnitudeOf(runs));
        for (const other of results.slice(1)) expect(other).toStrictEqual(results[0]);
      }
  });

  it('comes to the same histogram in whatever order the runs arrive', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(run(3, 5), { minLength: 2, maxLength: 6 }), async (runs) => {
        const [forwards, backwards] = [
          await observed({ bins: 64 }, runs, levels[0]),
          await observed({ bins: 64 }, runs.toReversed(), levels[0]),
        ];
        expect(backwards.histogram).toEqual(forwards.histogram);
        expect([backwards.min, backwards.max, backwards.count]).toEqual([forwards.min, forwards.max, forwards.count]);
      }),
      { numRuns: 60 },
    );
  });

  it('adds runs in the order of the calls, also when nobody waits for one before the next', async () => {
    const chunks = Array.from({ length: 20 }, (_, i) => new Float32Array(1000 + i).fill(0.1 * (i + 1)));
    const [one, other] = [new Observer({ bins: 16 }), new Observer({ bins: 16 })];
    await Promise.all(chunks.map((x) => one.observe(x, [x.length])));
    for (const x of chunks) await other.observe(x, [x.length]);
    expect(one.result()).toStrictEqual(other.result());
  });

  it('refuses runs that do not fit and stays as it was', async () => {
    const observer = new Observer({ bins: 16, channelAxis: 1 });
    await observer.observe(new Float32Array(6).fill(1), [2, 3]);
    const before = observer.result();
    await expect(observer.observe(new Float32Array(6), [2, 4])).rejects.toThrow('the dims give 8 elements, the data has 6');
    await expect(observer.observe(new Float32Array(6), [3, 2])).rejects.toThrow('2 channels, the first run had 3');
    await expect(observer.observe(new Float32Array(6), [6])).rejects.toThrow('channel axis 1 is outside a tensor of rank 1');
    await expect(observer.observe(new Float32Array(6), [-2, -3])).rejects.toThrow(RangeError);
    await expect(observer.observe([1] as unknown as Float32Array, [1])).rejects.toThrow(TypeError);
    const failure = await observer.observe(new Float32Array(6), [6]).catch((error: Error) => error);
    expect((failure as Error).stack).toContain('observer.test.ts');
    expect(observer.result()).toStrictEqual(before);
    await observer.observe(new Float32Array(0), [0, 3]);
    await observer.observe(new Float32Array(3).fill(2), [1, 3]);
    expect(observer.result().count).toBe(9);
    for (const bins of [-1, 8, 100, 2 ** 17, 16.5]) expect(() => new Observer({ bins })).toThrow(RangeError);
    expect(() => new Observer({ bins: 16, histogramStride: 0 })).toThrow(RangeError);
    expect(() => new Observer({ bins: 16, channelAxis: 0.5 })).toThrow(RangeError);
  });

  it('has no histogram and infinite extremes while nothing finite was seen', async () => {
    const observer = new Observer({ bins: 16 });
    expect(observer.result()).toMatchObject({
      count: 0,
      min: Number.POSITIVE_INFINITY,
      max: Number.NEGATIVE_INFINITY,
      histogram: null,
      channels: null,
    });
    await observer.observe(Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY), [2]);
    expect(observer.result()).toMatchObject({
      count: 2,
      nans: 1,
      infs: 1,
      min: Number.POSITIVE_INFINITY,
      meanMin: Number.NaN,
      histogram: null,
    });
  });
});

describe('range', () => {
  it('agrees with the reference', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(value, { maxLength: 200 }), async (data) => {
        const x = new Float32Array(data);
        for (const level of levels) {
          setSimd(level);
          expect(await range(x)).toEqual(reference.range(x));
        }
      }),
    );
  });
});
