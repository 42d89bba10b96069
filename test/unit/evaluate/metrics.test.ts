import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ElementType, TensorValue } from '../../../src/domain/runner.ts';
import { bootstrapRatio, pairedStandardError, wilson } from '../../../src/evaluate/interval.ts';
import { editDistance } from '../../../src/evaluate/metrics/cer.ts';
import { classes, hasClasses, sequenceLayout, sequences } from '../../../src/evaluate/metrics/decisions.ts';
import { chooseMetric, METRIC_TABLE } from '../../../src/evaluate/metrics/index.ts';
import type { OutputTraits, RunLabels } from '../../../src/evaluate/metrics/metric.ts';
import { decibels } from '../../../src/evaluate/metrics/sqnr.ts';
import { seededNormal, seededRandom } from '../../../src/evaluate/random.ts';

const bytesOf = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const floats = (dims: number[], values: ArrayLike<number>, type: 'float32' | 'float64' = 'float32'): TensorValue => ({
  type,
  dims,
  bytes: bytesOf(type === 'float32' ? Float32Array.from(values) : Float64Array.from(values)),
});
const int64 = (dims: number[], values: number[]): TensorValue => ({
  type: 'int64',
  dims,
  bytes: bytesOf(BigInt64Array.from(values.map(BigInt))),
});
const traits = (dims: number[], more: Partial<OutputTraits> = {}): OutputTraits => ({
  name: 'out',
  type: 'float32',
  dims,
  batch: dims[0] ?? 1,
  inputShapes: [[3, 8, 8]],
  labels: null,
  labelLength: 1,
  ...more,
});
const classLabels = (...values: number[]): RunLabels => ({ kind: 'class', values: Int32Array.from(values), first: 0 });
const sequenceLabels = (...rows: number[][]): RunLabels => ({ kind: 'sequence', rows: rows.map((row) => Int32Array.from(row)), first: 0 });
const options = (t: OutputTraits, blank = 0) => ({ traits: t, blank, seed: 1 });

describe('intervals', () => {
  // Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3 (score).
  it.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0.0, 0.1611],
    [1, 29, 0.0061, 0.1718],
    [29, 29, 0.883, 1.0],
  ])('Wilson of %i in %i', (hits, n, low, high) => {
    const [a, b] = wilson(hits, n);
    expect(a).toBeCloseTo(low, 4);
    expect(b).toBeCloseTo(high, 4);
  });

  it('Wilson holds p and mirrors', () => {
    fc.assert(
      fc.property(fc.nat(500), fc.integer({ min: 1, max: 500 }), (k, n) => {
        const hits = Math.min(k, n);
        const [low, high] = wilson(hits, n);
        const [mirrored, top] = wilson(n - hits, n);
        expect(low).toBeGreaterThanOrEqual(0);
        expect(high).toBeLessThanOrEqual(1);
        expect(low).toBeLessThanOrEqual(hits / n);
        expect(high).toBeGreaterThanOrEqual(hits / n);
        expect(low).toBeCloseTo(1 - top, 12);
        expect(high).toBeCloseTo(1 - mirrored, 12);
      }),
    );
    expect(wilson(0, 0)).toEqual([0, 1]);
  });

  it('the bootstrap of a mean comes to the normal interval, and the seed decides it', () => {
    const normal = seededNormal(3);
    const values = Float64Array.from({ length: 2000 }, () => 5 + 2 * normal());
    const ones = new Float64Array(2000).fill(1);
    const mean = values.reduce((a, b) => a + b, 0) / 2000;
    const half = (1.96 * 2) / Math.sqrt(2000);
    const [low, high] = bootstrapRatio(values, ones, (a, b) => a / b, 1);
    expect(Math.abs(low - (mean - half))).toBeLessThan(half * 0.15);
    expect(Math.abs(high - (mean + half))).toBeLessThan(half * 0.15);
    expect(bootstrapRatio(values, ones, (a, b) => a / b, 1)).toEqual([low, high]);
    expect(bootstrapRatio([3], [4], (a, b) => a / b, 1)).toEqual([0.75, 0.75]);
  });

  it('paired standard error is that of the mean difference', () => {
    const d = [1, 0, 0, -1, 1, 0, 1, 0];
    const mean = d.reduce((a, b) => a + b, 0) / d.length;
    const expected = Math.sqrt(d.reduce((a, b) => a + (b - mean) ** 2, 0) / (d.length - 1) / d.length);
    expect(pairedStandardError(2, 4, 8)).toBeCloseTo(expected, 12);
    expect(pairedStandardError(0, 0, 1)).toBeNull();
  });
});

