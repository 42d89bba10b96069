/** A job's report: what came out, how it was measured and why it is so, as JSON and as a page that needs nothing else. Pure functions of the job's view. */
import type { KernelReport, StageRun } from '../../domain/job.ts';
import type { JobView, VariantView } from '../../domain/job-view.ts';
import { bars, scatter } from './charts.ts';
import { bytes, digits, dropValue, metricTitle, metricValue, ms, NONE, percent, reasonTitle, recipeTitle, times } from './format.ts';
import { html, type SafeHtml } from './html.ts';
import { STYLE } from './style.ts';
import { type ReportRow, reportRows, type Verdict, verdict } from './summary.ts';

/** The job with what a reader would compute first. */
export interface JobReport extends JobView {
  verdict: Verdict;
  summary: ReportRow[];
}

export function reportJson(job: JobView): JobReport {
  const summary = reportRows(job);
  return { ...job, verdict: verdict(job, summary), summary };
}

/** A whole HTML page: styles and charts inside, no script, nothing loaded from elsewhere, every text escaped. */
export function renderReportHtml(job: JobView): string {
  const rows = reportRows(job);
  const name = job.context?.model?.name ?? job.model;
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><meta name="robots" content="noindex">
<title>${name}: quantization report</title><style>${STYLE}</style></head><body><main>
<h1>${name}</h1>
<p class="soft">Quantization report of <code>${job.id}</code>, ${job.status}${job.finishedAt === null ? '' : ` ${job.finishedAt}`}</p>
${verdictBox(job, rows)}
${rows.length > 0 ? html`<h2>Results</h2>${resultTable(job, rows)}${charts(job, rows)}` : ''}
${profileTable(job)}
${job.variants.map((variant) => variantSection(variant, job))}
${stageTable(job.stages)}
${conditions(job)}
</main></body></html>
`.text;
}

function verdictBox(job: JobView, rows: ReportRow[]): SafeHtml {
  const { headline, reason } = verdict(job, rows);
  const best = rows.find((row) => row.best && row.label !== 'F');
  const float = rows.find((row) => row.label === 'F');
  const tone = job.status === 'failed' ? 'bad' : best === undefined ? 'neutral' : '';
  const figures: [string, string][] = [];
  if (best !== undefined) {
    if (best.benchmark !== null) figures.push([`speed on ${best.benchmark.deviceProfile}`, `${times(best.benchmark.speedup.value)} float`]);
    if (best.sizeRatio !== null) figures.push(['size', `${percent(best.sizeRatio)} of float`]);
    if (best.evaluation !== null && float?.evaluation) {
      figures.push([
        metricTitle(best.evaluation.metric),
        `${metricValue(best.evaluation.metric, best.evaluation.value)} (float ${metricValue(float.evaluation.metric, float.evaluation.value)})`,
      ]);
    }
    if (best.benchmark !== null && float?.benchmark)
      figures.push(['peak memory', `${bytes(best.benchmark.peakRssBytes)} (float ${bytes(float.benchmark.peakRssBytes)})`]);
  }
  return html`<section class="verdict ${tone}"><strong>${headline}</strong>${reason !== null && html`<p>${reason}</p>`}
${job.error !== null && html`<p class="error"><code>${job.error.code}</code>${job.error.title !== undefined && ` ${job.error.title}`}</p>${job.error.remedy !== undefined && html`<p>${job.error.remedy}</p>`}`}
${figures.length > 0 && html`<div class="figures">${figures.map(([what, figure]) => html`<div><span>${what}</span>${figure}</div>`)}</div>`}</section>`;
}

const range = ([low, high]: [number, number], text: (value: number) => string): string => `${text(low)} to ${text(high)}`;
const badge = (row: { best: boolean }): SafeHtml | false => row.best && html`<span class="badge">best</span>`;

function resultTable(job: JobView, rows: ReportRow[]): SafeHtml {
  const evaluated = rows.find((row) => row.evaluation !== null)?.evaluation ?? null;
  const withCer = rows.some((row) => row.evaluation?.cer !== undefined && row.evaluation.cer !== null && row.evaluation.metric !== 'cer');
  const heads = [
    'Model',
    'Size',
    evaluated === null ? 'Metric' : metricTitle(evaluated.metric),
    'Drop',
    'Agreement',
    'SQNR',
    'Cosine',
    'Largest error',
    ...(withCer ? ['Character errors'] : []),
    'Latency p50',
    'p90',
    'p99',
    'Speedup',
    'Peak memory',
  ];
  const caption = [
    evaluated === null
      ? 'No evaluation data were given.'
      : `Evaluated on ${evaluated.samples} samples${evaluated.leftOut > 0 ? ` (${evaluated.leftOut} left out: they fill no whole batch)` : ''}; intervals are 95%, the drop is ± one paired standard error.`,
    job.deviceProfiles[0] === undefined ? '' : `Latency, speedup and memory on ${job.deviceProfiles[0]}.`,
  ].join(' ');
  return html`<div class="scroll"><table><caption>${caption}</caption><thead><tr>${heads.map((head, i) => html`<th scope="col"${i === 0 && html` class="text"`}>${head}</th>`)}</tr></thead><tbody>
${rows.map((row) => {
  const e = row.evaluation;
  const b = row.benchmark;
  const cells: (SafeHtml | string)[] = [
    row.sizeBytes === null ? NONE : html`${bytes(row.sizeBytes)}<small>${row.sizeRatio === null ? '' : percent(row.sizeRatio)}</small>`,
    e === null ? NONE : html`${metricValue(e.metric, e.value)}<small>${range(e.ci95, (value) => metricValue(e.metric, value))}</small>`,
    e === null ? NONE : dropValue(e),
    e?.agreement == null ? NONE : percent(e.agreement),
    e?.sqnrDb == null ? NONE : `${e.sqnrDb.toFixed(1)} dB`,
    e?.cosine == null ? NONE : e.cosine.toFixed(5),
    e?.maxError == null ? NONE : digits(e.maxError, 3),
    ...(withCer ? [e?.cer == null ? NONE : percent(e.cer)] : []),
    b === null ? NONE : ms(b.latencyMs.p50),
    b === null ? NONE : ms(b.latencyMs.p90),
    b === null ? NONE : ms(b.latencyMs.p99),
    b === null ? NONE : html`${times(b.speedup.value)}<small>${range(b.speedup.ci95, times)}</small>`,
    b === null ? NONE : html`${bytes(b.peakRssBytes)}<small>model ${bytes(b.modelRssBytes)}</small>`,
  ];
  return html`<tr${row.best && html` class="best"`}><td class="text">${row.label} ${row.title}${badge(row)}${row.error !== null && html`<small class="error">${row.error.code}: ${row.error.detail}</small>`}</td>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`;
})}
</tbody></table></div>`;
}

const kindOf = (row: ReportRow): 'float' | 'variant' | 'best' => (row.label === 'F' ? 'float' : row.best ? 'best' : 'variant');

function charts(job: JobView, rows: ReportRow[]): SafeHtml {
  const points = rows.flatMap((row) =>
    row.evaluation === null || row.benchmark === null
      ? []
      : [
          {
            label: row.label,
            title: row.title,
            x: row.benchmark.latencyMs.p50,
            y: row.evaluation.value,
            low: row.evaluation.ci95[0],
            high: row.evaluation.ci95[1],
            kind: kindOf(row),
          },
        ],
  );
  const metric = rows.find((row) => row.evaluation !== null)?.evaluation?.metric;
  const of = (value: (row: ReportRow) => number | null | undefined) =>
    rows.flatMap((row) => {
      const number = value(row);
      return number === null || number === undefined ? [] : [{ label: row.label, title: row.title, value: number, kind: kindOf(row) }];
    });
  const sizes = of((row) => row.sizeBytes);
  const memory = of((row) => row.benchmark?.peakRssBytes);
  const latency = of((row) => row.benchmark?.latencyMs.p50);
  const drawn = [
    points.length > 1 &&
      metric !== undefined &&
      scatter(points, {
        x: `latency p50 on ${job.deviceProfiles[0]}`,
        y: metricTitle(metric),
        xText: (x) => (x === 0 ? '0' : ms(x)),
        yText: (y) => metricValue(metric, y),
      }),
    points.length <= 1 && latency.length > 1 && bars('Latency p50', latency, ms),
    sizes.length > 1 && bars('Size of the file', sizes, bytes),
    memory.length > 1 && bars('Peak memory', memory, bytes),
  ].filter((chart) => chart !== false);
  return drawn.length > 0 ? html`<h2>At a glance</h2><div class="charts">${drawn}</div>` : html``;
}

/** Every profile's measurements, where there is more than the target. */
function profileTable(job: JobView): SafeHtml {
  if (job.deviceProfiles.length < 2) return html``;
  const models: { label: string; view: VariantView; best: boolean }[] = [
    ...(job.baseline === null ? [] : [{ label: 'F', view: job.baseline, best: false }]),
    ...job.variants.map((view) => ({ label: String(view.index), view, best: view.id === job.best })),
  ];
  const lines = job.deviceProfiles.flatMap((profile) =>
    models.flatMap(({ label, view, best }) =>
      view.benchmarks
        .filter(({ deviceProfile }) => deviceProfile === profile)
        .map((benchmark) => ({ profile, label, view, best, benchmark })),
    ),
  );
  if (lines.length === 0) return html``;
  return html`<h2>Each device profile</h2><div class="scroll"><table><thead><tr><th scope="col" class="text">Profile</th><th scope="col" class="text">Model</th><th scope="col">p50</th><th scope="col">p90</th><th scope="col">p99</th><th scope="col">Mean</th><th scope="col">Fastest</th><th scope="col">Runs</th><th scope="col">Speedup</th><th scope="col">Peak memory</th><th scope="col">Load</th></tr></thead><tbody>
${lines.map(
  ({ profile, label, view, best, benchmark: { latencyMs, speedup, peakRssBytes, modelRssBytes, loadMs } }) =>
    html`<tr><td class="text">${profile}</td><td class="text">${label} ${recipeTitle(view.recipe)}${badge({ best })}</td><td>${ms(latencyMs.p50)}</td><td>${ms(latencyMs.p90)}</td><td>${ms(latencyMs.p99)}</td><td>${ms(latencyMs.mean)}</td><td>${ms(latencyMs.min)}</td><td>${latencyMs.samples}</td><td>${times(speedup.value)}<small>${range(speedup.ci95, times)}</small></td><td>${bytes(peakRssBytes)}<small>model ${bytes(modelRssBytes)}</small></td><td>${ms(loadMs)}</td></tr>`,
)}
</tbody></table></div>`;
}

function variantSection(variant: VariantView, job: JobView): SafeHtml {
  const { artifact, error, kernels } = variant;
  return html`<h2>Variant ${variant.index}: ${recipeTitle(variant.recipe)}${badge({ best: variant.id === job.best })}</h2>
<p class="soft"><code>${variant.id}</code>, recipe <code>${JSON.stringify(variant.recipe)}</code></p>
${error !== null && html`<p class="error"><code>${error.code}</code> ${error.detail}</p>`}
${artifact !== null && html`<p>Artifact <a href="${artifact.href}"><code>${artifact.id}</code></a>, ${bytes(artifact.sizeBytes)}, SHA-256 <code>${artifact.sha256}</code>, <a href="/v1/artifacts/${artifact.id}">manifest</a></p>`}
${kernels !== null && kernelSection(kernels)}`;
}

function kernelSection({ ran, quantized, leftInFloat, notes }: KernelReport): SafeHtml {
  const kernels = Object.entries(ran).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const reasons = new Map<string, typeof leftInFloat>();
  for (const note of leftInFloat) reasons.set(note.reason, [...(reasons.get(note.reason) ?? []), note]);
  return html`<p>${quantized.length} of ${quantized.length + leftInFloat.length} layers run in integers.</p>
${kernels.length > 0 && html`<p class="soft">Kernels that ran: ${kernels.map(([name, count]) => `${name} ${count}`).join(', ')}</p>`}
${[...reasons].map(
  ([
    reason,
    layers,
  ]) => html`<details${leftInFloat.length <= 12 && html` open`}><summary>${layers.length} left in float: ${reasonTitle(reason)}</summary><div class="scroll"><table><thead><tr><th scope="col" class="text">Layer</th><th scope="col" class="text">Operator</th><th scope="col" class="text">Why</th></tr></thead><tbody>
${layers.map(({ node, operator, detail }) => html`<tr><td class="text"><code>${node}</code></td><td class="text">${operator}</td><td class="text">${detail ?? reasonTitle(reason)}</td></tr>`)}
</tbody></table></div></details>`,
)}
${notes.length > 0 && html`<details><summary>${notes.length} notes on corrections and repairs</summary><ul>${notes.map((note) => html`<li>${note}</li>`)}</ul></details>`}`;
}

function stageTable(stages: StageRun[]): SafeHtml {
  if (stages.length === 0) return html``;
  const total = stages.reduce((sum, stage) => sum + stage.ms, 0);
  const longest = Math.max(...stages.map((stage) => stage.ms));
  return html`<h2>Stages</h2><div class="scroll"><table><caption>${ms(total)} in all; memory is the peak of the job’s process during the stage.</caption><thead><tr><th scope="col" class="text">Stage</th><th scope="col" class="text">For</th><th scope="col">Time</th><th scope="col" class="text"></th><th scope="col">Peak memory</th></tr></thead><tbody>
${stages.map(
  (stage) =>
    html`<tr><td class="text">${stage.name}</td><td class="text">${stage.variant === undefined || stage.variant === null ? 'all' : `variant ${stage.variant}`}</td><td>${ms(stage.ms)}</td><td class="text"><span class="meter" style="width:${Math.round((stage.ms / (longest || 1)) * 160)}px"></span></td><td>${bytes(stage.peakRssBytes)}</td></tr>`,
)}
</tbody></table></div>`;
}

/** What the figures are of: model, data, machine. */
function conditions(job: JobView): SafeHtml {
  const { context } = job;
  const data = (what: string, id: string | null, known: { name: string; samples: number } | null | undefined) =>
    id === null ? [] : [[what, known ? `${known.name} (${id}), ${known.samples} samples` : `${id}, deleted since`]];
  const facts: string[][] = [
    [
      'Model',
      context?.model
        ? `${context.model.name} (${job.model}), ${bytes(context.model.sizeBytes)}, SHA-256 ${context.model.sha256}`
        : job.model,
    ],
    ...data('Calibration', job.calibration, context?.calibration),
    ...data('Evaluation', job.evaluation, context?.evaluation),
    [
      'Metric',
      job.metric === null
        ? 'chosen from the data'
        : [
            job.metric.name,
            job.metric.output && `of output ${job.metric.output}`,
            job.metric.blank !== undefined && `blank ${job.metric.blank}`,
          ]
            .filter(Boolean)
            .join(', '),
    ],
    ['Largest drop allowed', String(job.maxAccuracyDrop)],
    ['Asked for', job.createdAt],
    ...(job.startedAt === null ? [] : [['Started', job.startedAt]]),
    ...(job.finishedAt === null ? [] : [['Ended', job.finishedAt]]),
    ...(context?.profiles ?? []).map(({ name, threads, machine }) => [
      `Profile ${name}`,
      [
        threads === null ? 'all physical cores' : `${threads} thread${threads === 1 ? '' : 's'}`,
        ...(machine === null
          ? []
          : [
              machine.cpu,
              machine.architecture,
              `${machine.physicalCores} cores`,
              `${bytes(machine.memoryBytes)} of memory`,
              `ONNX Runtime ${machine.onnxRuntimeVersion}`,
              machine.instructionSets.join(' '),
            ]),
      ].join(', '),
    ]),
  ];
  return html`<h2>Conditions</h2><div class="scroll"><table><tbody>${facts.map(([what, value]) => html`<tr><th scope="row" class="text">${what}</th><td class="text">${value}</td></tr>`)}</tbody></table></div>`;
}
