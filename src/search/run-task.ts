import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { HalftoneError } from '../domain/errors.ts';
import type { Benchmark, Evaluation, JobResult, KernelReport, Stage, StageRun, VariantResult } from '../domain/job.ts';
import { type DeviceProfile, hasFloat16Kernels, type Machine } from '../domain/profile.ts';
import { type Recipe, type ResolvedRecipe, resolveRecipe } from '../domain/recipe.ts';
import { checkRecipe } from '../domain/recipe-check.ts';
import type { Runner, Session, TensorValue } from '../domain/runner.ts';
import type { Task, TaskEvent } from '../domain/task.ts';
import { evaluate } from '../evaluate/compare.ts';
import { type Dataset, openDataset } from '../evaluate/dataset.ts';
import { generateFeeds } from '../evaluate/generate.ts';
import { type TakenBranch, takenBranch } from '../quant/branches.ts';
import { quantizeDynamic } from '../quant/dynamic/index.ts';
import { writeVariant } from '../quant/emit/write.ts';
import { toFloat16 } from '../quant/float16/index.ts';
import { gate } from '../quant/gate/gate.ts';
import { integerUnits } from '../quant/gate/kernels.ts';
import type { LayerCosts } from '../quant/measure/costs.ts';
import { type Prepared, prepare, type ValueTypes, valueTypes } from '../quant/prepare/index.ts';
import { type FloatModel, readFloatModel } from '../quant/read.ts';
import { type CalibrationRuns, observeModel, quantizeStatic, type StaticBasis, type StaticContext } from '../quant/static.ts';
import { benchmarkModels, measureMemory } from '../runtime/benchmark.ts';
import { writeFeeds } from '../runtime/feeds.ts';
import { type Library, loadLibrary } from '../runtime/library.ts';
import { detectMachine } from '../runtime/machine.ts';
import { withMachine } from '../runtime/machine-lock.ts';
import { resetPeak, residentMemory } from '../runtime/resident-memory.ts';
import { createRunner } from '../runtime/runner.ts';
import { chooseBest, qualityProblem } from './best.ts';

/** Version of the engine in cache keys and manifests: raised when the same input would give another artifact. */
const ENGINE_VERSION = 1;

/** How long each stage is taken to last beside the others, for progress: measuring takes seconds whatever the model, the rest grows with it. */
const WEIGHTS: Record<Stage, number> = {
  read: 1,
  prepare: 1,
  observe: 6,
  measure: 30,
  plan: 1,
  transform: 6,
  emit: 1,
  gate: 1,
  evaluate: 15,
  benchmark: 40,
};
/** Stages that must have the machine to themselves. */
const ALONE: ReadonlySet<Stage> = new Set(['measure', 'benchmark']);

/** Samples whose feeds the benchmark goes through. */
const BENCHMARK_FEEDS = 4;

/**
 * One job, from paths to measured variants: the line of house.md, in its order. Runs in the job's child process; what it
 * learns goes out through `emit`, its end as `done` (also returned). A HalftoneError that concerns one recipe is that
 * variant's `error`; one that concerns them all ends the job.
 */
export async function runTask(task: Task, emit: (event: TaskEvent) => void, signal: AbortSignal): Promise<JobResult> {
  return new TaskRun(task, emit, signal).run();
}

/** What all recipes start from. */
interface Given {
  prepared: Prepared;
  types: ValueTypes;
  /** Null where no static recipe, or no data, asks for it. */
  basis: { basis: StaticBasis; context: (variant: number, repairTo?: number) => StaticContext; branch: TakenBranch | null } | null;
  float: Session;
  firstFeeds: Record<string, TensorValue>;
}

/** A file that a recipe gave, not yet measured. */
interface Candidate {
  index: number;
  recipe: Recipe;
  path: string;
  result: VariantResult;
  /** SQNR that a static variant had on held-back samples. */
  heldDb: (() => Promise<number>) | null;
}

