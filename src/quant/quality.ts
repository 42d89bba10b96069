import type { Session, TensorValue } from '../domain/runner.ts';

/** Values of a float32 tensor, copied where its bytes are not aligned. */
export function floats(value: TensorValue): Float32Array {
  const bytes = value.bytes.byteOffset % 4 === 0 ? value.bytes : value.bytes.slice();
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
}

/** Σ ref² and Σ (ref − got)² of each float output, over samples. */
interface OutputError {
  power: number;
  noise: number;
}

/** Probabilities below this are one and the same: an integer Softmax can't tell them from nothing. */
const LEAST_PROBABILITY = 1 / 512;
/** How far a row of probabilities may be from 1 in all. */
const SUM_TOLERANCE = 1e-3;

/** Whether a value holds distributions over classes along a sequence: what a recogniser gives for each step. */
function isSequenceOfProbabilities(value: TensorValue): boolean {
  const classes = value.dims.at(-1) ?? 0;
  if (value.type !== 'float32' || value.dims.length < 3 || classes < 3) return false;
  const x = floats(value);
  for (let row = 0; row < x.length; row += classes) {
    let sum = 0;
    for (let i = row; i < row + classes; i++) {
      if (!(x[i]! >= 0)) return false;
      sum += x[i]!;
    }
    if (Math.abs(sum - 1) > SUM_TOLERANCE) return false;
  }
  return x.length > 0;
}

/** How far a probability is above the least that counts, on a logarithmic scale; NaN of NaN. */
const evidence = (probability: number): number => (probability <= LEAST_PROBABILITY ? 0 : Math.log(probability / LEAST_PROBABILITY));
const asItIs = (value: number): number => value;

/**
 * Adds one run's outputs to the errors. A value that is not finite counts as infinite noise, unless the float model's is the same.
 * Sequences of probabilities are compared by their logarithms: a recogniser's spikes are steep, and one that moves by a step, which changes
 * no text, would count for more than all that went before it.
 */
function addErrors(errors: Map<string, OutputError>, reference: Record<string, TensorValue>, got: Record<string, TensorValue>): void {
  for (const [name, r] of Object.entries(reference)) {
    if (r.type !== 'float32') continue;
    const g = got[name];
    const error = errors.get(name) ?? { power: 0, noise: 0 };
    errors.set(name, error);
    if (!g || g.bytes.byteLength !== r.bytes.byteLength) {
      error.noise = Number.POSITIVE_INFINITY;
      continue;
    }
    const [x, y] = [floats(r), floats(g)];
    const scale = isSequenceOfProbabilities(r) ? evidence : asItIs;
    let power = 0;
    let noise = 0;
    for (let i = 0; i < x.length; i++) {
      if (!Number.isFinite(x[i]!)) {
        if (!Object.is(x[i], y[i])) noise = Number.POSITIVE_INFINITY;
        continue;
      }
      const a = scale(x[i]!);
      const d = a - scale(y[i]!);
      power += a * a;
      noise += d * d;
    }
    error.power += power;
    error.noise += Number.isFinite(noise) ? noise : Number.POSITIVE_INFINITY;
  }
}

/** How much less the outputs beside the compared one count: they are often sparse maps whose own SQNR says little. */
const SECONDARY = 0.1;

/**
 * Noise ÷ power of the compared output, or a tenth of another output's where that is worse: no output is given up for the
 * one that is compared. 0 = exact. `primary` null: the first.
 */
function relativeNoise(errors: ReadonlyMap<string, OutputError>, primary: string | null = null): number {
  let worst = 0;
  const first = primary ?? errors.keys().next().value;
  for (const [name, { power, noise }] of errors) {
    const relative = noise === 0 ? 0 : noise / Math.max(power, 1e-30);
    worst = Math.max(worst, name === first ? relative : SECONDARY * relative);
  }
  return worst;
}

export const decibels = (noise: number): number => (noise > 0 ? Math.min(60, -10 * Math.log10(noise)) : 60);

/** A model's outputs for each run, with the float model's beside them; `atATime` runs at once. */
export async function noiseOf(
  session: Session,
  runs: Record<string, TensorValue>[],
  reference: Record<string, TensorValue>[],
  primary: string | null,
  atATime = 1,
): Promise<number> {
  const got: Promise<Record<string, TensorValue>>[] = [];
  const begin = (i: number) => {
    if (i >= runs.length) return;
    got[i] = session.run(runs[i]!, Object.keys(reference[i]!));
    // Its error is met below, maybe only after an earlier run's.
    got[i].catch(() => undefined);
  };
  for (let i = 0; i < atATime; i++) begin(i);
  const errors = new Map<string, OutputError>();
  try {
    // In the order of the runs, so that the sums are the same however many run at once.
    for (let i = 0; i < runs.length; i++) {
      const outputs = await got[i]!;
      begin(i + atATime);
      addErrors(errors, reference[i]!, outputs);
      delete got[i];
    }
  } finally {
    await Promise.allSettled(got);
  }
  return relativeNoise(errors, primary);
}
