/** The statistics of latency figures: order statistics only, since run times have long tails and no distribution to assume. */
import type { Interval, LatencySummary } from '../domain/job.ts';

/** The median; of an even number of values the mean of the middle two. NaN of none. */
export function median(values: ArrayLike<number>): number {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Percentiles by nearest rank: each is a time that was measured. */
export function summarize(ms: ArrayLike<number>): LatencySummary {
  const sorted = Float64Array.from(ms).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))]!;
  return {
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    mean: sorted.reduce((sum, value) => sum + value, 0) / sorted.length,
    min: sorted[0]!,
    samples: sorted.length,
  };
}

/**
 * The median and the distribution-free 95% interval of a median: the k-th smallest and k-th largest value, k the largest number
 * for which 2·P(Binomial(n, ½) < k) ≤ 0.05 (David & Nagaraja, Order Statistics, 7.1). Exact for any distribution, no resampling,
 * no seed. Under six values it is the whole range, which then covers less than 95%: 94% for five, 88% for four.
 */
export function medianInterval(values: ArrayLike<number>): Interval {
  const sorted = Float64Array.from(values).sort();
  const n = sorted.length;
  let k = 0;
  let term = 0.5 ** n; // P(Binomial = k)
  for (let below = term; 2 * below <= 0.05 && k < n / 2; below += term) {
    k += 1;
    term *= (n - k + 1) / k;
  }
  k = Math.max(1, k);
  return { value: median(sorted), ci95: [sorted[k - 1]!, sorted[n - k]!] };
}