describe('seeded numbers', () => {
  it('are uniform, and the same on every run', () => {
    const random = seededRandom(42);
    const bins = new Array(16).fill(0);
    for (let i = 0; i < 16000; i++) bins[Math.floor(random() * 16)]++;
    for (const bin of bins) expect(Math.abs(bin - 1000)).toBeLessThan(150);
    const again = seededRandom(42);
    // Written down once: another sequence would change every artifact that was made with a seed.
    expect([again(), again(), again()].map((x) => Math.floor(x * 2 ** 32))).toMatchInlineSnapshot(`
      [
        660444221,
        3652823732,
        77672526,
      ]
    `);
  });
});

describe('classes', () => {
  it('what has them', () => {
    expect(hasClasses(traits([1, 10]))).toBe(true);
    expect(hasClasses(traits([1, 10, 1, 1]))).toBe(true);
    expect(hasClasses(traits([1, 1]))).toBe(false);
    expect(hasClasses(traits([1, 40, 10]))).toBe(false);
    expect(hasClasses(traits([10]))).toBe(false);
    expect(hasClasses(traits([1, 10], { type: 'int64' }))).toBe(false);
    expect(hasClasses(traits([1, 640], { inputShapes: [[640]] }))).toBe(false);
    expect(hasClasses(traits([1, 640, 1], { inputShapes: [[640, 1]] }))).toBe(false);
    expect(hasClasses(traits([1, 640], { inputShapes: [[64]] }))).toBe(true);
  });

  it('argmax takes the first of the largest, one column is a probability', () => {
    expect([...classes(floats([3, 3], [1, 2, 2, -1, -2, -3, 0, 0, 0]), 3)]).toEqual([1, 0, 0]);
    expect([...classes(floats([4, 1], [0.5, 0.51, 0, 1]), 4)]).toEqual([0, 1, 0, 1]);
    expect([...classes(floats([4], [0.5, 0.51, 0, 1]), 4)]).toEqual([0, 1, 0, 1]);
    expect([...classes(floats([3], [0.1, 0.3, 0.2]), 1)]).toEqual([1]);
    expect([...classes(floats([2, 2, 1], [0, 1, 1, 0], 'float64'), 2)]).toEqual([1, 0]);
    const half: TensorValue = { type: 'float16', dims: [1, 3], bytes: bytesOf(Uint16Array.of(0xbc00, 0x3c00, 0x0001)) };
    expect([...classes(half, 1)]).toEqual([1]);
  });
});

