import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GraphView } from '../../../../src/onnx/graph.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { loadable } from '../../../../src/quant/gate/loadable.ts';
import { buildUnits } from '../../../../src/quant/plan/units.ts';
import { modelOf, node, weight } from '../prepare/graphs.ts';

const N = 12;
/** Layers with weights and without by turns. */
const nodes = Array.from({ length: N }, (_, i) =>
  i % 2
    ? node('Sigmoid', [`v${i}`], [`v${i + 1}`], { name: `layer_${i}` })
    : node('MatMul', [`v${i}`, 'w'], [`v${i + 1}`], { name: `layer_${i}` }),
);
const model = modelOf(nodes, { v0: [2, 4] }, [`v${N}`], [weight('w', [4, 4])]);
const units = buildUnits(model, new GraphView(model.graph), inferShapes(model));
const all = new Set(units.map((u) => u.id));

/** A runtime that refuses plans with one of `alone`, or with all of one of `together`; it names the layer, or says nothing useful. */
const runtime = (alone: number[], together: number[][], names: boolean) => {
  let tries = 0;
  return {
    tries: () => tries,
    tryOut: async (plan: ReadonlySet<number>) => {
      tries++;
      const culprit = alone.find((id) => plan.has(id));
      if (culprit !== undefined) return names ? `node 'layer_${culprit}' is not to my taste` : 'something is wrong';
      return together.some((ids) => ids.every((id) => plan.has(id))) ? 'something is wrong' : null;
    },
  };
};
const ids = fc.uniqueArray(fc.nat(N - 1), { maxLength: 3 });

describe('loadable', () => {
  it('leaves out the layers that are refused, and no others', async () => {
    await fc.assert(
      fc.asyncProperty(ids, fc.boolean(), async (alone, names) => {
        const { tryOut, tries } = runtime(alone, [], names);
        const { allowed, refused } = await loadable(units, all, tryOut);
        expect([...refused.keys()].sort()).toEqual([...alone].sort());
        expect([...allowed].sort()).toEqual([...all].filter((id) => !alone.includes(id)).sort());
        for (const words of refused.values()) expect(words).toMatch(/wrong|taste/);
        expect(tries()).toBeLessThanOrEqual(names ? alone.length + 1 : 1 + alone.length * (2 * Math.ceil(Math.log2(N)) + 1));
      }),
    );
  });
  it('ends with a plan that loads, whatever is refused', async () => {
    await fc.assert(
      fc.asyncProperty(
        ids,
        fc.array(fc.uniqueArray(fc.nat(N - 1), { minLength: 2, maxLength: 4 }), { maxLength: 4 }),
        fc.boolean(),
        async (alone, together, names) => {
          const { tryOut } = runtime(alone, together, names);
          const { allowed, refused } = await loadable(units, all, tryOut);
          if (allowed.size) expect(await tryOut(allowed)).toBeNull();
          expect([...allowed, ...refused.keys()].sort()).toEqual([...all].sort());
        },
      ),
      { numRuns: 200 },
    );
  });
  it('gives everything up where all is refused, in bounded time', async () => {
    const { tryOut, tries } = runtime([...all], [], false);
    expect((await loadable(units, all, tryOut)).allowed.size).toBe(0);
    expect(tries()).toBeLessThan(150);
  });
  it('tries a sound plan once, and an empty one not at all', async () => {
    const sound = runtime([], [], false);
    expect((await loadable(units, all, sound.tryOut)).allowed).toEqual(all);
    expect(sound.tries()).toBe(1);
    const empty = runtime([], [], false);
    expect((await loadable(units, new Set(), empty.tryOut)).allowed.size).toBe(0);
    expect(empty.tries()).toBe(0);
  });
  it('keeps layers with weights where only a combination is refused', async () => {
    const { tryOut } = runtime([], [[0, 1]], false);
    expect((await loadable(units, new Set([0, 1]), tryOut)).allowed).toEqual(new Set([0]));
  });
});
