import type { ProfiledNode, Runner, Session, TensorValue } from '../../domain/runner.ts';
import { feedInputs, type Model, type TensorType } from '../../onnx/model.ts';
import { chooseByCost, crossingUs } from '../plan/plan.ts';
import type { Unit } from '../plan/units.ts';
import { openModel } from '../session.ts';
import type { LayerCosts } from './costs.ts';

export interface MeasureInput {
  runner: Runner;
  prepared: Model;
  units: Unit[];
  /** Ids of the units that may run in integers. */
  allowed: ReadonlySet<number>;
  types: ReadonlyMap<string, TensorType>;
  /** Writes the model with these units in integers. */
  emit: (quantized: ReadonlySet<number>) => Model;
  feeds: Record<string, TensorValue>[];
  threads: number;
  workDir: string;
  signal?: AbortSignal;
}

/**
 * The name among the `known` that the runtime's optimizer made a node's name from: `X_token_12`, `X_nchwc`, `X/duplicated`,
 * `X/QuickGeluFusion/`, `fused X` (Gemm and Conv with an activation). Where none is known, the name without all of these.
 */
export function originalName(name: string, known: { has: (name: string) => boolean } = { has: () => false }): string {
  let out = name;
  while (!known.has(out)) {
    const shorter = out.replace(/(_token_\d+|_nchwc|_nhwc|\/duplicated|\/\w+Fusion\/?)$/, '');
    const bare = shorter === out ? out.replace(/^fused /, '') : shorter;
    if (bare === out) break;
    out = bare;
  }
  return out;
}

/** µs of each unit in a profile: a node belongs to the unit whose node or value it is named after; a stray DequantizeLinear to the next unit, a QuantizeLinear to the one before. */
function unitCosts(units: Unit[], nodes: ProfiledNode[]): Map<number, number> {
  const owner = new Map<string, number>();
  for (const unit of units) {
    for (const value of unit.nodes.flatMap((n) => n.outputs)) if (value) owner.set(value, unit.id);
  }
  for (const unit of units) for (const node of unit.nodes) owner.set(node.name, unit.id);
  const costs = new Map<number, number>();
  const add = (id: number | undefined, us: number) => {
    if (id !== undefined) costs.set(id, (costs.get(id) ?? 0) + us);
  };
  let waiting = 0;
  let last: number | undefined;
  for (const node of nodes) {
    const id =
      node.operator === 'DequantizeLinear' || node.operator === 'QuantizeLinear' ? undefined : owner.get(originalName(node.name, owner));
    if (id !== undefined) {
      add(id, node.us + waiting);
      waiting = 0;
      last = id;
    } else if (node.operator === 'DequantizeLinear') waiting += node.us;
    else if (node.operator === 'QuantizeLinear') add(last, node.us);
  }
  return costs;
}

