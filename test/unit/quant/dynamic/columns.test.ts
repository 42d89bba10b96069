import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { quantizeColumns, transpose } from '../../../../src/quant/dynamic/columns.ts';

const weights = { type: 'int8', granularity: 'channel', symmetric: true } as const;
const matrices = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 5 }))
  .chain(([rows, columns]) =>
    fc.tuple(
      fc.constant(rows),
      fc.constant(columns),
      fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: rows * columns, maxLength: rows * columns }),
    ),
  );
/** Whether a pair of products along K can leave 16 bits, for any activations from 0 to 255. */
function canSaturate(codes: ArrayLike<number>, rows: number, columns: number, column: number): boolean {
  for (let k = 0; k < rows; k += 2) {
    const [a, b] = [codes[k * columns + column]!, k + 1 < rows ? codes[(k + 1) * columns + column]! : 0];
    for (const [x, y] of [
      [255, 255],
      [255, 0],
      [0, 255],
    ] as const)
      if (a * x + b * y > 32_767 || a * x + b * y < -32_768) return true;
  }
  return false;
}

describe('columns in integers', () => {
  it('never saturate where that is asked for, by channel or by tensor', () =>
    fc.assert(
      fc.property(
        matrices,
        fc.constantFrom('channel' as const, 'tensor' as const),
        fc.boolean(),
        ([rows, columns, values], granularity, symmetric) => {
          const { data } = quantizeColumns(Float32Array.from(values), rows, columns, { ...weights, granularity, symmetric }, true);
          for (let n = 0; n < columns; n++) expect(canSaturate(data, rows, columns, n)).toBe(false);
        },
      ),
      { numRuns: 300 },
    ));
  it('keep 8 bits where nothing can saturate, and never fall below 7', () => {
    // Neighbours of opposite sign can't; the second column's can.
    const x = Float32Array.of(1, 1, -1, 1, 1, 0.5, -1, 0.25);
    const free = quantizeColumns(x, 4, 2, weights, false);
    const safe = quantizeColumns(x, 4, 2, weights, true);
    expect(safe.scales[0]).toBe(free.scales[0]);
    expect(safe.data[0]).toBe(127);
    expect(safe.data[1]).toBe(64);
    expect(safe.scales[1]! / free.scales[1]!).toBeLessThan(2.01);
  });
  it('are off by half a step at most', () =>
    fc.assert(
      fc.property(matrices, fc.boolean(), ([rows, columns, values], avoid) => {
        const x = Float32Array.from(values);
        const q = quantizeColumns(x, rows, columns, weights, avoid);
        x.forEach((value, i) => {
          expect(Math.abs(q.data[i]! * q.scales[i % columns]! - value)).toBeLessThanOrEqual(q.scales[i % columns]! * 0.5001);
        });
      }),
    ));
  it('transpose', () => {
    expect([...transpose(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 3)]).toEqual([1, 4, 2, 5, 3, 6]);
  });
});