describe('top1 and top5', () => {
  it('property: as counted by brute force', () => {
    const sample = fc.record({
      ref: fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 7, maxLength: 7 }),
      got: fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 7, maxLength: 7 }),
      label: fc.nat(6),
    });
    const ranked = (row: number[]) =>
      row
        .map((value, i) => ({ value, i }))
        .sort((a, b) => b.value - a.value || a.i - b.i)
        .map(({ i }) => i);
    fc.assert(
      fc.property(fc.array(sample, { minLength: 2, maxLength: 30 }), (samples) => {
        for (const [name, k] of [
          ['top1', 1],
          ['top5', 5],
        ] as const) {
          const accumulator = METRIC_TABLE[name].start(options(traits([1, 7], { labels: 'class' })));
          for (const { ref, got, label } of samples) accumulator.update(floats([1, 7], ref), floats([1, 7], got), classLabels(label));
          const hits = (key: 'ref' | 'got') => samples.filter((s) => ranked(s[key]).slice(0, k).includes(s.label)).length;
          const n = samples.length;
          const result = accumulator.result();
          expect(result.value).toBe(hits('got') / n);
          expect(result.floatValue).toBe(hits('ref') / n);
          expect(result.drop).toBeCloseTo((hits('ref') - hits('got')) / n, 12);
          expect(result.ci95).toEqual(wilson(hits('got'), n));
          expect(result.samples).toBe(n);
          const d = samples.map(
            (s) => Number(ranked(s.ref).slice(0, k).includes(s.label)) - Number(ranked(s.got).slice(0, k).includes(s.label)),
          );
          const mean = d.reduce((a, b) => a + b, 0) / n;
          expect(result.dropStandardError).toBeCloseTo(Math.sqrt(d.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1) / n), 12);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('integers are classes already, [samples, 1] labels are classes, batches count by sample', () => {
    const t = traits([3], { type: 'int64', labels: 'class' });
    expect(METRIC_TABLE.top1.needs(t)).toBeNull();
    const accumulator = METRIC_TABLE.top1.start(options(t));
    accumulator.update(int64([3], [1, 2, 3]), int64([3], [1, 2, 4]), classLabels(1, 0, 3));
    expect(accumulator.result()).toMatchObject({ value: 1 / 3, floatValue: 2 / 3, samples: 3 });
    const column = traits([2, 4], { labels: 'sequence', labelLength: 1 });
    expect(chooseMetric(null, column).name).toBe('top1');
    const second = METRIC_TABLE.top1.start(options(column));
    second.update(floats([2, 4], [0, 1, 0, 0, 1, 0, 0, 0]), floats([2, 4], [0, 1, 0, 0, 0, 1, 0, 0]), sequenceLabels([1], [0]));
    expect(second.result()).toMatchObject({ value: 0.5, floatValue: 1 });
  });

  it('refuses labels that the output has no class for', () => {
    const accumulator = METRIC_TABLE.top1.start(options(traits([1, 4], { labels: 'class' })));
    const update = (label: number) => () =>
      accumulator.update(floats([1, 4], [0, 0, 0, 1]), floats([1, 4], [0, 0, 0, 1]), {
        kind: 'class',
        values: Int32Array.of(label),
        first: 17,
      });
    expect(update(3)).not.toThrow();
    expect(update(4)).toThrow(
      expect.objectContaining({ code: 'dataset-labels', detail: expect.stringContaining('sample 17 has the label 4') }),
    );
  });
});

describe('ctc and cer', () => {
  /** One-hot steps for a path of classes. */
  const path = (steps: number[], width = 5) => steps.flatMap((step) => Array.from({ length: width }, (_, i) => Number(i === step)));

  it('greedy decoding merges repeats and drops the blank', () => {
    const decode = (steps: number[], blank = 0) => [...sequences(floats([1, steps.length, 5], path(steps)), 1, blank)[0]!];
    expect(decode([0, 1, 1, 0, 1, 2, 2, 3, 0])).toEqual([1, 1, 2, 3]);
    expect(decode([0, 0, 0])).toEqual([]);
    expect(decode([4, 1, 4, 1, 4], 4)).toEqual([1, 1]);
    expect(decode([4, 1, 4, 1, 4])).toEqual([4, 1, 4, 1, 4]);
  });

  it('reads [batch, steps, classes], leading ones, and [steps, batch, classes]', () => {
    expect(sequenceLayout([2, 7, 5], 2)).toEqual({ steps: 7, width: 5, timeMajor: false });
    expect(sequenceLayout([1, 1, 7, 5], 1)).toEqual({ steps: 7, width: 5, timeMajor: false });
    expect(sequenceLayout([7, 2, 5], 2)).toEqual({ steps: 7, width: 5, timeMajor: true });
    expect(sequenceLayout([2, 5], 2)).toBeNull();
    expect(sequenceLayout([2, 5, 1], 2)).toBeNull();
    const first = [1, 0, 2];
    const second = [3, 3, 3];
    const major = floats(
      [3, 2, 5],
      [0, 1, 2].flatMap((t) => [...path([first[t]!]), ...path([second[t]!])]),
    );
    expect(sequences(major, 2, 0).map((s) => [...s])).toEqual([[1, 2], [3]]);
  });

  it('property: decoding equals the definition written out', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(4), { minLength: 1, maxLength: 30 }), fc.nat(4), (steps, blank) => {
        const expected = steps.filter((step, i) => step !== blank && (i === 0 || steps[i - 1] !== step));
        expect([...sequences(floats([1, steps.length, 5], path(steps)), 1, blank)[0]!]).toEqual(expected);
      }),
    );
  });

  it('edit distance: known pairs and the metric’s laws', () => {
    const codes = (word: string) => Array.from(word, (c) => c.charCodeAt(0));
    expect(editDistance(codes('kitten'), codes('sitting'))).toBe(3);
    expect(editDistance(codes('saturday'), codes('sunday'))).toBe(3);
    expect(editDistance([], [1, 2])).toBe(2);
    const word = fc.array(fc.nat(3), { maxLength: 12 });
    fc.assert(
      fc.property(word, word, word, (a, b, c) => {
        expect(editDistance(a, b)).toBe(editDistance(b, a));
        expect(editDistance(a, b) === 0).toBe(a.join() === b.join());
        expect(editDistance(a, c)).toBeLessThanOrEqual(editDistance(a, b) + editDistance(b, c));
      }),
    );
  });

  it('value, drop and intervals', () => {
    const t = traits([1, 4, 5], { labels: 'sequence', labelLength: 4 });
    expect(chooseMetric(null, t).name).toBe('ctc');
    const exact = METRIC_TABLE.ctc.start(options(t));
    const errors = METRIC_TABLE.cer.start(options(t));
    const rows: [number[], number[], number[]][] = [
      [
        [1, 2, 3, 0],
        [1, 2, 3, 0],
        [1, 2, 3],
      ],
      [
        [1, 1, 2, 2],
        [1, 1, 3, 3],
        [1, 2],
      ],
      [
        [0, 4, 0, 4],
        [0, 4, 4, 4],
        [4, 4],
      ],
      [[1, 0, 0, 0], [1, 0, 0, 0], [2]],
    ];
    for (const [reference, got, label] of rows)
      for (const metric of [exact, errors])
        metric.update(floats([1, 4, 5], path(reference)), floats([1, 4, 5], path(got)), sequenceLabels(label));
    expect(exact.result()).toMatchObject({ value: 0.25, floatValue: 0.75, drop: 0.5, ci95: wilson(1, 4) });
    const result = errors.result();
    expect(result).toMatchObject({ value: 3 / 8, floatValue: 1 / 8 });
    expect(result.drop).toBeCloseTo(2 / 8, 12);
    // Residuals d − R·L with d = 0, 1, 1, 0 and L = 3, 2, 2, 1.
    const residuals = [0 - 0.75, 1 - 0.5, 1 - 0.5, 0 - 0.25];
    expect(result.dropStandardError).toBeCloseTo(Math.sqrt(residuals.reduce((a, b) => a + b * b, 0) / 3 / 4) / 2, 12);
    expect(result.ci95[0]).toBeLessThanOrEqual(result.value);
    expect(result.ci95[1]).toBeGreaterThanOrEqual(result.value);
    expect(() => exact.update(floats([1, 1, 5], path([1])), floats([1, 1, 5], path([1])), sequenceLabels([7]))).toThrow(
      expect.objectContaining({ code: 'dataset-labels' }),
    );
  });
});

