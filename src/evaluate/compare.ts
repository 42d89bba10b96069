/**
 * Evaluation: the float model and its variants on the same data, side by side. One pass: every sample goes through the float
 * model and then through each variant, so no output is ever kept and memory does not grow with the number of samples.
 */
import { HalftoneError } from '../domain/errors.ts';
import type { Evaluation, Metric, ProblemSummary } from '../domain/job.ts';
import type { Session, TensorValue } from '../domain/runner.ts';
import type { Dataset } from './dataset.ts';
import { firstNonFinite, isFloat } from './elements.ts';
import { chooseMetric, METRIC_TABLE } from './metrics/index.ts';
import type { Accumulator, MetricDefinition, MetricOptions, OutputTraits, RunLabels } from './metrics/metric.ts';
import { decibels, SQNR_CAP, SqnrAccumulator } from './metrics/sqnr.ts';

export interface EvaluateOptions {
  float: Session;
  /** Open sessions of the variants; null where there is none (its outcome is null, too). */
  variants: (Session | null)[];
  /** Opened for the float model's inputs. */
  dataset: Dataset;
  /** Null = what the data allow. */
  metric: Metric | null;
  /** Of bootstrap intervals. */
  seed: number;
  /** Called after every run with 0..1. */
  onProgress?: (done: number) => void;
  signal?: AbortSignal;
}

interface VariantOutcome {
  /** Null where the variant failed or the compared output is not finite. */
  evaluation: Evaluation | null;
  /** No float output had NaN or Inf (but where the float model's has them as well). */
  finite: boolean;
  error: ProblemSummary | null;
}

export interface EvaluationOutcome {
  /** Of the float model itself. */
  baseline: Evaluation;
  /** In the order of the sessions. */
  variants: (VariantOutcome | null)[];
}

/** What is gathered of one variant. */
interface Tracks {
  metric: Accumulator;
  agreement: Accumulator | null;
  sqnr: SqnrAccumulator | null;
  cer: Accumulator | null;
}

/**
 * Runs the data set through the float model and every variant.
 * @throws output-unknown, metric-unsuitable, model-does-not-run, model-not-finite, dataset-not-finite, dataset-labels, canceled.
 * A variant that fails or gives NaN doesn't throw: its outcome says so.
 */
export async function evaluate(options: EvaluateOptions): Promise<EvaluationOutcome> {
  const { float, dataset, metric } = options;
  const output = comparedOutput(float, metric);
  const outcomes: (VariantOutcome | null)[] = options.variants.map((session) =>
    session === null ? null : { evaluation: null, finite: true, error: null },
  );
  let chosen: { definition: MetricDefinition; baseline: Tracks; variants: (Tracks | null)[]; traits: OutputTraits } | null = null;

  for (let run = 0; run < dataset.groups; run++) {
    if (options.signal?.aborted) throw new HalftoneError('canceled', 'the evaluation was canceled');
    const feeds = dataset.feed(run);
    const reference = await runFloat(float, feeds);
    const ours = reference[output]!;
    if (chosen === null) {
      const traits = traitsOf(output, ours, feeds, dataset);
      const definition = chooseMetric(metric, traits);
      const begin = () => startTracks(definition, { traits, blank: metric?.blank ?? 0, seed: options.seed });
      chosen = { definition, traits, baseline: begin(), variants: outcomes.map((outcome) => outcome && begin()) };
    }
    if (isFloat(ours.type) && firstNonFinite(ours.type, ours.bytes) >= 0) {
      throw new HalftoneError(
        'model-not-finite',
        `the float model’s output '${output}' has NaN or Inf for ${samplesOf(run, dataset.batch)}`,
      );
    }
    const labels = runLabels(dataset, run);
    // The float model goes against itself first: labels that don't fit are then told once, not as a variant's fault.
    for (const accumulator of new Set([chosen.baseline.metric, chosen.baseline.cer])) accumulator?.update(ours, ours, labels);
    for (let k = 0; k < outcomes.length; k++) {
      const outcome = outcomes[k];
      const session = options.variants[k];
      if (!outcome || !session || outcome.error !== null) continue;
      outcome.error = await runVariant(session, feeds, reference, output, labels, chosen.variants[k]!, outcome, run, dataset.batch);
    }
    options.onProgress?.((run + 1) / dataset.groups);
  }
  if (chosen === null) throw new HalftoneError('dataset-empty', 'there is nothing to evaluate on');
  const { definition, traits, baseline, variants } = chosen;
  const shared = { samples: dataset.groups * dataset.batch, leftOut: dataset.leftOut };
  variants.forEach((tracks, k) => {
    const outcome = outcomes[k];
    if (tracks && outcome && outcome.error === null) outcome.evaluation = summarize(definition, tracks, shared);
  });
  return { baseline: summarizeFloat(definition, baseline, traits, shared), variants: outcomes };
}

