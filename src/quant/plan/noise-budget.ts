import type { TensorType } from '../../onnx/model.ts';
import type { LayerCosts } from '../measure/costs.ts';
import { chooseByCost } from './plan.ts';
import type { Unit } from './units.ts';

export interface NoiseBudgetInput<Judged extends { noise: number }> {
  units: Unit[];
  /** The plan that is too noisy; only its units may stay in integers. */
  planned: ReadonlySet<number>;
  start: Judged;
  /** Each unit's own noise (measure/sensitivity.ts). */
  own: ReadonlyMap<number, number>;
  costs: LayerCosts['units'];
  types: ReadonlyMap<string, TensorType>;
  /** Noise ÷ power allowed at the outputs. */
  budget: number;
  /** Runs a plan on the held-back samples. */
  judge: (plan: ReadonlySet<number>) => Promise<Judged>;
  signal?: AbortSignal;
}

/** Prices that are looked at, each so much above the one before; only a few of their plans are run. */
const LADDER = { first: 0.001, factor: 1.3, steps: 70 };
/** Plans that are run, at most. */
const MOST_JUDGED = 6;
/** A plan this near below the budget (in noise) is near enough. */
const NEAR = 0.8;
/** What a plan that failed is taken to add to the forecast, at least. */
const CAUTION = 1.15;
/** Conversions at full price first; where nothing would be left in integers, at less. */
const CROSSING_FACTORS = [1, 0.4, 0.1];

/**
 * The fastest plan within a noise budget, by pricing noise (a Lagrangian relaxation, as in Shoham & Gersho 1988 for bit
 * allocation): each unit's integer cost is raised by price · its own noise, and the minimum cut taken.
 *
 * 1. A plan's noise is forecast as the sum of its units' own, times what the last plan that was run had over its forecast.
 * 2. The lowest price whose forecast keeps the budget is tried by running its plan, between the highest price that failed and
 *    the lowest that did not, a few times.
 * 3. Where no price keeps the budget, the least noisy plan that was run.
 */
export async function withinNoiseBudget<Judged extends { noise: number }>(
  input: NoiseBudgetInput<Judged>,
): Promise<{ plan: ReadonlySet<number>; judged: Judged }> {
  const { units, planned, own, costs, types, budget } = input;
  const total = Object.values(costs).reduce((sum, cost) => sum + cost.floatUs, 0) || 1;
  const steps = Array.from({ length: LADDER.steps }, (_, i) => planOnStep(i));
  const forecast = (plan: ReadonlySet<number>) => [...plan].reduce((sum, id) => sum + (own.get(id) ?? 0), 0);
  let best: { plan: ReadonlySet<number>; judged: Judged } = { plan: planned, judged: input.start };
  let factor = input.start.noise / Math.max(forecast(planned), 1e-30);
  // Steps of the ladder: the highest that failed, the lowest that kept the budget or left nothing in integers.
  let failed = -1;
  let kept = lowest(failed, LADDER.steps, (step) => !steps[step]!().size);
  const tried = new Set<string>([keyOf(planned)]);

  function planOnStep(step: number): () => ReadonlySet<number> {
    let plan: ReadonlySet<number> | null = null;
    return () => {
      plan ??= planAt(total * LADDER.first * LADDER.factor ** step);
      return plan;
    };
  }
  function planAt(price: number): ReadonlySet<number> {
    const priced = Object.fromEntries(
      units.map((unit) => {
        const cost = costs[unit.name] ?? { floatUs: 0, integerUs: null };
        const penalty = (price * (own.get(unit.id) ?? 0)) / budget;
        return [unit.name, { ...cost, integerUs: cost.integerUs === null ? null : cost.integerUs + penalty }];
      }),
    );
    for (const crossing of CROSSING_FACTORS) {
      const plan = chooseByCost(units, planned, { units: priced }, types, crossing);
      if (plan.size) return plan;
    }
    return new Set();
  }
  // Forecasts fall as prices rise, nearly everywhere.
  for (let judged = 0; judged < MOST_JUDGED && kept - failed > 1; ) {
    input.signal?.throwIfAborted();
    let step = lowest(failed, kept, (step) => factor * forecast(steps[step]!()) <= budget);
    if (step >= kept) {
      if (best.judged.noise <= budget) break;
      // No price is expected to keep it: the highest says how near one gets.
      step = kept - 1;
    }
    const plan = steps[step]!();
    if (tried.has(keyOf(plan))) {
      // Only a plan that failed stands below the lowest step that keeps the budget.
      failed = step;
      continue;
    }
    const result = await input.judge(plan);
    judged++;
    tried.add(keyOf(plan));
    const keeps = result.noise <= budget;
    const real = result.noise / Math.max(forecast(plan), 1e-30);
    const bestKeeps = best.judged.noise <= budget;
    // Among plans that keep the budget the last run has the lowest price, and so the most in integers.
    if (keeps || (!bestKeeps && result.noise < best.judged.noise)) best = { plan, judged: result };
    if (keeps) kept = step;
    else failed = step;
    if (keeps && result.noise >= NEAR * budget) break;
    factor = keeps ? real : Math.max(real, factor * CAUTION);
  }
  return best;
}

/** The lowest whole number between the two (both left out) for which it holds, the higher where it holds for none; it holds from some number on. */
function lowest(below: number, above: number, holds: (n: number) => boolean): number {
  let [low, high] = [below, above];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle;
  }
  return high;
}

const keyOf = (plan: ReadonlySet<number>): string => [...plan].join(' ');
