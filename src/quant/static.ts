import { HalftoneError } from '../domain/errors.ts';
import type { LayerNote, Stage } from '../domain/job.ts';
import type { DeviceProfile } from '../domain/profile.ts';
import type { ResolvedRecipe } from '../domain/recipe.ts';
import type { Runner, TensorValue } from '../domain/runner.ts';
import { GraphView } from '../onnx/graph.ts';
import type { Model, TensorType } from '../onnx/model.ts';
import { storeFloatWeights } from './dynamic/stored-weights.ts';
import { emit, type Quantization } from './emit/emit.ts';
import { loadable } from './gate/loadable.ts';
import type { LayerCosts } from './measure/costs.ts';
import { measure } from './measure/measure.ts';
import { expectedNoise, sensitivities } from './measure/sensitivity.ts';
import { type Observations, observe, rangesBy } from './observe/observe.ts';
import { withinNoiseBudget } from './plan/noise-budget.ts';
import { forbidden, quantizationFor } from './plan/plan.ts';
import { buildUnits, type Unit } from './plan/units.ts';
import { decibels } from './quality.ts';
import { openModel } from './session.ts';
import type { Choice } from './transform/candidate.ts';
import { chooseNumbers } from './transform/choose.ts';
import { secondMoments } from './transform/compensated-rounding.ts';
import { type Judged, Trials } from './transform/trials.ts';

/** Calibration data as the engine sees it: `feed(i)` gives run i's inputs. */
export interface CalibrationRuns {
  runs: number;
  feed: (run: number) => Record<string, TensorValue>;
}

export interface StaticContext {
  runner: Runner;
  profile: DeviceProfile;
  /** Threads inside an operator while the engine itself computes. */
  threads: number;
  /** Threads that the profile runs a model with. */
  profileThreads: number;
  workDir: string;
  /** SQNR in dB that the variant must reach on held-back samples, below which layers go back to float. */
  targetDb: number;
  /** Whether a range rule asked for by name is held to that target, too: such a recipe lost too much before. */
  repair: boolean;
  /** The output that is compared; null = the first. */
  primaryOutput: string | null;
  /** Measured layer costs from an earlier job, and where new ones go. */
  cachedCosts: (recipeKey: string) => LayerCosts | undefined;
  storeCosts: (recipeKey: string, costs: LayerCosts) => void;
  /** Runs a stage: times it, and holds the machine alone where it measures. */
  stage: <T>(name: Stage, work: () => Promise<T>) => Promise<T>;
  progress: (stage: Stage, fraction: number) => void;
  signal?: AbortSignal;
}

/** What all static recipes of a job share. */
export interface StaticBasis {
  prepared: Model;
  types: Map<string, TensorType>;
  units: Unit[];
  observations: Observations;
  /** What a recipe's trials came to, for another round of it; by recipe. */
  trials: Map<string, Tried>;
  /** Noise ÷ power of stored weights alone; by their names. */
  storedNoise: Map<string, Promise<number>>;
  /** Held-back runs and the float model's outputs for them. */
  held: Record<string, TensorValue>[];
  heldReference: Record<string, TensorValue>[];
  /** Some of the observed runs, for what needs inputs again. */
  moreFeeds: Record<string, TensorValue>[];
  /** Runs of the calibration set. */
  runs: number;
  /** Whether the held-back runs were observed too (too few samples to hold any back). */
  heldSeen: boolean;
  feeds: Record<string, TensorValue>[];
}

/** A share of the runs is held back, within these bounds. */
const HELD_BACK = { share: 1 / 8, least: 6, most: 16 };
/** Share of the file that must go before float weights are stored as int8. */
const LEAST_SAVING = 0.05;
/** Noise that stored weights may add: a share of the plan's own, or so much that both stay well within the budget. */
const STORED = { ofNoise: 0.12, ofBudget: 0.5 };
/** Error-compensated rounding sees so many runs, and may take so long: a share of the float inference over the calibration set. */
const COMPENSATION = { runs: 4, leastSeconds: 1, ofFloor: 1 };
/** For layers' own noise fewer samples do, where the model is slow: a ranking needs fewer than a verdict. */
const FEW = { least: 3, ms: 15 };
/**
 * How long layers' own noise may be measured, on one core: a share of the float inference over the calibration set, and a fixed part; what one session costs. A repair may
 * take so many times as long: accuracy is known to be at stake then. */
