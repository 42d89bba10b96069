import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balancedRound } from '../../../../src/quant/dynamic/balanced-rounding.ts';
import { normals } from '../prepare/graphs.ts';

describe('balanced rounding', () => {
  const shapes = fc.record({
    channels: fc.integer({ min: 1, max: 4 }),
    inputs: fc.integer({ min: 1, max: 6 }),
    window: fc.constantFrom(1, 3, 9),
    seed: fc.nat(),
  });
  it('keeps each channel’s sum of errors within half a step, each element’s within one and a half, codes within ±127', () =>
    fc.assert(
      fc.property(shapes, ({ channels, inputs, window, seed }) => {
        const x = normals(channels * inputs * window, seed);
        const per = inputs * window;
        const scales = Float32Array.from(
          { length: channels },
          (_, c) => Math.max(...x.subarray(c * per, (c + 1) * per).map(Math.abs)) / 127,
        );
        const codes = balancedRound(x, channels, window, scales);
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (let i = c * per; i < (c + 1) * per; i++) {
            const error = codes[i]! - x[i]! / scales[c]!;
            expect(Math.abs(error)).toBeLessThan(1.5);
            expect(Math.abs(codes[i]!)).toBeLessThanOrEqual(127);
            sum += error;
          }
          expect(Math.abs(sum)).toBeLessThanOrEqual(0.5 + 1e-9 + (per < 3 ? 0.5 : 0));
        }
      }),
    ));
  it('is rounding to nearest where that is balanced already', () => {
    expect([...balancedRound(Float32Array.of(1.25, -1.25, 3, 127), 1, 2, Float32Array.of(1))]).toEqual([1, -1, 3, 127]);
  });
  it('turns round the element that it costs least', () => {
    // Errors −0.4, −0.45, −0.1: their sum −0.95 rounds to one flip, upwards, of the second.
    expect([...balancedRound(Float32Array.of(10.4, 20.45, 30.1), 1, 3, Float32Array.of(1))]).toEqual([10, 21, 30]);
  });
});
