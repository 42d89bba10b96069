import { eachAtATime } from '../at-a-time.ts';
import type { Quantization } from '../emit/emit.ts';
import type { Observations } from '../observe/observe.ts';
import type { Unit } from '../plan/units.ts';
import { unitWeight } from '../transform/weights.ts';

/** Of the runs asked for, this share first goes to groups of like expected noise; what is left splits the noisiest. */
const FIRST_SHARE = 0.5;

/**
 * Each unit's own noise at the model's outputs: the error with it alone in integers, as `noise` measures it for a set of units.
 * Layers' noises add up nearly independently (Nagel et al. 2021, §4: per-layer sensitivity), so that a plan's noise is about
 * the sum over its integer units; and so a group's noise can be measured in one go. One measurement costs a session and some runs.
 *
 * 1. Where `most` measurements reach, each unit is measured alone.
 * 2. Else neighbours are measured together, and the group that is noisiest is halved, and halved again, until all are used
 *    up: a network's noise comes from few of its layers as a rule (group testing: Dorfman 1943).
 * 3. A group's noise is shared out by what each of its units is expected to add (`expected`): neighbours have about the same way to go
 *    to the outputs, so that they differ in how coarse their own grids are.
 */
export async function sensitivities(
  units: Unit[],
  noise: (units: Unit[]) => Promise<number>,
  options: {
    most: number;
    expected: (unit: Unit) => number;
    atATime: number;
    progress: (fraction: number) => void;
    signal?: AbortSignal;
  },
): Promise<Map<number, number>> {
  const most = Math.min(units.length, Math.max(2, options.most));
  let measured = 0;
  const measure = async (groups: Unit[][]): Promise<Group[]> => {
    const found: Group[] = [];
    await eachAtATime(groups.entries(), options.atATime, async ([i, group]) => {
      options.signal?.throwIfAborted();
      found[i] = { units: group, noise: await noise(group) };
      options.progress(Math.min(1, ++measured / most));
    });
    return found;
  };

  const expected = new Map(units.map((unit) => [unit.id, Math.max(1e-12, options.expected(unit))]));
  const weightOf = (group: Unit[]) => group.reduce((sum, unit) => sum + expected.get(unit.id)!, 0);
  const alone = units.length <= options.most;
  const groups = await measure(
    alone ? units.map((unit) => [unit]) : partition(units, Math.max(2, Math.floor(most * FIRST_SHARE)), weightOf),
  );
  while (!alone && measured + 2 <= most) {
    const noisiest = groups
      .filter((group) => group.units.length > 1)
      .reduce<Group | null>((most, group) => (most && most.noise >= group.noise ? most : group), null);
    if (!noisiest) break;
    groups.splice(groups.indexOf(noisiest), 1, ...(await measure(partition(noisiest.units, 2, weightOf))));
  }
  const own = new Map<number, number>();
  for (const group of groups) {
    const whole = weightOf(group.units);
    for (const unit of group.units) own.set(unit.id, (group.noise * expected.get(unit.id)!) / whole);
  }
  return new Map(units.map((unit) => [unit.id, own.get(unit.id)!]));
}

interface Group {
  units: Unit[];
  noise: number;
}

/** Neighbours in `count` groups of about the same weight, none of them empty. */
function partition(units: Unit[], count: number, weightOf: (group: Unit[]) => number): Unit[][] {
  const groups: Unit[][] = [[]];
  const whole = weightOf(units);
  let before = 0;
  for (const [i, unit] of units.entries()) {
    const last = groups.at(-1)!;
    const weight = weightOf([unit]);
    const [left, missing] = [units.length - i, count - groups.length];
    const full = before + weight / 2 > (whole * groups.length) / count;
    if (last.length && missing > 0 && (full || left <= missing)) groups.push([unit]);
    else last.push(unit);
    before += weight;
  }
  return groups;
}

/**
 * The noise ÷ power that a unit is expected to add where it stands: Δ²/12 of each grid that it reads or writes (Widrow &
 * Kollár 2008, uniform noise model) over the mean square of what lies on it, and the same of its weights by channel. No run is needed.
 */
export function expectedNoise(unit: Unit, quantization: Quantization, observations: Observations): number {
  const anchor = unit.nodes[0]!;
  let noise = 0;
  for (const value of new Set([...unit.inputs.map((i) => anchor.inputs[i]!), ...unit.outputs.filter(Boolean)])) {
    const statistics = observations.get(value);
    if (!statistics?.count || !(statistics.sumSquares > 0)) continue;
    noise += quantization.grid(value).scale ** 2 / 12 / (statistics.sumSquares / statistics.count);
  }
  const weight = quantization.weights.get(unit.id);
  if (weight) {
    let power = 0;
    for (const w of unitWeight(unit)) power += w * w;
    const steps = weight.scales.reduce((sum, scale) => sum + scale * scale, 0) / weight.scales.length;
    if (power > 0) noise += ((steps / 12) * weight.data.length) / power;
  }
  return noise;
}