const median = (x: ArrayLike<number>): number => {
  const sorted = Float64Array.from(x).sort();
  return sorted.length ? (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2 : Number.NaN;
};

/** Runs a model with the profiler on for about `seconds`. */
async function profile(input: MeasureInput, model: Model, seconds = 0.25): Promise<{ nodes: ProfiledNode[]; ms: number }> {
  const options = { threads: input.threads };
  const session = await openModel(input.runner, model, input.workDir, { ...options, profilePrefix: `${input.workDir}/profile` });
  try {
    const feeds = input.feeds[0]!;
    let start = performance.now();
    await session.run(feeds);
    const once = performance.now() - start;
    const runs = Math.max(4, Math.min(60, Math.round((seconds * 1000) / Math.max(once, 0.05))));
    start = performance.now();
    for (let i = 0; i < runs; i++) await session.run(feeds);
    const ms = (performance.now() - start) / runs;
    return { nodes: await session.endProfile(), ms };
  } finally {
    session.close();
  }
}

/** What conversions are taken to cost, relative to the estimate: one guess would miss models whose layouts change at them. */
const CROSSING_FACTORS = [0.4, 1, 2.5];

/**
 * Plans that are good often enough to be raced whatever the profile said (a profile taken on a busy machine misleads the cut):
 * the layers with weights alone; those and what moves data between them; everything but the layers that read the inputs.
 */
function usualPlans(units: Unit[], allowed: ReadonlySet<number>, inputs: ReadonlySet<string>): Set<number>[] {
  const where = (keep: (unit: Unit) => boolean) => new Set(units.filter((u) => allowed.has(u.id) && keep(u)).map((u) => u.id));
  const readsInput = (unit: Unit) => unit.nodes[0]!.inputs.some((value) => inputs.has(value));
  const weighted = (unit: Unit) => unit.weight !== null;
  return [where(weighted), where((u) => (weighted(u) || u.row!.moves === true) && !readsInput(u)), where((u) => !readsInput(u))];
}

/**
 * Of the connected parts of a plan, the one with the greatest gain once its conversions are paid (which may be below zero); of an
 * empty plan, the one layer that loses least.
 */
function leastLoss(
  units: Unit[],
  allowed: ReadonlySet<number>,
  plan: ReadonlySet<number>,
  costs: LayerCosts['units'],
  types: ReadonlyMap<string, TensorType>,
): Set<number> {
  if (!plan.size) {
    const loss = (unit: Unit) => (costs[unit.name]?.integerUs ?? Number.POSITIVE_INFINITY) - (costs[unit.name]?.floatUs ?? 0);
    const [least] = units.filter((u) => allowed.has(u.id) && !u.row!.moves).sort((a, b) => loss(a) - loss(b));
    return new Set(least ? [least.id] : []);
  }
  const makers = new Map<string, Unit>();
  for (const unit of units) for (const output of unit.outputs) if (output) makers.set(output, unit);
  const island = new Map<number, Set<number>>();
  for (const unit of units) {
    if (!plan.has(unit.id)) continue;
    let own = new Set([unit.id]);
    for (const value of unit.nodes[0]!.inputs) {
      const before = makers.get(value);
      const other = before && island.get(before.id);
      if (!other || other === own) continue;
      for (const id of own) other.add(id);
      own = other;
      for (const id of own) island.set(id, own);
    }
    island.set(unit.id, own);
  }
  const crossings = new Map([...new Set(island.values())].map((set) => [set, 0]));
  for (const unit of units) {
    for (const value of new Set(unit.nodes.flatMap((n) => n.inputs))) {
      const [from, to] = [island.get(makers.get(value)?.id ?? -1), island.get(unit.id)];
      if (from === to) continue;
      for (const set of [from, to]) if (set) crossings.set(set, crossings.get(set)! + crossingUs(value, types));
    }
  }
  const gain = (set: Set<number>) =>
    [...set].reduce((sum, id) => {
      const cost = costs[units[id]!.name];
      return sum + (cost?.floatUs ?? 0) - (cost?.integerUs ?? 0);
    }, -crossings.get(set)!);
  const heavy = [...crossings.keys()].filter((set) => [...set].some((id) => !units[id]!.row?.moves));
  return heavy.sort((a, b) => gain(b) - gain(a))[0] ?? new Set();
}

/**
 * What each layer costs in float and in integers on this profile, and how fast whole plans made from that are.
 *
 * 1. The float model and the model with everything quantized that may be are profiled: each layer's cost in its place, with
 *    the layout and the fusions it really gets.
 * 2. From these costs a minimum cut gives plans, for several prices of a conversion; the fastest is profiled in turn, so
 *    that a layer left in float among integers is charged what it really costs there, and cut again.
 * 3. All plans are run against the float model, interleaved. The ratio that a user will see decides, not a sum of parts.
 */
export async function measure(input: MeasureInput): Promise<LayerCosts> {
  const { units, allowed } = input;
  const float = await profile(input, input.prepared);
  input.signal?.throwIfAborted();
  const floatUs = unitCosts(units, float.nodes);
  const full = await profile(input, input.emit(allowed));
  const integerUs = unitCosts(units, full.nodes);
  const table = (): LayerCosts['units'] =>
    Object.fromEntries(
      units.map((u) => [u.name, { floatUs: floatUs.get(u.id) ?? 0, integerUs: allowed.has(u.id) ? (integerUs.get(u.id) ?? 0) : null }]),
    );
  const plans = new Map<string, Set<number>>();
  const key = (plan: ReadonlySet<number>) => [...plan].sort((a, b) => a - b).join(' ');
  const add = (plan: Set<number>) => plan.size && plans.set(key(plan), plan);
  add(new Set(allowed));
  for (const plan of usualPlans(units, allowed, new Set(feedInputs(input.prepared.graph).map((i) => i.name)))) add(plan);
  const cut = () => {
    const before = plans.size;
    for (const factor of CROSSING_FACTORS) add(chooseByCost(units, allowed, { units: table() }, input.types, factor));
    // Nothing pays: the island that loses least, so that what is handed out is as little slower as can be.
    if (plans.size <= 4)
      add(leastLoss(units, allowed, chooseByCost(units, allowed, { units: table() }, input.types, 0), table(), input.types));
    return plans.size > before;
  };
  cut();

  const ratios = new Map<string, number>();
  const floatSession = await openModel(input.runner, input.prepared, input.workDir, { threads: input.threads });
  try {
    const race = async () => {
      const waiting = [...plans].filter(([k]) => !ratios.has(k));
      const sessions: Session[] = [];
      try {
        const raced: string[] = [];
        for (const [k, plan] of waiting) {
          const session = await openModel(input.runner, input.emit(plan), input.workDir, { threads: input.threads }).catch(() => null);
          // Parts of a plan that loads have been seen not to: such a plan is out of the race.
          const runs = await session?.run(input.feeds[0]!).then(
            () => true,
            () => false,
          );
          if (runs) {
            sessions.push(session!);
            raced.push(k);
          } else {
            session?.close();
            ratios.set(k, 0);
          }
        }
        if (!sessions.length) return;
        const seconds = Math.min(3, Math.max(0.4, (float.ms / 1000) * 12)) * sessions.length;
        const times = await input.runner.interleave([floatSession, ...sessions], input.feeds.slice(0, 1), { blocks: 7, seconds });
        raced.forEach((k, i) => {
          ratios.set(k, median(times[0]!.map((block, b) => median(block) / median(times[i + 1]![b]!))));
        });
      } finally {
        for (const session of sessions) session.close();
      }
    };
    await race();
    input.signal?.throwIfAborted();
    const fastest = () => [...ratios].sort((a, b) => b[1] - a[1])[0];
    for (let round = 0; round < 2; round++) {
      const best = fastest();
      if (!best) break;
      const plan = plans.get(best[0])!;
      const seen = unitCosts(units, (await profile(input, input.emit(plan))).nodes);
      // What was measured in this plan replaces what was measured elsewhere.
      for (const unit of units) {
        const us = seen.get(unit.id);
        if (us === undefined) continue;
        (plan.has(unit.id) ? integerUs : floatUs).set(unit.id, us);
      }
      if (!cut()) break;
      await race();
      input.signal?.throwIfAborted();
    }
  } finally {
    floatSession.close();
  }
  const names = (plan: ReadonlySet<number>) => units.filter((u) => plan.has(u.id)).map((u) => u.name);
  return {
    version: 1,
    units: table(),
    candidates: [...ratios].sort((a, b) => b[1] - a[1]).map(([k, speedup]) => ({ integer: names(plans.get(k)!), speedup })),
  };
}
