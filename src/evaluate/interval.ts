/** 95% confidence intervals of figures that come from samples. */
import { seededRandom } from './random.ts';

/** The standard normal's 97.5% quantile. */
const Z = 1.959963984540054;

/**
 * Wilson's score interval for `hits` of `n` (Wilson 1927; Brown, Cai & DasGupta 2001 recommend it for all but the largest n):
 * unlike the textbook interval it stays within 0..1 and says something at 0 and n hits.
 */
export function wilson(hits: number, n: number): [number, number] {
  if (n === 0) return [0, 1];
  const p = hits / n;
  const scale = 1 + (Z * Z) / n;
  const centre = (p + (Z * Z) / (2 * n)) / scale;
  const half = (Z / scale) * Math.sqrt((p * (1 - p)) / n + (Z * Z) / (4 * n * n));
  // At the ends the closed form is exactly 0 and 1; rounding would leave 1e-17 beside it.
  return [hits === 0 ? 0 : centre - half, hits === n ? 1 : centre + half];
}

/** Resampled values that a bootstrap costs at most: some tenths of a second. */
const BOOTSTRAP_WORK = 20_000_000;

/**
 * Percentile bootstrap (Efron 1979) of a figure that is a function of two sums over samples, as every ratio is.
 * @param figure from the sums of `a` and of `b` over a resample
 * @param seed the same seed gives the same interval
 */
export function bootstrapRatio(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  figure: (a: number, b: number) => number,
  seed: number,
): [number, number] {
  const n = a.length;
  if (n < 2) {
    const value = figure(a[0] ?? 0, b[0] ?? 0);
    return [value, value];
  }
  const random = seededRandom(seed);
  const rounds = Math.max(200, Math.min(1000, Math.floor(BOOTSTRAP_WORK / n)));
  const values = new Float64Array(rounds);
  for (let round = 0; round < rounds; round++) {
    let sumA = 0;
    let sumB = 0;
    for (let i = 0; i < n; i++) {
      const pick = Math.floor(random() * n);
      sumA += a[pick]!;
      sumB += b[pick]!;
    }
    values[round] = figure(sumA, sumB);
  }
  values.sort();
  return [values[Math.floor(rounds * 0.025)]!, values[Math.min(rounds - 1, Math.ceil(rounds * 0.975) - 1)]!];
}

/**
 * Standard error of the mean of paired differences, from their sum and their sum of squares; null where there are fewer than two.
 */
export function pairedStandardError(sum: number, sumSquares: number, n: number): number | null {
  if (n < 2) return null;
  return Math.sqrt(Math.max(0, sumSquares - (sum * sum) / n) / (n - 1) / n);
}
