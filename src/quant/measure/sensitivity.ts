import type { Unit } from '../plan/units.ts';

/**
 * Each unit's own noise at the model's outputs: the error with it alone in integers, on the samples that `noise` runs.
 * Layers' noises add up nearly independently (Nagel et al. 2021, §4: per-layer sensitivity), so that a plan's noise is about
 * the sum over its integer units. Costs one session and a few runs a unit; only done where a plan misses its target.
 */
export async function sensitivities(
  units: Unit[],
  noise: (unit: Unit) => Promise<number>,
  progress: (fraction: number) => void,
  signal?: AbortSignal,
): Promise<Map<number, number>> {
  const own = new Map<number, number>();
  for (const [i, unit] of units.entries()) {
    signal?.throwIfAborted();
    own.set(unit.id, await noise(unit));
    progress((i + 1) / units.length);
  }
  return own;
}
