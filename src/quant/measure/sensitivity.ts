import type { Unit } from '../plan/units.ts';

/**
 * Each unit's own noise at the model's outputs: the error with it alone in integers, on the samples that `noise` runs.
 * Layers' noises add up nearly independently (Nagel et al. 2021, §4: per-layer sensitivity), so that a plan's noise is about
 * the sum over its integer units. Costs one session and a few runs a unit, `atATime` of them at once; only done where a plan misses its target.
 */
export async function sensitivities(
  units: Unit[],
  noise: (unit: Unit) => Promise<number>,
  progress: (fraction: number) => void,
  atATime: number,
  signal?: AbortSignal,
): Promise<Map<number, number>> {
  const own = new Map<number, number>();
  const queue = (function* () {
    yield* units;
  })();
  const worker = async (): Promise<void> => {
    // Leaving the loop by an error ends the queue for the others, too.
    for (const unit of queue) {
      signal?.throwIfAborted();
      own.set(unit.id, await noise(unit));
      progress(own.size / units.length);
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: atATime }, worker));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return new Map(units.map((unit) => [unit.id, own.get(unit.id)!]));
}
