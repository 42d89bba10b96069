/**
 * Signal to quantization noise: 10·log10(Σ ref² ÷ Σ (ref − got)²) over all values and samples, one number in dB, at most 60;
 * cosine and the largest error come from the same pass.
 */
import type { TensorValue } from '../../domain/runner.ts';
import { isFloat } from '../elements.ts';
import { bootstrapRatio } from '../interval.ts';
import { outputValues } from './decisions.ts';
import type { Accumulator, MetricDefinition, MetricResult } from './metric.ts';

/** Shown up to here: beyond it two files are alike for every purpose, and a perfect copy has no figure at all. */
export const SQNR_CAP = 60;
/** The other end, so that a report never holds −∞. */
const SQNR_FLOOR = -200;

/** dB from two energies, within −200 and 60. */
export function decibels(signal: number, noise: number): number {
  if (noise <= 1e-30) return SQNR_CAP;
  if (!Number.isFinite(signal) || !Number.isFinite(noise)) return SQNR_FLOOR;
  return Math.max(SQNR_FLOOR, Math.min(SQNR_CAP, 10 * Math.log10(signal / noise)));
}

export interface SqnrResult extends MetricResult {
  cosine: number;
  maxError: number;
}

/** Sums of one stream of float outputs. Two numbers a run are kept for the interval. */
export class SqnrAccumulator implements Accumulator {
  readonly #signals: number[] = [];
  readonly #noises: number[] = [];
  readonly #seed: number;
  #dot = 0;
  #gotSquares = 0;
  #maxError = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  update(reference: TensorValue, got: TensorValue): void {
    const [a, b] = [outputValues(reference), outputValues(got)];
    let [signal, noise, dot, squares, maxError] = [0, 0, 0, 0, this.#maxError];
    for (let i = 0; i < a.length; i++) {
      const x = a[i]!;
      const y = b[i]!;
      const error = Math.abs(x - y);
      signal += x * x;
      noise += error * error;
      dot += x * y;
      squares += y * y;
      if (error > maxError) maxError = error;
    }
    this.#signals.push(signal);
    this.#noises.push(noise);
    this.#dot += dot;
    this.#gotSquares += squares;
    this.#maxError = maxError;
  }

  /** Σ ref². */
  get signal(): number {
    return this.#signals.reduce((x, y) => x + y, 0);
  }

  /** Σ (ref − got)². */
  get noise(): number {
    return this.#noises.reduce((x, y) => x + y, 0);
  }

  result(): SqnrResult {
    const { signal, noise } = this;
    const value = decibels(signal, noise);
    const lengths = Math.sqrt(signal * this.#gotSquares);
    return {
      value,
      floatValue: SQNR_CAP,
      drop: SQNR_CAP - value,
      ci95: bootstrapRatio(this.#signals, this.#noises, decibels, this.#seed),
      dropStandardError: null,
      samples: this.#signals.length,
      cosine: lengths > 0 ? Math.max(-1, Math.min(1, this.#dot / lengths)) : noise === 0 ? 1 : 0,
      maxError: this.#maxError,
    };
  }
}

export const sqnr: MetricDefinition = {
  name: 'sqnr',
  needs: (traits) => (isFloat(traits.type) ? null : `needs an output of floats; '${traits.name}' is of ${traits.type}`),
  start: ({ seed }) => new SqnrAccumulator(seed),
};
