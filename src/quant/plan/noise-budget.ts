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

/** Steps of the price, first coarse until the target is met, then halved between the last miss and the first hit. */
const COARSE = 2.5;
const FINE_STEPS = 5;
/** Conversions at full price first; where nothing would be left in integers, at less. */
const CROSSING_FACTORS = [1, 0.4, 0.1];

/**
 * The fastest plan within a noise budget, by pricing noise (a Lagrangian relaxation, as in Shoham & Gersho 1988 for bit
 * allocation): each unit's integer cost is raised by price · its own noise, and the minimum cut taken; the price is the
 * lowest at which the plan, judged as a whole, keeps the budget. Where no price does, the least noisy plan seen.
 */
export async function withinNoiseBudget<Judged extends { noise: number }>(
  input: NoiseBudgetInput<Judged>,
): Promise<{ plan: ReadonlySet<number>; judged: Judged }> {
  const { units, planned, own, costs, types, budget } = input;
  const total = Object.values(costs).reduce((sum, cost) => sum + cost.floatUs, 0) || 1;
  const seen = new Map<string, Judged>();
  let best: { plan: ReadonlySet<number>; judged: Judged } = { plan: planned, judged: input.start };

  const planAt = (price: number): Set<number> => {
    const priced = Object.fromEntries(
      units.map((unit) => {
        const cost = costs[unit.name] ?? { floatUs: 0, integerUs: null };
        const penalty = (price * (own.get(unit.id) ?? 0)) / budget;
        return [unit.name, { ...cost, integerUs: cost.integerUs === null ? null : cost.integerUs + penalty }];
      }),
    );
    for (const factor of CROSSING_FACTORS) {
      const plan = chooseByCost(units, planned, { units: priced }, types, factor);
      if (plan.size) return plan;
    }
    return new Set();
  };
  /** Whether the plan at this price keeps the budget; null = nothing is left in integers. */
  const tryAt = async (price: number): Promise<boolean | null> => {
    const plan = planAt(price);
    if (!plan.size) return null;
    const key = [...plan].join(' ');
    let judged = seen.get(key);
    if (!judged) {
      input.signal?.throwIfAborted();
      judged = await input.judge(plan);
      seen.set(key, judged);
    }
    const keeps = judged.noise <= budget;
    const bestKeeps = best.judged.noise <= budget;
    // Among plans that keep the budget the last tried has the lowest price, and so the most in integers.
    if (keeps ? true : !bestKeeps && judged.noise < best.judged.noise) best = { plan, judged };
    return keeps;
  };

  let miss = total * 0.002;
  let hit: number | null = null;
  for (let price = miss; price < total * 1e5; price *= COARSE) {
    const keeps = await tryAt(price);
    if (keeps === null) break;
    if (keeps) {
      hit = price;
      break;
    }
    miss = price;
  }
  for (let step = 0; hit !== null && step < FINE_STEPS; step++) {
    const price = Math.sqrt(miss * hit);
    if (await tryAt(price)) hit = price;
    else miss = price;
  }
  return best;
}
