import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Benchmark, Evaluation } from '../../../../src/domain/job.ts';
import type { JobView, VariantView } from '../../../../src/domain/job-view.ts';
import { ticks } from '../../../../src/http/report/charts.ts';
import { bytes, digits, dropValue, ms, recipeTitle } from '../../../../src/http/report/format.ts';
import { html } from '../../../../src/http/report/html.ts';
import { renderReportHtml, reportJson } from '../../../../src/http/report/index.ts';

const benchmark = (deviceProfile: string, p50: number, speedup: number): Benchmark => ({
  deviceProfile,
  latencyMs: { p50, p90: p50 * 1.1, p99: p50 * 1.4, mean: p50 * 1.02, min: p50 * 0.97, samples: 500 },
  speedup: { value: speedup, ci95: [speedup - 0.03, speedup + 0.03] },
  peakRssBytes: 120e6 / speedup,
  modelRssBytes: 40e6 / speedup,
  loadMs: 12,
});
const evaluation = (value: number, drop: number | null): Evaluation => ({
  metric: 'top1',
  value,
  drop,
  agreement: drop === null ? 1 : 0.98,
  sqnrDb: drop === null ? null : 27.93,
  cosine: drop === null ? null : 0.99912,
  maxError: drop === null ? null : 0.8123,
  samples: 872,
  leftOut: 3,
  ci95: [value - 0.02, value + 0.02],
  dropStandardError: drop === null ? null : 0.004,
});
const variant = (n: number, more: Partial<VariantView> = {}): VariantView => ({
  id: `var_${n}`,
  index: n - 1,
  recipe: { method: 'static' },
  artifact: { id: `art_${n}`, sizeBytes: 300_000, sha256: 'ab'.repeat(32), href: `/v1/artifacts/art_${n}/content` },
  evaluation: evaluation(0.815, 0.004),
  benchmarks: [benchmark('host-1-thread', 1.5, 2.1), benchmark('host', 0.9, 1.8)],
  kernels: {
    ran: { QLinearConv: 18, Conv: 1, QGemm: 1 },
    quantized: Array.from({ length: 19 }, (_, i) => `conv${i}`),
    leftInFloat: [{ node: 'conv_first', operator: 'Conv', reason: 'slower-on-profile', detail: '0.41 ms in int8, 0.30 ms in float' }],
    notes: ['bias correction: kept, held-back error 0.021 → 0.014'],
  },
  error: null,
  ...more,
});
const job = (more: Partial<JobView> = {}): JobView => ({
  id: 'job_1',
  status: 'succeeded',
  stage: null,
  progress: 1,
  etaSeconds: null,
  error: null,
  model: 'mdl_1',
  recipes: [{ method: 'static' }, { method: 'dynamic' }],
  calibration: 'dst_1',
  evaluation: 'dst_2',
  metric: null,
  deviceProfiles: ['host-1-thread', 'host'],
  maxAccuracyDrop: 0.01,
  webhook: null,
  stages: [
    { name: 'observe', ms: 1234, peakRssBytes: 2.1e8 },
    { name: 'emit', variant: 0, ms: 17, peakRssBytes: 2.2e8 },
  ],
  baseline: variant(0, {
    recipe: null,
    artifact: null,
    evaluation: evaluation(0.819, null),
    benchmarks: [benchmark('host-1-thread', 3.2, 1), benchmark('host', 1.7, 1)],
    kernels: null,
  }),
  variants: [
    variant(1),
    variant(2, {
      recipe: { method: 'dynamic' },
      artifact: null,
      evaluation: null,
      benchmarks: [],
      kernels: null,
      error: { code: 'gate-load', detail: 'node ‘a’: no kernel' },
    }),
  ],
  best: 'var_1',
  bestReason: 'Fastest of those within 0.01 of float.',
  createdAt: '2026-11-23T10:00:00Z',
  startedAt: '2026-11-23T10:00:01Z',
  finishedAt: '2026-11-23T10:00:31Z',
  context: {
    model: { id: 'mdl_1', name: 'resnet20', sha256: 'cd'.repeat(32), sizeBytes: 1_094_781 },
    calibration: { id: 'dst_1', name: 'cal', samples: 128 },
    evaluation: null,
    profiles: [],
  },
  ...more,
});