const SEARCH = { ofFloor: 0.4, ms: 700, msPerNode: 0.13, leastSessions: 10, repair: 3 };

/** What the trials of a recipe came to. */
interface Tried {
  trials: Trials;
  planned: ReadonlySet<number>;
  best: Judged;
  notes: string[];
  /** Layers' own noise, for a first try and for repairs. */
  own: Map<'first' | 'repair', Map<number, number>>;
}

/** Indices of the runs that corrections are judged on and that no range is taken from. */
function heldBack(runs: number): { held: number[]; observed: number[]; seen: boolean } {
  const all = Array.from({ length: runs }, (_, i) => i);
  if (runs < 2 * HELD_BACK.least) return { held: all.slice(0, HELD_BACK.least), observed: all, seen: true };
  const count = Math.min(HELD_BACK.most, Math.max(HELD_BACK.least, Math.floor(runs * HELD_BACK.share)));
  const step = Math.floor(runs / count);
  const held = Array.from({ length: count }, (_, i) => i * step + (step >> 1));
  const out = new Set(held);
  return { held, observed: all.filter((i) => !out.has(i)), seen: false };
}

/** The activations that units with integer kernels (those in `only`, if it is there) read and write. */
function valuesOf(units: Unit[], only?: ReadonlySet<number>): Set<string> {
  const values = new Set<string>();
  for (const unit of units) {
    if (!unit.row || (only && !only.has(unit.id))) continue;
    for (const i of unit.inputs) values.add(unit.nodes[0]!.inputs[i]!);
    for (const output of unit.outputs) if (output) values.add(output);
  }
  return values;
}

/** Values whose channel statistics a correction needs: the inputs of layers with weights, and along which axis. */
function channelAxes(units: Unit[]): Map<string, number> {
  const axes = new Map<string, number>();
  const contested = new Set<string>();
  for (const unit of units) {
    if (!unit.weight || !unit.row) continue;
    const value = unit.nodes[0]!.inputs[unit.inputs[0]!]!;
    const axis = unit.operator === 'Conv' ? 1 : -1;
    if ((axes.get(value) ?? axis) !== axis) contested.add(value);
    axes.set(value, axis);
  }
  // Read along two axes: statistics along one would be taken for the other's where their lengths agree.
  for (const value of contested) axes.delete(value);
  return axes;
}

/**
 * Observes the prepared model: one pass for all recipes. `types` are those of inferShapes with the first run's shapes;
 * `histograms`: whether a recipe's range rule reads more than extremes.
 */
export async function observeModel(
  prepared: Model,
  types: Map<string, TensorType>,
  data: CalibrationRuns,
  context: StaticContext,
  options: { histograms?: boolean } = {},
): Promise<StaticBasis> {
  const units = buildUnits(prepared, new GraphView(prepared.graph), types);
  const values = valuesOf(units);
  const { held, observed, seen } = heldBack(data.runs);
  function* runs() {
    for (const i of observed) yield data.feed(i);
  }
  const heldFeeds = held.map((i) => data.feed(i));
  const { observations, reference: heldReference } = await context.stage('observe', () =>
    observe(
      context.runner,
      prepared,
      [...values],
      runs(),
      {
        threads: context.threads,
        channelAxes: channelAxes(units),
        elements: (value) => types.get(value)?.shape?.reduce<number>((n, dim) => n * (typeof dim === 'number' ? dim : 1), 1),
        ...options,
        count: observed.length,
        workDir: context.workDir,
        onRun: (done) => context.progress('observe', done / observed.length),
        ...(context.signal && { signal: context.signal }),
      },
      heldFeeds,
    ),
  );
  return {
    prepared,
    types,
    units,
    observations,
    held: heldFeeds,
    heldReference,
    moreFeeds: observed.filter((_, i) => i % Math.max(1, Math.ceil(observed.length / COMPENSATION.runs)) === 0).map((i) => data.feed(i)),
    runs: data.runs,
    heldSeen: seen,
    trials: new Map(),
    storedNoise: new Map(),
    feeds: [data.feed(observed[0]!)],
  };
}