/** One sample through one variant; what went wrong, or null. */
async function runVariant(
  session: Session,
  feeds: Record<string, TensorValue>,
  reference: Record<string, TensorValue>,
  output: string,
  labels: RunLabels | null,
  tracks: Tracks,
  outcome: VariantOutcome,
  run: number,
  batch: number,
): Promise<ProblemSummary | null> {
  let got: Record<string, TensorValue>;
  try {
    got = await session.run(feeds);
  } catch (error) {
    return {
      code: 'gate-load',
      detail: `the variant fails on ${samplesOf(run, batch)}: ${error instanceof Error ? error.message : String(error)}`,
    };
  }
  for (const [name, value] of Object.entries(reference)) {
    const theirs = got[name];
    if (theirs === undefined || theirs.type !== value.type || theirs.dims.length !== value.dims.length) {
      const seen = theirs === undefined ? 'is missing' : `is ${theirs.type} [${theirs.dims.join(', ')}]`;
      return {
        code: 'gate-io-changed',
        detail: `output '${name}' ${seen}, and ${value.type} [${value.dims.join(', ')}] in the float model`,
      };
    }
    if (isFloat(value.type) && firstNonFinite(theirs.type, theirs.bytes) >= 0 && firstNonFinite(value.type, value.bytes) < 0) {
      outcome.finite = false;
      return { code: 'gate-not-finite', detail: `output '${name}' has NaN or Inf for ${samplesOf(run, batch)}` };
    }
  }
  const a = reference[output]!;
  let b = got[output]!;
  // A detector may find another number of boxes: nothing of it can be set against the float model's, so it counts as silence.
  if (b.dims.join() !== a.dims.join()) b = { type: a.type, dims: a.dims, bytes: new Uint8Array(a.bytes.length) };
  // The chosen metric may be one of the others, too: each is fed once.
  for (const accumulator of new Set([tracks.metric, tracks.agreement, tracks.sqnr, tracks.cer])) accumulator?.update(a, b, labels);
  return null;
}