/** Whether every element that is opened is closed in turn: a hole in the escaping or in a template breaks this first. */
function unbalanced(page: string): string | null {
  const open: string[] = [];
  for (const [, close, name, rest] of page.replace(/<style>.*?<\/style>/s, '').matchAll(/<(\/?)([a-zA-Z0-9]+)((?:[^<>"]|"[^"]*")*)>/g)) {
    if (['meta', 'line', 'circle', 'rect'].includes(name!) || rest!.endsWith('/')) continue;
    if (close !== '/') open.push(name!);
    else if (open.pop() !== name) return `</${name}> after ${open.join(' > ')}`;
  }
  return open.length > 0 ? open.join(' > ') : null;
}

describe('the report', () => {
  it('shows what is best and why, and every figure of every model', () => {
    const page = renderReportHtml(job());
    expect(unbalanced(page)).toBeNull();
    for (const text of [
      'Best: variant 0, static',
      'Fastest of those within 0.01 of float.',
      'resnet20',
      '300 kB',
      '1.09 MB',
      '27.4%',
      '81.5%',
      '79.5% to 83.5%',
      '0.40 ± 0.40 pt',
      '98.0%',
      '27.9 dB',
      '1.50 ms',
      '2.10 ms',
      '2.10×',
      '2.07× to 2.13×',
      '57.1 MB',
      '3 left out',
      'gate-load',
      'node ‘a’: no kernel',
      'QLinearConv 18',
      'conv_first',
      'slower in integers than in float',
      '0.41 ms in int8',
      'bias correction: kept',
      'observe',
      '1230 ms',
      'variant 0',
      'dst_2, deleted since',
      'abab',
    ])
      expect(page, text).toContain(text);
    expect(page.match(/<svg/g)).toHaveLength(3);
  });

  it('needs nothing from elsewhere and runs nothing', () => {
    const page = renderReportHtml(job());
    expect(page).not.toMatch(/<script|<link|<img|<iframe|@import|url\(|https?:|\son\w+=/i);
    expect(page).toContain("default-src 'none'");
  });

  it('says that the float model is best, that a job failed, that it still runs', () => {
    const float = renderReportHtml(job({ best: null, bestReason: 'Every variant is slower than float.' }));
    expect(float).toContain('Best: the float model');
    expect(float).toContain('Every variant is slower than float.');
    const failed = renderReportHtml(
      job({
        status: 'failed',
        baseline: null,
        variants: [],
        best: null,
        bestReason: null,
        error: { code: 'dataset-not-finite', detail: 'sample 7 has NaN', title: 'An array holds NaN or Inf', remedy: 'Clean it.' },
      }),
    );
    for (const text of ['The job failed', 'sample 7 has NaN', 'dataset-not-finite', 'Clean it.']) expect(failed).toContain(text);
    expect(unbalanced(failed)).toBeNull();
    const running = renderReportHtml(
      job({ status: 'running', stage: 'observe', progress: 0.42, best: null, bestReason: null, finishedAt: null, context: undefined }),
    );
    expect(running).toContain('at observe (42%)');
    expect(unbalanced(running)).toBeNull();
    // Without evaluation data there is latency to show, but no accuracy to set it against.
    const bare = (view: VariantView) => ({ ...view, evaluation: null });
    const unevaluated = renderReportHtml(job({ baseline: bare(job().baseline!), variants: job().variants.map(bare) }));
    expect(unevaluated).toContain('No evaluation data were given.');
    expect(unevaluated).toContain('Latency p50');
    expect(unbalanced(unevaluated)).toBeNull();
  });

  it('property: no text of a user’s comes through as markup', () => {
    const nasty = fc.oneof(
      fc.constantFrom(
        '<script>alert(1)</script>',
        '"><img src=x onerror=alert(1)>',
        "' onload='x",
        '</style><script>',
        '&lt;',
        '<!--',
        '\u0000\u0007',
        '</title>',
        ']]>',
        '{{x}}',
      ),
      fc.string(),
    );
    fc.assert(
      fc.property(nasty, (text) => {
        const page = renderReportHtml(
          job({
            bestReason: text,
            metric: { name: 'top1', output: text },
            deviceProfiles: [text, 'host'],
            baseline: variant(0, { recipe: null, benchmarks: [benchmark(text, 3, 1)] }),
            variants: [
              variant(1, {
                recipe: { method: 'static', exclude: { names: [text] } },
                benchmarks: [benchmark(text, 1.5, 2)],
                artifact: { id: text, sizeBytes: 1, sha256: text, href: text },
                kernels: {
                  ran: { [text]: 1 },
                  quantized: [text],
                  leftInFloat: [{ node: text, operator: text, reason: text, detail: text }],
                  notes: [text],
                },
                error: { code: text, detail: text },
              }),
            ],
            context: {
              model: { id: text, name: text, sha256: text, sizeBytes: 5 },
              calibration: { id: text, name: text, samples: 1 },
              evaluation: null,
              profiles: [],
            },
          }),
        );
        expect(unbalanced(page)).toBeNull();
        expect(page).not.toMatch(/<(script|img)/);
        expect(page.match(/<title>/g)!.length).toBe(page.match(/<\/title>/g)!.length);
      }),
      { numRuns: 60 },
    );
  });

  it('as JSON: the job with its verdict and the table', () => {
    const report = reportJson(job());
    expect(report).toMatchObject({
      id: 'job_1',
      verdict: { headline: 'Best: variant 0, static', reason: 'Fastest of those within 0.01 of float.' },
    });
    expect(
      report.summary.map(({ label, best, sizeBytes, sizeRatio, error }) => [
        label,
        best,
        sizeBytes,
        sizeRatio?.toFixed(3) ?? null,
        error?.code ?? null,
      ]),
    ).toEqual([
      ['F', false, 1_094_781, '1.000', null],
      ['0', true, 300_000, '0.274', null],
      ['1', false, null, null, 'gate-load'],
    ]);
    expect(JSON.parse(JSON.stringify(report))).toEqual({ ...report });
  });
});

describe('figures as text', () => {
  it('bytes, times, digits', () => {
    expect([0, 999, 1000, 999_499, 999_500, 1_094_781, 20e9].map(bytes)).toEqual([
      '0 B',
      '999 B',
      '1.00 kB',
      '999 kB',
      '1.00 MB',
      '1.09 MB',
      '20.0 GB',
    ]);
    expect([0.0123, 1.5, 123.4, 12_345, 600_000].map(ms)).toEqual(['0.0123 ms', '1.50 ms', '123 ms', '12.3 s', '10.0 min']);
    expect([0, 1234.5, 0.00012345, Number.NaN].map((value) => digits(value, 3))).toEqual(['0', '1230', '0.000123', '–']);
  });

  it('drops and recipes', () => {
    expect(dropValue({ ...evaluation(0.8, -0.000001), dropStandardError: null })).toBe('0.00 pt');
    expect(dropValue({ ...evaluation(31, 29), metric: 'sqnr' })).toBe('29.0 dB');
    expect(
      recipeTitle({
        method: 'static',
        weights: { type: 'int8', granularity: 'channel' },
        activations: { calibration: 'entropy' },
        format: 'qoperator',
        exclude: { operators: ['Softmax', 'a', 'b', 'c', 'd'] },
      }),
    ).toBe('static, weights int8 per channel, activations entropy, qoperator, without Softmax, a, b and 2 more');
    expect(recipeTitle({ method: 'dynamic' })).toBe('dynamic');
  });

  it('axis ticks are round and inside', () => {
    expect(ticks(0, 1)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
    expect(ticks(0.79, 0.845)).toEqual([0.8, 0.82, 0.84]);
    expect(ticks(5, 5)).toEqual([5]);
    fc.assert(
      fc.property(fc.double({ min: -1e4, max: 1e4, noNaN: true }), fc.double({ min: 1e-3, max: 1e6, noNaN: true }), (low, span) => {
        const list = ticks(low, low + span);
        expect(list.length).toBeLessThanOrEqual(8);
        for (const tick of list) expect(tick >= low - span * 1e-6 && tick <= low + span * (1 + 1e-6)).toBe(true);
      }),
    );
  });

  it('the template escapes holes and keeps markup', () => {
    expect(html`<b title="${'"<&>\''}">${[html`<i>${1}</i>`, '<u>', null, undefined, false]}</b>`.text).toBe(
      '<b title="&quot;&lt;&amp;&gt;&#39;"><i>1</i>&lt;u&gt;</b>',
    );
  });
});