export interface StaticResult {
  model: Model;
  quantization: Quantization;
  leftInFloat: LayerNote[];
  notes: string[];
  costs: LayerCosts;
  /** SQNR on held-back samples; run for it where nobody asked before. */
  heldDb: () => Promise<number>;
}

/** Costs depend on what may be quantized and in which form, not on how ranges are chosen. */
function costsKey(recipe: ResolvedRecipe): string {
  return JSON.stringify([recipe.weights, recipe.activations.type, recipe.activations.symmetric, recipe.exclude, recipe.format]);
}

/**
 * One static recipe, from observations to a model ready to be written.
 *
 * 1. measure: what each layer costs in float and in integers on the profile (cached).
 * 2. plan: the fastest measured choice of layers.
 * 3. transform: range rule, bias correction and 7-bit channels; each correction is kept only where it lowers the error on
 *    samples held back from it.
 * 4. Where the error is over the target, layers go back to float: those that cost the most error for the least time, by
 *    pricing each layer's own noise into the cut.
 */
export async function quantizeStatic(basis: StaticBasis, recipe: ResolvedRecipe, context: StaticContext): Promise<StaticResult> {
  const { units, observations, prepared, types } = basis;
  const constant = (name: string) => prepared.graph.initializers.get(name);
  const notes: string[] = [];
  const leftInFloat = new Map<number, LayerNote>();
  const allowed = new Set<number>();
  for (const unit of units) {
    const note = forbidden(unit, recipe, observations, constant);
    if (note) leftInFloat.set(unit.id, note);
    else allowed.add(unit.id);
  }
  const heavy = units.filter((u) => allowed.has(u.id) && !u.row!.moves);
  if (!heavy.length) {
    const strange = units.map((u) => leftInFloat.get(u.id)).filter((note) => note?.reason === 'not-finite');
    if (strange.length && strange.length === units.filter((u) => u.row).length)
      throw new HalftoneError('model-not-finite', `no layer can run in integers: of ${strange[0]!.node}, ${strange[0]!.detail}`);
    throw new HalftoneError(
      'nothing-to-quantize',
      `no layer can run in integers: the model has ${[...new Set(units.map((u) => u.operator))].slice(0, 12).join(', ')}`,
    );
  }
  const base = { units, recipe, profile: context.profile, constant };
  const minmax = rangesBy('minmax', observations);
  const nearest = (quantized: ReadonlySet<number>) =>
    emit(prepared, quantizationFor({ ...base, quantized, ranges: minmax }), recipe.format);

  /** Whether the runtime takes a plan: null, or its words. */
  const tryOut = async (quantized: ReadonlySet<number>): Promise<string | null> => {
    try {
      const session = await openModel(context.runner, nearest(quantized), context.workDir, { threads: context.threads });
      try {
        await session.run(basis.feeds[0]!);
      } finally {
        session.close();
      }
      return null;
    } catch (cause) {
      return cause instanceof Error ? cause.message : String(cause);
    }
  };
  const key = costsKey(recipe);
  let costs = context.cachedCosts(key);
  if (!costs) {
    const taken = await context.stage('gate', () => loadable(units, allowed, tryOut));
    for (const [id, words] of taken.refused) {
      allowed.delete(id);
      leftInFloat.set(id, { node: units[id]!.name, operator: units[id]!.operator, reason: 'refused-by-runtime', detail: words });
    }
    if (!allowed.size)
      throw new HalftoneError('gate-load', `the runtime refuses every layer in integers: ${[...taken.refused.values()][0]}`);
    costs = await context.stage('measure', () =>
      measure({
        runner: context.runner,
        prepared,
        units,
        allowed,
        types,
        emit: nearest,
        feeds: basis.feeds,
        threads: context.profileThreads,
        workDir: context.workDir,
        ...(context.signal && { signal: context.signal }),
      }),
    );
    context.storeCosts(key, costs);
  }
  const measured = costs;
  // Costs from an earlier job: what was refused then has none in integers.
  for (const id of allowed) {
    if (measured.units[units[id]!.name]?.integerUs !== null) continue;
    allowed.delete(id);
    leftInFloat.set(id, { node: units[id]!.name, operator: units[id]!.operator, reason: 'refused-by-runtime' });
  }
  // From the costs that stand in the manifest, not from a clock: the same job gives the same file.
  const runMs = Object.values(measured.units).reduce((sum, unit) => sum + unit.floatUs, 0) / 1000;
  const byName = new Map(units.map((u) => [u.name, u.id]));
  const asPlan = (names: string[]) =>
    new Set(names.map((n) => byName.get(n)).filter((id): id is number => id !== undefined && allowed.has(id)));
  const planned = await context.stage('plan', async () => {
    const fastest = measured.candidates[0];
    return fastest ? asPlan(fastest.integer) : new Set(allowed);
  });
  context.signal?.throwIfAborted();

  const rule = recipe.activations.calibration;
  const where = basis.heldSeen ? 'on the calibration samples (too few to hold any back)' : 'on held-back samples';
  const transformed = await context.stage('transform', async () => {
    const trials = new Trials({ ...basis, ...context, recipe, reference: basis.heldReference });
    if (rule !== 'auto' && !context.repair) {
      // A range rule asked for by name is a plain job: rounded to nearest, in the time of one pass, nothing tried.
      const choice: Choice = {
        name: rule,
        ranges: rangesBy(rule, observations, valuesOf(units, planned)),
        correctBias: true,
        moments: null,
      };
      return { trials, quantized: planned, choice, quantization: await trials.quantization(planned, choice), noise: null };
    }
    const tried = await triedBefore(basis, recipe, trials, planned, runMs, context);
    notes.push(...tried.notes.map((note) => `${note} ${where}`));
    const target = context.targetDb;
    if (decibels(tried.best.noise) >= target || planned.size <= 1) return { ...tried.best, trials };
    const own = await ownNoise(basis, tried, runMs, context);
    const found = await withinNoiseBudget({
      units,
      planned,
      start: tried.best,
      own,
      costs: measured.units,
      types,
      budget: 10 ** (-target / 10),
      judge: (plan) => tried.trials.judge(plan, tried.best.choice),
      ...(context.signal && { signal: context.signal }),
    });
    const { judged, plan: quantized } = found;
    if (quantized === planned) return { ...judged, trials };
    notes.push(
      `${planned.size - quantized.size} layers went back to float to reach ${target.toFixed(1)} dB: ${decibels(tried.best.noise).toFixed(1)} → ${decibels(judged.noise).toFixed(1)} dB`,
    );
    for (const id of planned) {
      if (quantized.has(id)) continue;
      const unit = units[id]!;
      const noise = own.get(id);
      leftInFloat.set(id, {
        node: unit.name,
        operator: unit.operator,
        reason: 'sensitive',
        detail: noise === undefined ? 'beside a sensitive layer' : `alone in integers it leaves about ${decibels(noise).toFixed(1)} dB`,
      });
    }
    return { ...judged, trials };
  });
  for (const id of allowed) {
    const unit = units[id]!;
    if (transformed.quantization.quantized.has(id) || leftInFloat.has(id)) continue;
    const cost = measured.units[unit.name];
    leftInFloat.set(id, {
      node: unit.name,
      operator: unit.operator,
      reason: 'slower-on-profile',
      detail:
        cost && cost.integerUs !== null
          ? `${cost.floatUs.toFixed(0)} µs in float, ${cost.integerUs.toFixed(0)} µs in integers, conversions apart`
          : 'conversions would cost more than it gains',
    });
  }
  const model = await context.stage('emit', async () => {
    const plain = emit(prepared, transformed.quantization, recipe.format);
    const stored = storeFloatWeights(plain, recipe);
    if (stored.saved < LEAST_SAVING * stored.bytes) return plain;
    // Their noise is theirs alone, whatever else is quantized: measured once a set of weights, beside the float model.
    const key = JSON.stringify([recipe.weights, stored.names]);
    let added = basis.storedNoise.get(key);
    if (!added) {
      added = transformed.trials.noiseOf(storeFloatWeights(prepared, recipe, new Set(stored.names)).model, {
        samples: fewSamples(runMs),
        asWritten: true,
      });
      basis.storedNoise.set(key, added);
    }
    const noise = await added;
    const budget = 10 ** (-context.targetDb / 10);
    const kept =
      noise <= STORED.ofNoise * (transformed.noise ?? budget) ||
      (transformed.noise !== null && transformed.noise + noise <= STORED.ofBudget * budget);
    notes.push(
      `weights of layers left in float, stored as int8 and made float32 when the model is loaded (${(stored.saved / 1e6).toFixed(2)} MB less): ${kept ? 'kept' : 'not kept'}, alone they leave ${decibels(noise).toFixed(1)} dB ${where}`,
    );
    return kept ? stored.model : plain;
  });
  let held: Promise<number> | null = transformed.noise === null ? null : Promise.resolve(decibels(transformed.noise));
  return {
    model,
    quantization: transformed.quantization,
    leftInFloat: [...leftInFloat.values()],
    notes,
    costs: measured,
    heldDb: () => {
      held ??= transformed.trials.noiseOf(emit(prepared, transformed.quantization, recipe.format)).then(decibels);
      return held;
    },
  };
}

