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
          histogramStride: fc.constantFrom(1, 1, 3),
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
        const options = { bins: 2048, channelAxis };
        const oracle = new reference.Observer(options);
        for (const r of runs) oracle.observe(r.x, r.dims);
        const results: ObservedStatistics[] = [];
        for (const level of levels) results.push(await observed(options, runs, level));
        expectSame(results[0]!, oracle.result(), magnitudeOf(runs));
        for (const other of results.slice(1)) expect(other).toStrictEqual(results[0]);
      }
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
