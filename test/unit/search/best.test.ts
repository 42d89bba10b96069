import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Benchmark, Evaluation, VariantResult } from '../../../src/domain/job.ts';
import { chooseBest, qualityProblem } from '../../../src/search/best.ts';

const evaluation = (of: Partial<Evaluation> = {}): Evaluation => ({
  metric: 'top1',
  value: 0.8,
  drop: 0,
  agreement: 1,
  sqnrDb: 40,
  cosine: 1,
  maxError: 0,
  samples: 100,
  leftOut: 0,
  ci95: [0.7, 0.9],
  dropStandardError: 0.01,
  ...of,
});
const benchmark = (speedup: number, of: Partial<Benchmark> = {}): Benchmark => ({
  deviceProfile: 'host',
  latencyMs: { p50: 1, p90: 1, p99: 1, mean: 1, min: 1, samples: 10 },
  speedup: { value: speedup, ci95: [speedup * 0.9, speedup * 1.1] },
  peakRssBytes: 100,
  modelRssBytes: 10,
  loadMs: 1,
  ...of,
});
const variant = (index: number, speedup: number, of: Partial<VariantResult> = {}): VariantResult => ({
  index,
  recipe: { method: 'static' },
  evaluation: evaluation(),
  benchmarks: [benchmark(speedup)],
  kernels: null,
  error: null,
  ...of,
});
const strict = { maxAccuracyDrop: 0.01 };

describe('qualityProblem', () => {
  it.each([
    // with labels the drop decides, whatever else there is
    [{ metric: 'top1', drop: 0.01 }, null],
    [{ metric: 'top1', drop: 0.0101 }, /loses 0.0101 of top1, and 0.01 is allowed/],
    [{ metric: 'top1', drop: -0.3 }, null],
    [{ metric: 'top1', drop: 0, agreement: 0.5, sqnrDb: 3 }, null],
    [{ metric: 'ctc', drop: 0.02 }, /ctc/],
    [{ metric: 'cer', drop: 0.02 }, /cer/],
    [{ metric: 'top5', drop: 0.009 }, null],
    [{ metric: 'top1', drop: Number.NaN }, /loses/],
    // without: agreement where there are classes, else SQNR
    [{ metric: 'agreement', agreement: 0.99 }, null],
    [{ metric: 'agreement', agreement: 0.9899, sqnrDb: 50 }, /agrees with the float model on 98.99%/],
    [{ metric: 'sqnr', agreement: 0.995, sqnrDb: 5 }, null],
    [{ metric: 'sqnr', agreement: null, sqnrDb: 20 }, null],
    [{ metric: 'sqnr', agreement: null, sqnrDb: 19.9 }, /SQNR is 19.9 dB, and 20 are needed/],
    [{ metric: 'sqnr', agreement: null, sqnrDb: null }, /SQNR is 0.0 dB/],
  ] as [Partial<Evaluation>, RegExp | null][])('%j → %s', (of, want) => {
    const problem = qualityProblem(evaluation(of), strict);
    if (want) expect(problem).toMatch(want);
    else expect(problem).toBeNull();
  });
  it('a drop that is allowed up to rounding errors is allowed', () => {
    expect(qualityProblem(evaluation({ drop: 0.83 - 0.82 }), strict)).toBeNull();
  });
});

describe('chooseBest', () => {
  it.each([
    ['the fastest', [variant(0, 1.5), variant(1, 2.5), variant(2, 2)], 1, /variant 1 runs 2.50 times as fast/],
    ['the first of equals', [variant(0, 2), variant(1, 2)], 0, /variant 0/],
    ['one as fast as float', [variant(0, 1)], 0, /1.00 times/],
    ['none that is slower', [variant(0, 0.99)], null, /the float model is the best: variant 0 \(static\): it runs at 0.99/],
    [
      'no fast one that loses too much',
      [variant(0, 3, { evaluation: evaluation({ drop: 0.5 }) }), variant(1, 1.2)],
      1,
      /variant 0 \(static\): it loses 0.5000/,
    ],
    ['none that failed', [variant(0, 3, { error: { code: 'gate-load', detail: 'x' } })], null, /variant 0 \(static\): gate-load/],
    ['none that was not evaluated', [variant(0, 3, { evaluation: null })], null, /was not evaluated/],
    [
      'none that was not measured on the target',
      [variant(0, 3, { benchmarks: [benchmark(3, { deviceProfile: 'phone' })] })],
      null,
      /was not measured on host/,
    ],
    [
      'by the target, not by others',
      [variant(0, 0.5, { benchmarks: [benchmark(0.5), benchmark(9, { deviceProfile: 'phone' })] })],
      null,
      /0.50/,
    ],
    ['none without a figure', [variant(0, Number.NaN)], null, /NaN/],
    ['nothing of nothing', [], null, /no variant was made/],
  ] as [string, VariantResult[], number | null, RegExp][])('takes %s', (_, variants, best, reason) => {
    const chosen = chooseBest(variants, 'host', strict);
    expect(chosen.best).toBe(best);
    expect(chosen.reason).toMatch(reason);
  });
  it('minds the memory that the target has', () => {
    const heavy = variant(0, 3, { benchmarks: [benchmark(3, { peakRssBytes: 500 })] });
    expect(chooseBest([heavy, variant(1, 2)], 'host', { ...strict, memoryLimitBytes: 400 })).toMatchObject({
      best: 1,
      reason: expect.stringMatching(/500 bytes/),
    });
    expect(chooseBest([heavy], 'host', { ...strict, memoryLimitBytes: null }).best).toBe(0);
  });
  it('is never slower than float, never loses more than allowed, and no better one is passed over', () => {
    const some = fc.record({
      speedup: fc.double({ min: 0.2, max: 4, noNaN: true }),
      drop: fc.double({ min: -0.1, max: 0.1, noNaN: true }),
      failed: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(some, { maxLength: 6 }), fc.double({ min: 0, max: 0.1, noNaN: true }), (list, maxAccuracyDrop) => {
        const variants = list.map((v, i) =>
          variant(i, v.speedup, { evaluation: evaluation({ drop: v.drop }), error: v.failed ? { code: 'gate-load', detail: '' } : null }),
        );
        const fit = list.flatMap((v, i) => (!v.failed && v.speedup >= 1 && v.drop <= maxAccuracyDrop + 1e-9 ? [i] : []));
        const { best } = chooseBest(variants, 'host', { maxAccuracyDrop });
        if (!fit.length) expect(best).toBeNull();
        else expect(list[best!]!.speedup).toBe(Math.max(...fit.map((i) => list[i]!.speedup)));
      }),
    );
  });

  it("asks for a margin where other kernels run, and for none where the float model's own do", () => {
    const kernels = (quantized: string[]) => ({ ran: {}, quantized, leftInFloat: [], notes: [] });
    const pick = (speedup: number, quantized: string[]) =>
      chooseBest([variant(0, speedup, { kernels: kernels(quantized) })], 'host', { maxAccuracyDrop: 0.01 }).best;
    expect(pick(1.01, ['conv'])).toBeNull();
    expect(pick(1.02, ['conv'])).toBe(0);
    expect(pick(1, [])).toBe(0);
    expect(pick(0.999, [])).toBeNull();
  });
});