/** A recipe's trials on the plan: made once a job, since a recipe that loses too much is made again from them. */
async function triedBefore(
  basis: StaticBasis,
  recipe: ResolvedRecipe,
  trials: Trials,
  planned: ReadonlySet<number>,
  runMs: number,
  context: StaticContext,
): Promise<Tried> {
  const key = JSON.stringify(recipe);
  const before = basis.trials.get(key);
  if (before) return before;
  const rule = recipe.activations.calibration;
  const seconds = Math.max(COMPENSATION.leastSeconds, (COMPENSATION.ofFloor * runMs * basis.runs) / 1000);
  const compensates = recipe.weights.type === 'int8' && recipe.weights.symmetric;
  const { signal } = context;
  const found =
    rule === 'auto'
      ? await chooseNumbers(
          trials,
          planned,
          basis.observations,
          compensates
            ? secondMoments(
                context.runner,
                basis.prepared,
                basis.units.filter((u) => planned.has(u.id)),
                basis.moreFeeds,
                { workDir: context.workDir, threads: context.threads, seconds, ...(signal && { signal }) },
              )
            : null,
        )
      : {
          best: await trials.judge(planned, { name: rule, ranges: rangesBy(rule, basis.observations), correctBias: true, moments: null }),
          notes: [],
        };
  const tried: Tried = { trials, planned, own: new Map(), ...found };
  basis.trials.set(key, tried);
  return tried;
}

