import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GraphView } from '../../../../src/onnx/graph.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { sensitivities } from '../../../../src/quant/measure/sensitivity.ts';
import { withinNoiseBudget } from '../../../../src/quant/plan/noise-budget.ts';
import { buildUnits } from '../../../../src/quant/plan/units.ts';
import { modelOf, node, weight } from '../prepare/graphs.ts';

const N = 8;
const model = modelOf(
  Array.from({ length: N }, (_, i) => node('MatMul', [`v${i}`, 'w'], [`v${i + 1}`], { name: `layer_${i}` })),
  { v0: [64, 64] },
  [`v${N}`],
  [weight('w', [64, 64])],
);
const types = inferShapes(model);
const units = buildUnits(model, new GraphView(model.graph), types);
const planned = new Set(units.map((u) => u.id));
const sum = (plan: Iterable<number>, own: number[]) => [...plan].reduce((a, id) => a + own[id]!, 0);

/** Noises add up: what the relaxation is about. */
async function budgeted(own: number[], floatUs: number[], integerUs: number[], budget: number) {
  let judged = 0;
  const judge = async (plan: ReadonlySet<number>) => {
    judged++;
    return { noise: sum(plan, own), plan };
  };
  const costs = Object.fromEntries(units.map((u) => [u.name, { floatUs: floatUs[u.id]!, integerUs: integerUs[u.id]! }]));
  const result = await withinNoiseBudget({
    units,
    planned,
    start: { noise: sum(planned, own), plan: planned },
    own: new Map(own.map((n, id) => [id, n])),
    costs,
    types,
    budget,
    judge,
  });
  return { ...result, calls: judged };
}

describe('withinNoiseBudget', () => {
  it('puts the one noisy layer back into float, and leaves the others', async () => {
    const own = [1, 1, 1, 900, 1, 1, 1, 1].map((n) => n * 1e-5);
    const { plan, judged } = await budgeted(own, new Array(N).fill(200), new Array(N).fill(50), 1e-3);
    expect([...plan].sort()).toEqual([0, 1, 2, 4, 5, 6, 7]);
    expect(judged.noise).toBeLessThanOrEqual(1e-3);
  });
  it('gives up the layer that gains least for its noise', async () => {
    const float = [200, 200, 200, 2000, 200, 200, 200, 200];
    const own = [1, 1, 1, 40, 1, 1, 40, 1].map((n) => n * 1e-5);
    const { plan } = await budgeted(
      own,
      float,
      float.map((f) => f / 4),
      50e-5,
    );
    expect(plan.has(3)).toBe(true);
    expect(plan.has(6)).toBe(false);
  });
  it('stays within what was planned, keeps the budget where any price does, and asks seldom', async () => {
    const noises = fc.array(
      fc.double({ min: 0, max: 6, noNaN: true }).map((e) => 10 ** -e),
      { minLength: N, maxLength: N },
    );
    const costs = fc.array(fc.integer({ min: 10, max: 2000 }), { minLength: N, maxLength: N });
    await fc.assert(
      fc.asyncProperty(noises, costs, fc.double({ min: 0, max: 5, noNaN: true }), async (own, float, exponent) => {
        const budget = 10 ** -exponent;
        const { plan, judged, calls } = await budgeted(
          own,
          float,
          float.map((f) => f / 4),
          budget,
        );
        for (const id of plan) expect(planned.has(id)).toBe(true);
        expect(judged.noise).toBe(sum(plan, own));
        expect(calls).toBeLessThan(50);
        if (sum(planned, own) > budget && judged.noise > budget) {
          // Missed: then it is the least noisy of all that were asked about, and better than the start or the start itself.
          expect(judged.noise).toBeLessThanOrEqual(sum(planned, own));
        }
        // One layer alone within the budget that pays by far: then the budget must be met.
        const easy = own.some((n, id) => n < budget / 100 && float[id]! > 1000);
        if (easy) expect(judged.noise).toBeLessThanOrEqual(budget);
      }),
      { numRuns: 150 },
    );
  });
  it('a signal ends it', async () => {
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    const input = {
      units,
      planned,
      start: { noise: 1 },
      own: new Map(units.map((u) => [u.id, 1])),
      costs: Object.fromEntries(units.map((u) => [u.name, { floatUs: 100, integerUs: 10 }])),
      types,
      budget: 0.5,
      judge: async () => ({ noise: 1 }),
      signal: controller.signal,
    };
    await expect(withinNoiseBudget(input)).rejects.toThrow('enough');
  });
});

describe('sensitivities', () => {
  it('are each unit’s own, in the units’ order, however many at a time', async () => {
    for (const atATime of [1, 3, 20]) {
      let [running, most] = [0, 0];
      const progress: number[] = [];
      const own = await sensitivities(
        units,
        async (unit) => {
          most = Math.max(most, ++running);
          await new Promise((resolve) => setTimeout(resolve, (unit.id * 7) % 5));
          running--;
          return unit.id / 10;
        },
        (fraction) => progress.push(fraction),
        atATime,
      );
      expect([...own]).toEqual(units.map((u) => [u.id, u.id / 10]));
      expect(most).toBe(Math.min(atATime, N));
      expect(progress).toEqual(units.map((_, i) => (i + 1) / N));
    }
  });
  it('end with the first error, after those that had begun', async () => {
    let ended = 0;
    const failing = sensitivities(
      units,
      async (unit) => {
        if (unit.id === 1) throw new Error('not this one');
        await new Promise((resolve) => setTimeout(resolve, 20));
        ended++;
        return 0;
      },
      () => {},
      2,
    );
    await expect(failing).rejects.toThrow('not this one');
    expect(ended).toBe(1);
  });
});
