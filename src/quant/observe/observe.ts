import { entropyRange, mseRange, percentileRange } from '../../../native/index.ts';
import type { Calibration } from '../../domain/recipe.ts';
import type { ObservedStatistics, Observer, Runner, TensorValue } from '../../domain/runner.ts';
import type { Model } from '../../onnx/model.ts';
import { withOutputs } from '../session.ts';

/** Statistics of every value that a plan may quantize. */
export type Observations = ReadonlyMap<string, ObservedStatistics>;
/** value → the range that its grid covers. */
export type ActivationRanges = ReadonlyMap<string, { min: number; max: number }>;

export interface ObserveOptions {
  threads: number;
  /** value → axis of its channels, for those whose channel means a correction needs. */
  channelAxes: ReadonlyMap<string, number>;
  workDir: string;
  onRun?: (done: number) => void;
  signal?: AbortSignal;
}

/** Bins of a histogram: enough that 256 levels are resolved eight-fold after the range has doubled once. */
const BINS = 2048;

/**
 * One streaming pass of the float model over the calibration runs that feeds every calibrator at once. What is kept is one
 * histogram and a few sums for each value: memory does not grow with the number of runs.
 *
 * 1. Every value in `values` is made an output of the float model; the runtime's memory is read in place.
 * 2. Statistics cover all runs; a NaN or Inf is counted, and the caller decides.
 */
export async function observe(
  runner: Runner,
  model: Model,
  values: string[],
  runs: Iterable<Record<string, TensorValue>>,
  options: ObserveOptions,
): Promise<Observations> {
  const opened = await withOutputs(runner, model, values, options.workDir, { threads: options.threads });
  try {
    const observers: Record<string, Observer> = {};
    for (const value of values) {
      const axis = options.channelAxes.get(value);
      observers[opened.outputOf(value)] = runner.observer({ bins: BINS, ...(axis !== undefined && { channelAxis: axis }) });
    }
    let done = 0;
    for (const feeds of runs) {
      options.signal?.throwIfAborted();
      await opened.session.observe(feeds, observers, []);
      options.onRun?.(++done);
    }
    return new Map(values.map((value) => [value, observers[opened.outputOf(value)]!.result()]));
  } finally {
    opened.session.close();
  }
}

const LEVELS = 256;
const PERCENTILE = 99.99;
/** Exponent of the error that `auto` minimises: above 2, because a clipped outlier costs a network more than its square says. */
const AUTO_EXPONENT = 2.4;

/** The range rules, by name; `auto` chooses each tensor's clip by its own expected error. */
const CALIBRATORS: Record<Calibration | 'auto', (s: ObservedStatistics) => { min: number; max: number }> = {
  minmax: (s) => ({ min: s.min, max: s.max }),
  percentile: (s) => (s.histogram ? percentileRange(s.histogram, PERCENTILE) : s),
  entropy: (s) => (s.histogram ? entropyRange(s.histogram, LEVELS) : s),
  mse: (s) => (s.histogram ? mseRange(s.histogram, LEVELS, { p: 2 }) : s),
  auto: (s) => (s.histogram ? mseRange(s.histogram, LEVELS, { p: AUTO_EXPONENT }) : s),
};

/** Ranges of all observed values by one rule, never wider than what was seen. */
export function rangesBy(rule: Calibration | 'auto', observations: Observations): Map<string, { min: number; max: number }> {
  const ranges = new Map<string, { min: number; max: number }>();
  for (const [value, s] of observations) {
    if (!s.count) continue;
    const r = CALIBRATORS[rule](s);
    ranges.set(value, { min: Math.min(0, Math.max(r.min, s.min)), max: Math.max(0, Math.min(r.max, s.max)) });
  }
  return ranges;
}