async function runFloat(session: Session, feeds: Record<string, TensorValue>): Promise<Record<string, TensorValue>> {
  try {
    return await session.run(feeds);
  } catch (cause) {
    if (cause instanceof HalftoneError) throw cause;
    throw new HalftoneError('model-does-not-run', cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** The output that counts: the one named, or the first. */
function comparedOutput(float: Session, metric: Metric | null): string {
  const names = float.outputs.map(({ name }) => name);
  const name = metric?.output ?? names[0];
  const found = float.outputs.find((candidate) => candidate.name === name);
  if (name === undefined || found === undefined)
    throw new HalftoneError(
      'output-unknown',
      `there is no output '${name}'; the outputs are ${names.map((each) => `'${each}'`).join(', ')}`,
    );
  if (found.type === 'other')
    throw new HalftoneError('metric-unsuitable', `output '${name}' is no tensor of numbers; name another with metric.output`);
  return name;
}

function traitsOf(name: string, value: TensorValue, feeds: Record<string, TensorValue>, dataset: Dataset): OutputTraits {
  const labels = dataset.labels;
  return {
    name,
    type: value.type,
    dims: value.dims,
    batch: dataset.batch,
    inputShapes: [...dataset.sampleShapes.values(), ...Object.values(feeds).map((feed) => feed.dims.slice(1))],
    labels: labels?.kind ?? null,
    labelLength: labels?.kind === 'sequence' ? labels.length : 1,
  };
}

function runLabels(dataset: Dataset, run: number): RunLabels | null {
  const first = run * dataset.batch;
  const labels = dataset.labels;
  if (labels === null) return null;
  return labels.kind === 'class'
    ? { kind: 'class', values: labels.values.subarray(first, first + dataset.batch), first }
    : { kind: 'sequence', rows: labels.rows.slice(first, first + dataset.batch), first };
}

function startTracks(definition: MetricDefinition, options: MetricOptions): Tracks {
  const also = (other: MetricDefinition) => (other !== definition && other.needs(options.traits) === null ? other.start(options) : null);
  const metric = definition.start(options);
  return {
    metric,
    agreement: definition.name === 'agreement' ? metric : also(METRIC_TABLE.agreement),
    sqnr: metric instanceof SqnrAccumulator ? metric : isFloat(options.traits.type) ? new SqnrAccumulator(options.seed) : null,
    cer: definition.name === 'cer' ? metric : also(METRIC_TABLE.cer),
  };
}

function summarize(definition: MetricDefinition, tracks: Tracks, shared: { samples: number; leftOut: number }): Evaluation {
  const main = tracks.metric.result();
  const noise = tracks.sqnr?.result() ?? null;
  return {
    metric: definition.name,
    value: main.value,
    drop: main.drop,
    agreement: tracks.agreement?.result().value ?? null,
    sqnrDb: noise?.value ?? null,
    cosine: noise?.cosine ?? null,
    maxError: noise?.maxError ?? null,
    ...(tracks.cer ? { cer: tracks.cer.result().value } : {}),
    ...shared,
    ci95: main.ci95,
    dropStandardError: main.dropStandardError,
  };
}

function summarizeFloat(
  definition: MetricDefinition,
  tracks: Tracks,
  traits: OutputTraits,
  shared: { samples: number; leftOut: number },
): Evaluation {
  const measured = definition.name === 'agreement' || definition.name === 'sqnr' ? null : tracks.metric.result();
  // Against itself: agreement 1 and the cap by definition, with nothing uncertain about it.
  const own = definition.name === 'sqnr' ? SQNR_CAP : 1;
  return {
    metric: definition.name,
    value: measured?.value ?? own,
    drop: null,
    agreement: METRIC_TABLE.agreement.needs(traits) === null ? 1 : null,
    sqnrDb: null,
    cosine: null,
    maxError: null,
    ...(tracks.cer ? { cer: tracks.cer.result().value } : {}),
    ...shared,
    ci95: measured?.ci95 ?? [own, own],
    dropStandardError: null,
  };
}

const samplesOf = (run: number, batch: number): string =>
  batch === 1 ? `sample ${run}` : `samples ${run * batch} to ${(run + 1) * batch - 1}`;

/** How far two sets of outputs are apart. */
export interface QuickComparison {
  /** Over all float outputs and runs pooled, at most 60; 60 where there is no float output. */
  sqnrDb: number;
  /** The same for each float output apart: a small output drowns in a large one. */
  perOutput: Record<string, number>;
  /** Whether all values got are finite. */
  finite: boolean;
}

/** Sums for `quickCompare`, run by run, for callers that keep no outputs. */
class OutputComparison {
  readonly #sums = new Map<string, { signal: number; noise: number }>();
  #finite = true;

  /** Adds one run. Outputs that `got` lacks are left out. */
  add(reference: Record<string, TensorValue>, got: Record<string, TensorValue>): void {
    for (const [name, ours] of Object.entries(reference)) {
      const theirs = got[name];
      if (!isFloat(ours.type) || theirs === undefined) continue;
      if (theirs.bytes.length !== ours.bytes.length || theirs.type !== ours.type)
        throw new TypeError(`output '${name}' differs in type or size`);
      if (firstNonFinite(theirs.type, theirs.bytes) >= 0) this.#finite = false;
      const sqnr = new SqnrAccumulator(0);
      sqnr.update(ours, theirs);
      const sums = this.#sums.get(name) ?? { signal: 0, noise: 0 };
      sums.signal += sqnr.signal;
      sums.noise += sqnr.noise;
      this.#sums.set(name, sums);
    }
  }

  result(): QuickComparison {
    let [signal, noise] = [0, 0];
    const perOutput: Record<string, number> = {};
    for (const [name, sums] of this.#sums) {
      signal += sums.signal;
      noise += sums.noise;
      perOutput[name] = decibels(sums.signal, sums.noise);
    }
    return { sqnrDb: decibels(signal, noise), perOutput, finite: this.#finite };
  }
}

/** Compares outputs of the same runs: SQNR over all float outputs. NaN counts as the worst figure (−200 dB) and clears `finite`. */
export function quickCompare(reference: Record<string, TensorValue>[], got: Record<string, TensorValue>[]): QuickComparison {
  const comparison = new OutputComparison();
  reference.forEach((outputs, run) => {
    comparison.add(outputs, got[run] ?? {});
  });
  return comparison.result();
}
