import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { type ConvGeometry, countSaturation, reference, setSimd, simd } from '../../../native/index.ts';

const simdLevels = simd === 'avx2' ? (['avx2', 'scalar'] as const) : (['scalar'] as const);
afterEach(() => setSimd('auto'));

const small = (min: number, max: number) => fc.integer({ min, max });
const geometries: fc.Arbitrary<ConvGeometry> = fc.oneof(
  fc
    .record({
      group: small(1, 3),
      perGroup: small(1, 5),
      outPerGroup: small(1, 4),
      kernel: fc.tuple(small(1, 3), small(1, 3)),
      size: fc.tuple(small(5, 9), small(5, 9)),
      strides: fc.array(small(1, 3), { minLength: 2, maxLength: 2 }),
      dilations: fc.array(small(1, 2), { minLength: 2, maxLength: 2 }),
      pads: fc.array(small(0, 2), { minLength: 4, maxLength: 4 }),
      zeroPoint: small(0, 255),
    })
    .map(({ group, perGroup, outPerGroup, kernel, size, ...rest }) => ({
      kind: 'conv' as const,
      group,
      inputShape: [group * perGroup, ...size],
      weightShape: [group * outPerGroup, perGroup, ...kernel],
      ...rest,
    })),
  fc.record({ c: small(1, 6), o: small(1, 5), k: small(1, 4), size: small(4, 20), pad: small(0, 2) }).map(({ c, o, k, size, pad }) => ({
    kind: 'conv' as const,
    inputShape: [c, size],
    weightShape: [o, c, k],
    pads: [pad, 0],
    zeroPoint: 77,
  })),
  fc
    .record({ m: small(1, 20), k: small(1, 33), n: small(1, 20) })
    .map(({ m, k, n }) => ({ kind: 'matmul' as const, inputShape: [m, k], weightShape: [k, n] })),
);
const product = (dims: number[]) => dims.reduce((p, d) => p * d, 1);
/** Extreme codes mostly: ordinary ones seldom saturate. */
const problem = geometries.chain((geometry) =>
  fc.record({
    geometry: fc.constant(geometry),
    x: fc
      .uint8Array({ minLength: product(geometry.inputShape), maxLength: product(geometry.inputShape) })
      .map((x) => x.map((v) => (v > 90 ? 255 - (v & 3) : v))),
    w: fc
      .int8Array({ minLength: product(geometry.weightShape), maxLength: product(geometry.weightShape) })
      .map((w) => w.map((v) => (Math.abs(v) > 40 ? Math.sign(v) * (127 - (v & 1)) : v))),
  }),
);

describe('countSaturation', () => {
  it('agrees with the loops of the textbook on any geometry, at every SIMD level', async () => {
    let saturating = 0;
    await fc.assert(
      fc.asyncProperty(problem, async ({ geometry, x, w }) => {
        const expected = reference.countSaturation(x, w, geometry);
        saturating += expected.reduce((sum, count) => sum + count, 0);
        for (const level of simdLevels) {
          setSimd(level);
          expect(await countSaturation(x, w, geometry), level).toEqual(expected);
        }
      }),
      { numRuns: 200 },
    );
    expect(saturating).toBeGreaterThan(1000);
  });

  it('knows the edges of 16 bits', async () => {
    const count = async (a: [number, number], b: [number, number]) =>
      (await countSaturation(Uint8Array.from(a), Int8Array.from(b), { kind: 'matmul', inputShape: [1, 2], weightShape: [2, 1] }))[0];
    expect(await count([255, 255], [127, 2])).toBe(1); // 32895
    expect(await count([255, 255], [127, 1])).toBe(0); // 32640
    expect(await count([255, 191], [127, 2])).toBe(0); // 32767
    expect(await count([254, 255], [127, 2])).toBe(1); // 32768
    expect(await count([255, 128], [-128, -1])).toBe(0); // −32768
    expect(await count([255, 129], [-128, -1])).toBe(1); // −32769
    expect(await count([255, 255], [127, -128])).toBe(0);
    expect(await count([0, 0], [-128, -128])).toBe(0);
    expect(await count([255, 255], [-128, -128])).toBe(1);
  });

  it('pairs input channels first, then kernel columns, then rows', async () => {
    // Three channels, a kernel of one row and two columns: pairs (c0 c1 | c2 c0' | c1' c2'). Only c2 and c0' are large.
    const w = new Int8Array(6);
    w[2 * 2] = 127; // channel 2, column 0
    w[1] = 127; // channel 0, column 1
    const geometry: ConvGeometry = { kind: 'conv', inputShape: [3, 1, 2], weightShape: [1, 3, 1, 2] };
    expect(await countSaturation(new Uint8Array(6).fill(255), w, geometry)).toEqual(Float64Array.of(1));
    const apart = new Int8Array(6);
    apart[2] = 127; // channel 1, column 0: the second of the first pair
    apart[2 * 2] = 127; // channel 2, column 0: the first of the second
    expect(await countSaturation(new Uint8Array(6).fill(255), apart, geometry)).toEqual(Float64Array.of(0));
  });

  it('counts nothing in a depthwise convolution, and counts in a depthwise multiplier', async () => {
    const depthwise: ConvGeometry = { kind: 'conv', inputShape: [2, 3, 3], weightShape: [2, 1, 3, 3], group: 2 };
    expect(await countSaturation(new Uint8Array(18).fill(255), new Int8Array(18).fill(127), depthwise)).toEqual(Float64Array.of(0, 0));
    const multiplier: ConvGeometry = { kind: 'conv', inputShape: [2, 3, 3], weightShape: [4, 1, 3, 3], group: 2 };
    expect(await countSaturation(new Uint8Array(18).fill(255), new Int8Array(36).fill(127), multiplier)).toEqual(
      Float64Array.of(4, 4, 4, 4),
    );
  });

  it('refuses geometries that do not fit', async () => {
    const x = new Uint8Array(18);
    const w = new Int8Array(18);
    const conv = (change: Partial<ConvGeometry>) =>
      countSaturation(x, w, { kind: 'conv', inputShape: [2, 3, 3], weightShape: [1, 2, 3, 3], ...change });
    await expect(conv({ group: 2 })).rejects.toThrow('groups do not fit');
    await expect(conv({ weightShape: [1, 2, 4, 4] })).rejects.toThrow('larger than its padded input');
    await expect(conv({ inputShape: [2, 3, 4] })).rejects.toThrow('x has 18 elements, 24 are needed');
    await expect(conv({ pads: [1, 1] })).rejects.toThrow('pads has 2 entries');
    await expect(conv({ strides: [0, 1] })).rejects.toThrow('strides');
    await expect(conv({ zeroPoint: 256 })).rejects.toThrow('zeroPoint');
    await expect(conv({ inputShape: [2, 2 ** 60, 3] })).rejects.toThrow(RangeError);
  });
});