class TaskRun {
  readonly #task: Task;
  readonly #emit: (event: TaskEvent) => void;
  readonly #signal: AbortSignal;
  readonly #library: Library;
  readonly #runner: Runner;
  readonly #machine: Machine;
  readonly #started = performance.now();
  #done = 0;
  #total = 1;
  /** Stages that progress has counted: a repair, or a second pass of one, goes over the same ground. */
  readonly #counted = new Set<string>();

  constructor(task: Task, emit: (event: TaskEvent) => void, signal: AbortSignal) {
    this.#task = task;
    this.#emit = emit;
    this.#signal = signal;
    this.#library = loadLibrary(task.onnxRuntimeLibrary ?? undefined);
    this.#runner = createRunner(this.#library);
    this.#machine = detectMachine(this.#runner.version);
    this.#total = this.#weightOf(task.recipes);
  }

  async run(): Promise<JobResult> {
    const task = this.#task;
    const model = await this.#stage('read', undefined, () => readFloatModel(task.modelPath));
    const { float, prepared } = await this.#stage('prepare', undefined, () => this.#open(model));
    try {
      const calibration = task.calibrationPath ? await openDataset(task.calibrationPath, task.workDir, float.inputs) : null;
      const evaluation = task.evaluationPath ? await openDataset(task.evaluationPath, task.workDir, float.inputs) : null;
      const data = calibration ?? evaluation;
      const firstFeeds = data ? data.feed(0) : generateFeeds(float.inputs, task.shapes, task.seed);
      await float.run(firstFeeds).catch((cause: unknown) => {
        throw new HalftoneError('model-does-not-run', messageOf(cause), { cause });
      });
      const shapes = new Map(Object.entries(firstFeeds).map(([name, value]) => [name, value.dims]));
      const types = valueTypes(prepared, shapes);
      const basis = await this.#observe(model, { prepared, types }, shapes, calibration, this.#targetDb(evaluation, float));
      const given: Given = { prepared, types, basis, float, firstFeeds };
      const candidates: Candidate[] = [];
      const results: VariantResult[] = [];
      for (const [index, recipe] of task.recipes.entries()) {
        const result: VariantResult = { index, recipe, evaluation: null, benchmarks: [], kernels: null, error: null };
        results.push(result);
        try {
          candidates.push(await this.#make(index, recipe, result, given));
        } catch (cause) {
          this.#signal.throwIfAborted();
          if (!(cause instanceof HalftoneError)) throw cause;
          if (cause.code === 'canceled') throw cause;
          result.error = { code: cause.code, detail: cause.detail };
          this.#emit({ type: 'variant', variant: result });
        }
      }
      if (!candidates.length) {
        const first = results[0]!.error!;
        throw new HalftoneError(first.code as HalftoneError['code'], first.detail);
      }
      const baseline: VariantResult = { index: -1, recipe: null, evaluation: null, benchmarks: [], kernels: null, error: null };
      await this.#evaluate(float, candidates, baseline, evaluation ?? calibration, firstFeeds);
      for (const candidate of candidates) {
        await this.#repair(candidate, given, evaluation ?? calibration);
        // Told twice: what it is worth now, how fast it is once all are measured.
        this.#emit({ type: 'variant', variant: candidate.result });
      }
      await this.#benchmark(candidates, baseline, data, firstFeeds);
      for (const { result } of candidates) this.#emit({ type: 'variant', variant: result });
      const target = task.deviceProfiles[0]!;
      const { best, reason } = chooseBest(results, target.name, {
        maxAccuracyDrop: task.maxAccuracyDrop,
        memoryLimitBytes: task.deviceProfiles[0]!.memoryLimitBytes,
      });
      const result: JobResult = { baseline, variants: results, best, bestReason: reason };
      this.#emit({ type: 'done', result });
      await calibration?.close();
      await evaluation?.close();
      return result;
    } finally {
      float.close();
    }
  }

  /** The float model in the runtime, which opens it on a thread of its own, and the form of it that is quantized. */
  async #open(model: FloatModel): Promise<{ float: Session; prepared: Prepared }> {
    const opening = this.#runner.open(this.#task.modelPath, { threads: 0 });
    const [prepared, float] = await Promise.allSettled([prepare(model, { runner: this.#runner, equalize: true }), opening]);
    // What the runtime refuses explains whatever went wrong besides.
    if (float.status === 'rejected') throw new HalftoneError('model-does-not-run', messageOf(float.reason), { cause: float.reason });
    if (prepared.status === 'fulfilled') return { float: float.value, prepared: prepared.value };
    float.value.close();
    throw prepared.reason;
  }

  /** Observes the calibration data where a recipe needs it. */
  async #observe(
    model: FloatModel,
    whole: { prepared: Prepared; types: ValueTypes },
    shapes: Map<string, number[]>,
    calibration: Dataset | null,
    targetDb: number,
  ): Promise<Given['basis']> {
    if (!this.#task.recipes.some((r) => r.method === 'static')) return null;
    if (!calibration || calibration.groups === 0) return null;
    const data: CalibrationRuns = { runs: calibration.groups, feed: (run) => calibration.feed(run) };
    const profile = this.#task.deviceProfiles[0]!;
    const context = (variant: number | undefined, repairTo?: number): StaticContext => ({
      runner: this.#runner,
      profile,
      threads: 0,
      profileThreads: profile.threads ?? 0,
      workDir: this.#task.workDir,
      targetDb: repairTo ?? targetDb,
      repair: repairTo !== undefined,
      primaryOutput: this.#task.metric?.output ?? null,
      cachedCosts: (key) => this.#task.statistics[this.#costsKey(profile, key)] as LayerCosts | undefined,
      storeCosts: (key, costs) => this.#emit({ type: 'statistic', key: this.#costsKey(profile, key), value: costs }),
      stage: (name, work) => this.#stage(name, variant, work),
      progress: (stage, fraction) => this.#progress(stage, fraction, variant),
      signal: this.#signal,
    });
    const runs = function* () {
      for (let i = 0; i < data.runs; i++) yield data.feed(i);
    };
    // A network that lies inside an If is taken out of it for the time that it is quantized.
    const branch = await this.#stage('prepare', undefined, () => takenBranch(this.#runner, model, runs(), this.#task.workDir));
    const histograms = this.#task.recipes.some((r) => r.method === 'static' && r.activations?.calibration !== 'minmax');
    const observed = (prepared: Prepared['model'], types: ValueTypes) =>
      observeModel(prepared, types, data, context(undefined), { histograms });
    if (!branch) return { basis: await observed(whole.prepared.model, whole.types), context, branch };
    const straight = await this.#stage('prepare', undefined, () => prepare(branch.straight, { runner: this.#runner, equalize: true }));
    return { basis: await observed(straight.model, valueTypes(straight, shapes)), context, branch };
  }

  #costsKey(profile: DeviceProfile, recipeKey: string): string {
    const of = JSON.stringify([
      ENGINE_VERSION,
      this.#task.modelSha256,
      profile.name,
      profile.threads,
      this.#machine.cpu,
      this.#runner.version,
      // Another build runs other kernels, at other costs.
      this.#task.onnxRuntimeLibrary,
      recipeKey,
    ]);
    return `layer-costs:${createHash('sha256').update(of).digest('hex')}`;
  }

  /** One recipe's file, through the gate. */
  async #make(index: number, recipe: Recipe, result: VariantResult, given: Given, repairTo?: number): Promise<Candidate> {
    const task = this.#task;
    const profile = task.deviceProfiles[0]!;
    checkRecipe(recipe, `/recipes/${index}`, profile);
    const resolved = resolveRecipe(recipe, profile);
    const folder = join(task.workDir, 'variants', repairTo === undefined ? String(index) : `${index}-${repairTo.toFixed(1)}`);
    const path = join(folder, 'model.onnx');
    const made = await this.#quantize(index, resolved, given, repairTo);
    const opset = made.model.opsets.get('') ?? 0;
    if (opset > profile.highestOpset)
      throw new HalftoneError(
        'profile-forbids',
        `the variant needs opset ${opset}, and ${profile.name} takes at most ${profile.highestOpset}`,
      );
    const files = await this.#stage('emit', index, () => writeVariant(made.model, path));
    const passed = await this.#stage('gate', index, () =>
      gate(this.#runner, path, given.float, [given.firstFeeds], { threads: profile.threads ?? 0, workDir: task.workDir }),
    );
    const kernels: KernelReport = {
      ran: passed.ran,
      quantized: made.quantized ? made.quantized(passed.nodes) : [],
      leftInFloat: made.leftInFloat,
      notes: [...given.prepared.notes, ...made.notes],
    };
    result.files = files;
    result.kernels = kernels;
    result.manifest = {
      engineVersion: ENGINE_VERSION,
      input: { sha256: task.modelSha256 },
      recipe,
      resolvedRecipe: resolved,
      calibration: task.calibrationSha256,
      evaluation: task.evaluationSha256,
      versions: { onnxRuntime: this.#runner.version, node: process.versions.node },
      // Where it lies is this machine's own business.
      onnxRuntimeLibrary: task.onnxRuntimeLibrary === null ? 'onnxruntime-node' : 'ONNXRUNTIME_LIBRARY',
      machine: this.#machine,
      deviceProfile: profile.name,
      seed: task.seed,
      opsets: Object.fromEntries(made.model.opsets),
      layerCosts: made.costs ?? null,
      files: result.files.map(({ name, sizeBytes, sha256 }) => ({ name, sizeBytes, sha256 })),
    };
    return { index, recipe, path, result, heldDb: made.heldDb };
  }

  async #quantize(index: number, recipe: ResolvedRecipe, given: Given, repairTo?: number) {
    const { prepared, types, basis } = given;
    if (recipe.method === 'static') {
      if (!basis)
        throw new HalftoneError(
          'calibration-missing',
          'a static recipe takes its activation ranges from calibration data, and the job names none',
        );
      const made = await quantizeStatic(basis.basis, recipe, basis.context(index, repairTo));
      return {
        model: basis.branch ? basis.branch.wrap(made.model) : made.model,
        leftInFloat: made.leftInFloat,
        notes: basis.branch ? [basis.branch.note, ...made.notes] : made.notes,
        costs: made.costs,
        heldDb: made.heldDb,
        quantized: (nodes: Parameters<typeof integerUnits>[1]) => integerUnits(made.quantization, nodes),
      };
    }
    if (recipe.method === 'dynamic') {
      const made = await this.#stage('transform', index, async () =>
        quantizeDynamic(prepared.model, recipe, { shapes: types, avoidSaturation: this.#machine.architecture === 'x64' }),
      );
      return { model: made.model, leftInFloat: made.leftInFloat, notes: made.notes, heldDb: null, quantized: () => made.quantized };
    }
    const made = await this.#stage('transform', index, async () =>
      toFloat16(prepared.model, {
        compute: hasFloat16Kernels(this.#machine) ? 'float16' : 'float32',
        exclude: recipe.exclude,
        ...(basis && { ranges: new Map([...basis.basis.observations].map(([name, s]) => [name, { min: s.min, max: s.max }])) }),
      }),
    );
    return { model: made.model, leftInFloat: made.leftInFloat, notes: made.notes, heldDb: null, quantized: () => [] as string[] };
  }

  async #evaluate(
    float: Session,
    candidates: Candidate[],
    baseline: VariantResult | null,
    dataset: Dataset | null,
    feeds: Record<string, TensorValue>,
  ): Promise<void> {
    const sessions: Session[] = [];
    try {
      for (const c of candidates) sessions.push(await this.#runner.open(c.path, { threads: 0 }));
      const outcome = await this.#stage('evaluate', undefined, () =>
        evaluate({
          float,
          variants: sessions,
          dataset: dataset ?? oneSample(feeds),
          metric: this.#task.metric,
          seed: this.#task.seed,
          onProgress: (fraction) => this.#progress('evaluate', fraction),
          signal: this.#signal,
        }),
      );
      if (baseline) baseline.evaluation = outcome.baseline;
      candidates.forEach((c, i) => {
        const own = outcome.variants[i]!;
        c.result.evaluation = own.evaluation;
        if (own.error) c.result.error = own.error;
        else if (!own.finite)
          c.result.error = { code: 'gate-not-finite', detail: 'the quantized model gives NaN or Inf on the evaluation data' };
        // What is not finite or does not run is not published.
        if (c.result.error) {
          c.result.files = undefined;
          c.result.evaluation = null as Evaluation | null;
        }
      });
    } finally {
      for (const session of sessions) session.close();
    }
  }

  /**
   * A static variant that loses more than is allowed is made again with a higher target for the error on held-back samples,
   * so that more of its sensitive layers stay in float. The one that keeps the promise stays, else the one that loses least.
   */
  async #repair(candidate: Candidate, given: Given, dataset: Dataset | null): Promise<void> {
    const constraint = { maxAccuracyDrop: this.#task.maxAccuracyDrop };
    let target = Number.NEGATIVE_INFINITY;
    for (let attempt = 0; attempt < REPAIR.attempts; attempt++) {
      const { evaluation, error } = candidate.result;
      const problem = evaluation && !error ? qualityProblem(evaluation, constraint) : null;
      if (!problem || !candidate.heldDb || !evaluation) return;
      target = Math.max(target, await candidate.heldDb()) + REPAIR.stepDb;
      const result: VariantResult = {
        index: candidate.index,
        recipe: candidate.recipe,
        evaluation: null,
        benchmarks: [],
        kernels: null,
        error: null,
      };
      const next = await this.#make(candidate.index, candidate.recipe, result, given, target);
      await this.#evaluate(given.float, [next], null, dataset, given.firstFeeds);
      const better = result.evaluation && !result.error && lossOf(result.evaluation) < lossOf(evaluation);
      if (!better) continue;
      result.kernels?.notes.push(`made again with a target of ${target.toFixed(1)} dB, because ${problem}`);
      Object.assign(candidate, { path: next.path, heldDb: next.heldDb });
      Object.assign(candidate.result, result);
    }
  }

  async #benchmark(
    candidates: Candidate[],
    baseline: VariantResult,
    data: Dataset | null,
    firstFeeds: Record<string, TensorValue>,
  ): Promise<void> {
    const sound = candidates.filter((c) => !c.result.error);
    const feeds = data ? Array.from({ length: Math.min(BENCHMARK_FEEDS, data.groups) }, (_, i) => data.feed(i)) : [firstFeeds];
    const feedsPath = join(this.#task.workDir, 'feeds.bin');
    await writeFeeds(feedsPath, feeds);
    for (const profile of this.#task.deviceProfiles) {
      await this.#stage('benchmark', undefined, async () => {
        const threads = profile.threads ?? 0;
        const latency = await benchmarkModels({
          float: this.#task.modelPath,
          variants: sound.map((c) => c.path),
          feedsPath,
          threads,
          library: this.#library,
          signal: this.#signal,
          onProgress: (done) => this.#progress('benchmark', 0.7 * done),
        });
        const add = async (
          result: VariantResult,
          path: string,
          timing: { latencyMs: Benchmark['latencyMs']; speedup: Benchmark['speedup'] },
        ) => {
          const memory = await measureMemory({ model: path, feedsPath, threads, library: this.#library, signal: this.#signal });
          const limit = profile.memoryLimitBytes;
          if (limit !== null && memory.peakRssBytes > limit)
            result.kernels?.notes.push(`takes ${memory.peakRssBytes} bytes, and ${profile.name} has ${limit}`);
          result.benchmarks.push({ deviceProfile: profile.name, latencyMs: timing.latencyMs, speedup: timing.speedup, ...memory });
        };
        await add(baseline, this.#task.modelPath, { latencyMs: latency.float, speedup: { value: 1, ci95: [1, 1] } });
        for (const [i, candidate] of sound.entries()) await add(candidate.result, candidate.path, latency.variants[i]!);
      });
    }
  }

  /** SQNR below which layers go back to float: a stand-in for the accuracy asked for, on samples without labels. */
  #targetDb(evaluation: Dataset | null, float: Session): number {
    if (evaluation?.labels?.kind === 'class') return TARGET_DB.labels;
    if (evaluation?.labels?.kind === 'sequence') return TARGET_DB.sequences;
    const dims = float.outputs[0]?.dims ?? [];
    const trimmed = dims.length > 2 && dims.slice(2).every((d) => d === 1) ? dims.slice(0, 2) : dims;
    return trimmed.length === 2 && trimmed[1] !== 1 ? TARGET_DB.agreement : TARGET_DB.signal;
  }

  #weightOf(recipes: Recipe[]): number {
    const of = (stages: Stage[]) => stages.reduce((a, s) => a + WEIGHTS[s], 0);
    const per = recipes.reduce(
      (a, r) => a + of(r.method === 'static' ? ['measure', 'plan', 'transform', 'emit', 'gate'] : ['transform', 'emit', 'gate']),
      0,
    );
    return (
      of(['read', 'prepare', 'evaluate']) +
      (recipes.some((r) => r.method === 'static') ? WEIGHTS.observe : 0) +
      per +
      WEIGHTS.benchmark * this.#task.deviceProfiles.length
    );
  }

  #progress(stage: Stage, fraction: number, variant?: number): void {
    const progress = Math.min(0.999, (this.#done + WEIGHTS[stage] * Math.min(1, fraction)) / this.#total);
    const elapsed = (performance.now() - this.#started) / 1000;
    const etaSeconds = progress > 0.05 ? Math.round((elapsed / progress) * (1 - progress)) : null;
    this.#emit({ type: 'progress', stage, ...(variant !== undefined && { variant }), progress, etaSeconds });
  }

  /** Runs a stage with the machine shared or alone, and reports its time and peak memory. Waiting for the machine is not its time. */
  async #stage<T>(name: Stage, variant: number | undefined, work: () => Promise<T>): Promise<T> {
    this.#signal.throwIfAborted();
    this.#progress(name, 0, variant);
    return withMachine(
      this.#task.machineLockPath,
      ALONE.has(name) ? 'exclusive' : 'shared',
      async () => {
        resetPeak();
        const start = performance.now();
        const result = await work();
        const run: StageRun = {
          name,
          ...(variant !== undefined && { variant }),
          ms: performance.now() - start,
          peakRssBytes: residentMemory().peak,
        };
        const ground = `${name} ${variant}`;
        // Benchmarks are counted each: there is one for every profile.
        if (name === 'benchmark' || !this.#counted.has(ground)) this.#done += WEIGHTS[name];
        this.#counted.add(ground);
        this.#emit({ type: 'stage', run });
        this.#progress(name, 0, variant);
        return result;
      },
      this.#signal,
    );
  }
}

/** SQNR targets in dB, by what will be asked of the variant; from the table in engine.md, where agreement is seen beside SQNR. */
const TARGET_DB = { labels: 20, sequences: 20, agreement: 30, signal: 22 } as const;

/** How a variant that loses too much is made again. */
const REPAIR = { attempts: 3, stepDb: 2.5 } as const;

/** What a variant loses, for comparing two of one recipe: its drop with labels, else its disagreement, else its noise. */
function lossOf(evaluation: Evaluation): number {
  if (evaluation.metric !== 'agreement' && evaluation.metric !== 'sqnr') return evaluation.drop ?? 0;
  return evaluation.agreement !== null ? 1 - evaluation.agreement : -(evaluation.sqnrDb ?? 0);
}

const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

/** A data set of one generated sample, for jobs without data. */
function oneSample(feeds: Record<string, TensorValue>): Dataset {
  return {
    samples: 1,
    batch: 1,
    groups: 1,
    leftOut: 0,
    labels: null,
    sampleShapes: new Map(),
    feed: () => feeds,
    close: async () => {},
  };
}
