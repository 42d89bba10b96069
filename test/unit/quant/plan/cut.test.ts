import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CutProblem, minimumCut } from '../../../../src/quant/plan/cut.ts';

const costOf = (problem: CutProblem, integer: boolean[]): number => {
  let sum = 0;
  problem.vertices.forEach((v, i) => {
    sum += integer[i] ? v.integer : v.float;
  });
  for (const e of problem.edges) if (integer[e.from] !== integer[e.to]) sum += integer[e.from] ? e.dequantize : e.quantize;
  return sum;
};

/** Every colouring there is. */
const bruteForce = (problem: CutProblem): number => {
  let best = Number.POSITIVE_INFINITY;
  for (let mask = 0; mask < 1 << problem.vertices.length; mask++) {
    best = Math.min(
      best,
      costOf(
        problem,
        problem.vertices.map((_, i) => Boolean(mask & (1 << i))),
      ),
    );
  }
  return best;
};

describe('minimumCut', () => {
  it('costs as little as the best of all colourings', () => {
    const cost = fc.integer({ min: 0, max: 50 });
    const vertex = fc.record({ float: cost, integer: fc.oneof(cost, cost, fc.constant(Number.POSITIVE_INFINITY)) });
    const problem = fc.integer({ min: 2, max: 9 }).chain((n) =>
      fc.record({
        vertices: fc.array(vertex, { minLength: n, maxLength: n }),
        edges: fc.array(
          fc.record({ from: fc.nat(n - 1), to: fc.nat(n - 1), quantize: cost, dequantize: cost }).filter((e) => e.from !== e.to),
          { maxLength: 16 },
        ),
      }),
    );
    fc.assert(
      fc.property(problem, (p) => {
        expect(costOf(p, minimumCut(p))).toBe(bruteForce(p));
      }),
      { numRuns: 300 },
    );
  });

  it('takes a chain of twenty thousand units without overflowing the stack', () => {
    const n = 20_000;
    const vertices = Array.from({ length: n }, (_, i) => ({ float: 2, integer: i === 0 || i === n - 1 ? Number.POSITIVE_INFINITY : 1 }));
    const edges = Array.from({ length: n - 1 }, (_, i) => ({ from: i, to: i + 1, quantize: 3, dequantize: 3 }));
    const side = minimumCut({ vertices, edges });
    expect(side.filter(Boolean)).toHaveLength(n - 2);
  });
});
