import type { Observations } from '../observe/observe.ts';
import { rangesBy } from '../observe/observe.ts';
import { decibels } from '../quality.ts';
import type { Judged, Trials } from './trials.ts';

/**
 * The numbers of a whole plan: each correction is tried on held-back samples and kept only where it lowers the error there.
 * 1. Ranges: least and greatest value, or those of least expected error.
 * 2. Weights: to nearest, or with the error compensated (`moments`: layers' second moments, null = not to be tried).
 * 3. Biases: corrected, or left.
 */
export async function chooseNumbers(
  trials: Trials,
  planned: ReadonlySet<number>,
  observations: Observations,
  moments: Promise<ReadonlyMap<number, Float64Array>> | null,
): Promise<{ best: Judged; notes: string[] }> {
  const notes: string[] = [];
  const under = (rule: 'minmax' | 'auto') =>
    trials.judge(planned, { name: rule, ranges: rangesBy(rule, observations), correctBias: true, moments: null });
  // What does not wait for another runs beside it: half of a trial is the runtime opening a model on one thread.
  const [plain, adapted, known] = await Promise.all([under('minmax'), under('auto'), moments]);
  let best = adapted.noise < plain.noise ? adapted : plain;
  const nearest = best;
  const rounding = known?.size ? known : null;
  const [compensated, uncorrected] = await Promise.all([
    rounding ? trials.judge(planned, { ...nearest.choice, moments: rounding }) : null,
    trials.judge(planned, { ...nearest.choice, correctBias: false }),
  ]);
  if (compensated && compensated.noise < best.noise) best = compensated;
  if (uncorrected.noise < nearest.noise) {
    // Better without it to nearest; then, where the rounding stays compensated, that is tried without it, too.
    const neither = best === nearest ? uncorrected : await trials.judge(planned, { ...best.choice, correctBias: false });
    if (neither.noise < best.noise) best = neither;
  }
  notes.push(
    `ranges: ${best.choice.name === 'auto' ? 'least expected error by tensor' : best.choice.name}, ${decibels(best.noise).toFixed(1)} dB`,
  );
  const change = (to: Judged, from: Judged) => `it changed the error by ${(decibels(to.noise) - decibels(from.noise)).toFixed(1)} dB`;
  if (compensated)
    notes.push(
      `error-compensated rounding of ${rounding!.size} layers: ${best.choice.moments ? 'kept' : 'not kept'}, ${change(compensated, nearest)}`,
    );
  notes.push(`bias correction: ${best.choice.correctBias ? 'kept' : 'not kept'}, ${change(nearest, uncorrected)}`);
  return { best, notes };
}