describe('agreement', () => {
  it('classes, sequences where labels are sequences, integers', () => {
    const run = (t: OutputTraits, pairs: [TensorValue, TensorValue][]) => {
      const accumulator = METRIC_TABLE.agreement.start(options(t));
      for (const [a, b] of pairs) accumulator.update(a, b, null);
      return accumulator.result();
    };
    expect(run(traits([2, 2]), [[floats([2, 2], [0, 1, 1, 0]), floats([2, 2], [0, 3, 0, 1])]])).toMatchObject({
      value: 0.5,
      floatValue: 1,
      drop: 0.5,
      samples: 2,
      ci95: wilson(1, 2),
    });
    const steps = traits([1, 2, 3], { labels: 'sequence', labelLength: 2 });
    // The same text by another path.
    expect(run(steps, [[floats([1, 2, 3], [0, 1, 0, 0, 1, 0]), floats([1, 2, 3], [1, 0, 0, 0, 1, 0])]])).toMatchObject({ value: 1 });
    expect(run(traits([2, 2], { type: 'int64' }), [[int64([2, 2], [1, 2, 3, 4]), int64([2, 2], [1, 2, 3, 5])]])).toMatchObject({
      value: 0.5,
      samples: 2,
    });
  });
});

describe('sqnr', () => {
  it('closed forms: a scaled copy, a perfect one, silence', () => {
    const run = (ref: number[], got: number[]) => {
      const accumulator = METRIC_TABLE.sqnr.start(options(traits([1, ref.length])));
      accumulator.update(floats([1, ref.length], ref, 'float64'), floats([1, got.length], got, 'float64'), null);
      return accumulator.result();
    };
    const x = [1, -2, 3, 4];
    // got = 0.9·ref: noise is a hundredth of the signal, 20 dB.
    expect(
      run(
        x,
        x.map((v) => v * 0.9),
      ).value,
    ).toBeCloseTo(20, 9);
    expect(
      run(
        x,
        x.map((v) => v * 0.9),
      ),
    ).toMatchObject({ cosine: expect.closeTo(1, 12), maxError: expect.closeTo(0.4, 12) });
    expect(run(x, x)).toMatchObject({ value: 60, drop: 0, cosine: 1, maxError: 0 });
    expect(run(x, [2, -4, 6, 8]).value).toBeCloseTo(0, 12);
    expect(run([0, 0], [0, 0])).toMatchObject({ value: 60, cosine: 1 });
    expect(run([0, 0], [1, 0])).toMatchObject({ value: -200, cosine: 0 });
    expect(run([1, 0], [0, 1])).toMatchObject({ cosine: 0 });
    expect(decibels(1, Number.NaN)).toBe(-200);
  });

  it('pools all runs into one number, with an interval over runs', () => {
    const accumulator = METRIC_TABLE.sqnr.start(options(traits([1, 1])));
    const normal = seededNormal(9);
    let [signal, noise] = [0, 0];
    for (let i = 0; i < 300; i++) {
      const a = Math.fround(normal());
      const b = Math.fround(a + 0.1 * normal());
      signal += a * a;
      noise += (a - b) ** 2;
      accumulator.update(floats([1, 1], [a]), floats([1, 1], [b]), null);
    }
    const result = accumulator.result();
    expect(result.value).toBeCloseTo(10 * Math.log10(signal / noise), 9);
    expect(result.ci95[0]).toBeLessThan(result.value);
    expect(result.ci95[1]).toBeGreaterThan(result.value);
    expect(result.ci95[1] - result.ci95[0]).toBeLessThan(3);
  });
});

