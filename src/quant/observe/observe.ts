import { entropyRange, mseRange, percentileRange } from '../../../native/index.ts';
import type { Calibration } from '../../domain/recipe.ts';
import type { ObservedStatistics, Observer, Runner, TensorValue } from '../../domain/runner.ts';
import type { Model } from '../../onnx/model.ts';
import { eachAtATime } from '../at-a-time.ts';
import { withOutputs } from '../session.ts';

/** Statistics of every value that a plan may quantize. */
export type Observations = ReadonlyMap<string, ObservedStatistics>;
/** value → the range that its grid covers. */
export type ActivationRanges = ReadonlyMap<string, { min: number; max: number }>;

export interface ObserveOptions {
  threads: number;
  /** value → axis of its channels, for those whose channel means a correction needs. */
  channelAxes: ReadonlyMap<string, number>;
  /** Elements of a value in one run, as far as they are known. */
  elements?: (value: string) => number | undefined;
  /** Whether any range rule will read histograms. Default: yes. */
  histograms?: boolean;
  /** How many runs there will be, as far as it is known. */
  count?: number;
  workDir: string;
  onRun?: (done: number) => void;
  signal?: AbortSignal;
}

/** Bins of a histogram: enough that 256 levels are resolved eight-fold after the range has doubled once. */
const BINS = 2048;
/**
 * Elements of a value that its histogram counts in one run, at most and at least, and in all; extremes and sums see every element.
 * Counting costs more than all else that an observer does, and of four hundred thousand values forty lie beyond the 99.99th percentile.
 */
const COUNTED = { most: 65536, least: 4096, inAll: 4e5 };
/**
 * Observers of each value, and so runs at a time at most (libuv's pool has four threads). Run i goes to observer i mod LANES
 * however many threads there are, so that the sums' last bits don't depend on the machine.
 */
const LANES = 4;
/** What the runs at a time may keep in memory. */
const KEPT_BYTES = 512e6;

/**
 * One streaming pass of the float model over the calibration runs that feeds every calibrator at once. What is kept is one
 * histogram and a few sums for each value: memory does not grow with the number of runs.
 *
 * 1. Every value in `values` is made an output of the float model; the runtime's memory is read in place.
 * 2. Several runs at a time, each on its share of the cores: small operators gain little from two threads, and what an
 *    observer does is then shared out too.
 * 3. Statistics cover all runs; a NaN or Inf is counted, and the caller decides.
 * 4. The runs `held` are not observed: the float model's outputs for them are what corrections are judged by.
 */
export async function observe(
  runner: Runner,
  model: Model,
  values: string[],
  runs: Iterable<Record<string, TensorValue>>,
  options: ObserveOptions,
  held: Record<string, TensorValue>[] = [],
): Promise<{ observations: Observations; reference: Record<string, TensorValue>[] }> {
  const cores = options.threads || runner.cores;
  const kept = values.reduce((sum, value) => sum + 4 * (options.elements?.(value) ?? 0), 1);
  let atATime = LANES;
  while (atATime > 1 && (atATime > cores || atATime * kept > KEPT_BYTES)) atATime /= 2;
  const opened = await withOutputs(runner, model, values, options.workDir, { threads: Math.max(1, Math.floor(cores / atATime)) });
  const counted = Math.min(COUNTED.most, Math.max(COUNTED.least, COUNTED.inAll / (options.count ?? 1)));
  try {
    const lanes = Array.from({ length: LANES }, () => {
      const observers: Record<string, Observer> = {};
      for (const value of values) {
        const axis = options.channelAxes.get(value);
        // Odd, so that it walks over rows and channels, whose lengths are even as a rule.
        const histogramStride = Math.ceil((options.elements?.(value) ?? 0) / counted) | 1;
        observers[opened.outputOf(value)] = runner.observer({
          bins: options.histograms === false ? 0 : BINS,
          histogramStride,
          ...(axis !== undefined && { channelAxis: axis }),
        });
      }
      return { observers, last: Promise.resolve() };
    });
    const outputs = model.graph.outputs.map((output) => output.name);
    const reference: Record<string, TensorValue>[] = [];
    function* work(): Generator<() => Promise<void>> {
      for (const [i, feeds] of held.entries()) {
        yield async () => {
          reference[i] = await opened.session.run(feeds, outputs);
        };
      }
      let [begun, done] = [0, 0];
      for (const feeds of values.length ? runs : []) {
        const lane = lanes[begun++ % LANES]!;
        yield async () => {
          const before = lane.last;
          const run = before.then(() => opened.session.observe(feeds, lane.observers, []));
          lane.last = run.then(
            () => undefined,
            () => undefined,
          );
          await run;
          options.onRun?.(++done);
        };
      }
    }
    await eachAtATime(work(), atATime, async (task) => {
      options.signal?.throwIfAborted();
      await task();
    });
    const [whole, ...others] = lanes;
    for (const lane of others) for (const [name, observer] of Object.entries(lane.observers)) whole!.observers[name]!.merge(observer);
    return { observations: new Map(values.map((value) => [value, whole!.observers[opened.outputOf(value)]!.result()])), reference };
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

/** Ranges by one rule, never wider than what was seen: of all observed values, or of those in `only`. */
export function rangesBy(
  rule: Calibration | 'auto',
  observations: Observations,
  only?: ReadonlySet<string>,
): Map<string, { min: number; max: number }> {
  const ranges = new Map<string, { min: number; max: number }>();
  for (const [value, s] of observations) {
    if (!s.count || (only && !only.has(value))) continue;
    const r = CALIBRATORS[rule](s);
    ranges.set(value, { min: Math.min(0, Math.max(r.min, s.min)), max: Math.max(0, Math.min(r.max, s.max)) });
  }
  return ranges;
}
