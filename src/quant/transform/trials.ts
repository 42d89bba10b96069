import type { DeviceProfile } from '../../domain/profile.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import type { Runner, TensorValue } from '../../domain/runner.ts';
import type { Model } from '../../onnx/model.ts';
import { emit, type Quantization } from '../emit/emit.ts';
import type { Observations } from '../observe/observe.ts';
import type { Unit } from '../plan/units.ts';
import { noiseOf } from '../quality.ts';
import { openModel } from '../session.ts';
import { type Choice, type CodesCache, quantizationUnder } from './candidate.ts';

/** A plan with its numbers, and what it loses. */
export interface Judged {
  quantized: ReadonlySet<number>;
  choice: Choice;
  quantization: Quantization;
  /** Noise ÷ power at the outputs, on the samples that it was run on. */
  noise: number;
}

export interface TrialsInput {
  runner: Runner;
  profile: DeviceProfile;
  recipe: ResolvedRecipe;
  prepared: Model;
  units: Unit[];
  observations: Observations;
  /** Samples, and the float model's outputs for them. */
  held: Record<string, TensorValue>[];
  reference: Record<string, TensorValue>[];
  /** The output that is compared; null = the first. */
  primaryOutput: string | null;
  threads: number;
  workDir: string;
}

export interface TrialRun {
  /** Of the samples, the first so many; all of them by default. */
  samples?: number;
  /** Without the runtime's optimizations: the same numbers but for the kernels' own rounding, opened in half the time and run in twice. */
  asWritten?: boolean;
}

/** Runs at once, at most: libuv's pool has four threads. */
const AT_A_TIME = 4;

/** Quantized models, made and run on held-back samples. */
export class Trials {
  readonly #input: TrialsInput;
  readonly #threads: number;
  /** How many runs, or trials, pay at once: small operators gain little from two threads. */
  readonly atATime: number;
  readonly #codes: CodesCache = new Map();

  constructor(input: TrialsInput) {
    this.#input = input;
    const cores = input.threads || input.runner.cores;
    this.atATime = Math.min(AT_A_TIME, cores);
    this.#threads = Math.max(1, Math.floor(cores / this.atATime));
  }

  /** A plan's numbers under a choice. */
  quantization(quantized: ReadonlySet<number>, choice: Choice): Promise<Quantization> {
    const { prepared } = this.#input;
    return quantizationUnder({ ...this.#input, constant: (name) => prepared.graph.initializers.get(name) }, quantized, choice, this.#codes);
  }

  /** A plan under a choice, run on samples. */
  async judge(quantized: ReadonlySet<number>, choice: Choice, run: TrialRun = {}): Promise<Judged> {
    const quantization = await this.quantization(quantized, choice);
    const noise = await this.noiseOf(emit(this.#input.prepared, quantization, this.#input.recipe.format), run);
    return { quantized, choice, quantization, noise };
  }

  /** A model's noise ÷ power against the float model. What the runtime refuses is as bad as can be: another plan is taken then, and the gate says so where there is none. */
  async noiseOf(model: Model, { samples = this.#input.held.length, asWritten = false }: TrialRun = {}): Promise<number> {
    const { runner, workDir, held, reference, primaryOutput } = this.#input;
    try {
      const session = await openModel(runner, model, workDir, { threads: this.#threads, ...(asWritten && { optimization: 'disable' }) });
      try {
        return await noiseOf(session, held.slice(0, samples), reference, primaryOutput, this.atATime);
      } finally {
        session.close();
      }
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  }
}