const fewSamples = (runMs: number): number => Math.max(FEW.least, Math.round(FEW.ms / Math.max(runMs, 0.01)));

/** The noise that each layer of a plan adds by itself. */
async function ownNoise(
  basis: StaticBasis,
  { trials, planned, best, own }: Tried,
  runMs: number,
  context: StaticContext,
): Promise<Map<number, number>> {
  const round = context.repair ? 'repair' : 'first';
  const before = own.get(round);
  if (before) return before;
  const samples = fewSamples(runMs);
  const sessionMs = SEARCH.msPerNode * basis.prepared.graph.nodes.length + Math.min(samples, basis.held.length) * runMs;
  const most = Math.max(SEARCH.leastSessions, Math.floor((SEARCH.ofFloor * runMs * basis.runs + SEARCH.ms) / sessionMs));
  const found = await sensitivities(
    basis.units.filter((u) => planned.has(u.id) && !u.row!.moves),
    async (units) => (await trials.judge(new Set(units.map((u) => u.id)), best.choice, { samples, asWritten: true })).noise,
    {
      most: context.repair ? SEARCH.repair * most : most,
      expected: (unit) => expectedNoise(unit, best.quantization, basis.observations),
      atATime: trials.atATime,
      progress: (fraction) => context.progress('transform', fraction),
      ...(context.signal && { signal: context.signal }),
    },
  );
  own.set(round, found);
  return found;
}