describe('chooseMetric', () => {
  it.each<[string, OutputTraits, string]>([
    ['labels and classes', traits([1, 10], { labels: 'class' }), 'top1'],
    ['labels and one column', traits([1, 1], { labels: 'class' }), 'top1'],
    ['labels and an output shaped as the input', traits([1, 10], { labels: 'class', inputShapes: [[10]] }), 'top1'],
    ['labels that do not belong to the output', traits([1, 4, 5], { labels: 'class' }), 'sqnr'],
    ['sequences', traits([1, 40, 100], { labels: 'sequence', labelLength: 9 }), 'ctc'],
    ['sequences and classes', traits([1, 10], { labels: 'sequence', labelLength: 9 }), 'agreement'],
    ['classes', traits([1, 10]), 'agreement'],
    ['an image', traits([1, 3, 8, 8]), 'sqnr'],
    ['integers', traits([1], { type: 'int64' }), 'agreement'],
  ])('%s', (_, t, name) => {
    expect(chooseMetric(null, t).name).toBe(name);
  });

  it.each<[keyof typeof METRIC_TABLE, OutputTraits]>([
    ['top1', traits([1, 10])],
    ['top1', traits([1, 4, 5], { labels: 'class' })],
    ['top1', traits([1, 10], { labels: 'sequence', labelLength: 4 })],
    ['top1', traits([1, 3], { type: 'int64', labels: 'class' })],
    ['top5', traits([1, 1], { labels: 'class' })],
    ['ctc', traits([1, 10], { labels: 'sequence', labelLength: 4 })],
    ['ctc', traits([1, 40, 10], { labels: 'class' })],
    ['cer', traits([1, 40, 10])],
    ['agreement', traits([1, 3, 8, 8])],
    ['sqnr', traits([1, 3], { type: 'int32' as ElementType })],
  ])('%s asked for where it has no meaning', (name, t) => {
    expect(() => chooseMetric({ name }, t)).toThrow(
      expect.objectContaining({ code: 'metric-unsuitable', detail: expect.stringMatching(`^${name} needs`) }),
    );
  });
});
