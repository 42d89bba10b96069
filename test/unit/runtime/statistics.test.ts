import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { median, medianInterval, summarize } from '../../../src/runtime/statistics.ts';

const values = fc.array(fc.double({ min: 1e-4, max: 1e4, noNaN: true }), { minLength: 1, maxLength: 60 });

describe('medianInterval', () => {
  // Ranks of the 95% interval of a median, as tables of order statistics give them (e.g. Conover, Practical Nonparametric Statistics).
  it.each([
    [6, 1],
    [8, 1],
    [9, 2],
    [10, 2],
    [12, 3],
    [15, 4],
    [20, 6],
    [25, 8],
    [30, 10],
    [50, 18],
    [100, 40],
  ])('of %i values is from the %i-th smallest to the same from the top', (n, k) => {
    const shuffled = Array.from({ length: n }, (_, i) => ((i * 7919) % n) + 1);
    expect(medianInterval(shuffled).ci95).toEqual([k, n + 1 - k]);
  });
  it('is the whole range under six values', () => {
    for (let n = 1; n < 6; n++) expect(medianInterval(Array.from({ length: n }, (_, i) => i)).ci95).toEqual([0, n - 1]);
  });
  it('holds the median, whatever the values', () => {
    fc.assert(
      fc.property(values, (list) => {
        const { value, ci95 } = medianInterval(list);
        expect(value).toBe(median(list));
        expect(ci95[0]).toBeLessThanOrEqual(value);
        expect(ci95[1]).toBeGreaterThanOrEqual(value);
        expect(list).toContain(ci95[0]);
        expect(list).toContain(ci95[1]);
      }),
    );
  });
});

describe('summarize', () => {
  it('gives percentiles that were measured, in order', () => {
    fc.assert(
      fc.property(values, (list) => {
        const { p50, p90, p99, mean, min, samples } = summarize(list);
        for (const value of [p50, p90, p99, min]) expect(list).toContain(value);
        expect(min).toBe(Math.min(...list));
        expect([min, p50, p90, p99]).toEqual([min, p50, p90, p99].sort((a, b) => a - b));
        expect(list.filter((value) => value <= p90).length).toBeGreaterThanOrEqual(0.9 * list.length);
        expect(mean).toBeCloseTo(list.reduce((a, b) => a + b, 0) / list.length, 6);
        expect(samples).toBe(list.length);
      }),
    );
  });
  it('takes the nearest rank', () => {
    expect(summarize(Array.from({ length: 100 }, (_, i) => 100 - i))).toEqual({
      p50: 50,
      p90: 90,
      p99: 99,
      mean: 50.5,
      min: 1,
      samples: 100,
    });
  });
});
