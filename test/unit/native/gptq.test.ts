import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { type ConvGeometry, convGram, convPatches, gptqRound, gram, reference, setSimd, simd } from '../../../native/index.ts';

const simdLevels = simd === 'avx2' ? (['avx2', 'scalar'] as const) : (['scalar'] as const);
afterEach(() => setSimd('auto'));

/** Deterministic normal draws. */
function normals(seed: number): () => number {
  let state = seed | 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return ((state >>> 8) + 0.5) / 2 ** 24;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

describe('gram', () => {
  it('is the reference to the bit, at every SIMD level, and adds up', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 300 }), fc.integer(), async (k, n, seed) => {
        const normal = normals(seed);
        const x = new Float32Array(n * k).map(() => normal());
        const expected = new Float64Array(k * k);
        reference.gram(x, k, expected);
        reference.gram(x, k, expected);
        for (const level of simdLevels) {
          setSimd(level);
          const into = new Float64Array(k * k);
          // Not awaited apart: additions into one matrix take turns.
          await Promise.all([gram(x, k, into), gram(x, k, into)]);
          expect(into).toEqual(expected);
        }
      }),
      { numRuns: 40 },
    );
  });

  it('refuses what does not fit', async () => {
    await expect(gram(new Float32Array(5), 2, new Float64Array(4))).rejects.toThrow('no multiple');
    await expect(gram(new Float32Array(4), 2, new Float64Array(3))).rejects.toThrow('into has 3 elements');
  });
});

const small = (min: number, max: number) => fc.integer({ min, max });
const convolution: fc.Arbitrary<ConvGeometry> = fc
  .record({
    group: small(1, 3),
    perGroup: small(1, 4),
    kernel: fc.tuple(small(1, 3), small(1, 3)),
    size: fc.tuple(small(5, 9), small(5, 9)),
    strides: fc.array(small(1, 3), { minLength: 2, maxLength: 2 }),
    dilations: fc.array(small(1, 2), { minLength: 2, maxLength: 2 }),
    pads: fc.array(small(0, 2), { minLength: 4, maxLength: 4 }),
    flat: fc.boolean(),
  })
  .map(({ group, perGroup, kernel, size, strides, dilations, pads, flat }) =>
    flat
      ? {
          kind: 'conv',
          group,
          inputShape: [group * perGroup, size[0]],
          weightShape: [group, perGroup, kernel[0]],
          strides: [strides[0]!],
          dilations: [dilations[0]!],
          pads: [pads[0]!, pads[1]!],
        }
      : {
          kind: 'conv',
          group,
          inputShape: [group * perGroup, ...size],
          weightShape: [group, perGroup, ...kernel],
          strides,
          dilations,
          pads,
        },
  );

/** How many positions the output has, by the formula of ONNX's Conv. */
function outputPositions({ inputShape, weightShape, strides, dilations, pads }: ConvGeometry): number {
  const rank = inputShape.length - 1;
  let count = 1;
  for (let d = 0; d < rank; d++)
    count *=
      Math.floor((inputShape[d + 1]! + pads![d]! + pads![rank + d]! - dilations![d]! * (weightShape[d + 2]! - 1) - 1) / strides![d]!) + 1;
  return count;
}

describe('convPatches and convGram', () => {
  it('agree with the reference on any geometry', async () => {
    await fc.assert(
      fc.asyncProperty(convolution, fc.integer(), async (geometry, seed) => {
        const normal = normals(seed);
        const x = new Float32Array(geometry.inputShape.reduce((p, d) => p * d, 1)).map(() => normal());
        const total = outputPositions(geometry);
        const positions = new Int32Array(Math.min(total, 200)).map((_, i) => (i * 7) % total);
        const group = geometry.group! - 1;
        expect(await convPatches(x, geometry, positions, group)).toEqual(reference.convPatches(x, geometry, positions, group));
        const k = geometry.weightShape.slice(1).reduce((p, d) => p * d, 1);
        const expected = new Float64Array(geometry.group! * k * k);
        reference.convGram(x, geometry, positions, expected);
        for (const level of simdLevels) {
          setSimd(level);
          const into = new Float64Array(expected.length);
          await convGram(x, geometry, positions, into);
          expect(into).toEqual(expected);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('make a matrix product of a convolution: patches · weights is the layer', async () => {
    const geometry: ConvGeometry = { kind: 'conv', inputShape: [1, 3, 3], weightShape: [1, 1, 2, 2], pads: [1, 1, 0, 0] };
    const x = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9);
    expect(Array.from(await convPatches(x, geometry, Int32Array.of(0, 4, 8)))).toEqual([0, 0, 0, 1, 1, 2, 4, 5, 5, 6, 8, 9]);
  });

  it('refuse positions outside the output', async () => {
    const geometry: ConvGeometry = { kind: 'conv', inputShape: [1, 3, 3], weightShape: [1, 1, 2, 2] };
    await expect(convPatches(new Float32Array(9), geometry, Int32Array.of(4))).rejects.toThrow('position 4 is outside the 4');
    await expect(convPatches(new Float32Array(9), geometry, Int32Array.of(-1))).rejects.toThrow(RangeError);
    await expect(convPatches(new Float32Array(9), geometry, Int32Array.of(0), 1)).rejects.toThrow('group');
    await expect(convGram(new Float32Array(9), geometry, Int32Array.of(0), new Float64Array(15))).rejects.toThrow('into');
  });
});

/** Inputs whose columns depend on each other, as activations do, and weights with their per-row scales. */
function layer(outputs: number, k: number, samples: number, seed: number) {
  const normal = normals(seed);
  const mix = Array.from({ length: 3 }, () => Array.from({ length: k }, () => normal()));
  const x = new Float32Array(samples * k);
  for (let s = 0; s < samples; s++) {
    const common = mix.map(() => normal());
    for (let i = 0; i < k; i++) x[s * k + i] = normal() * 0.3 + mix.reduce((sum, row, m) => sum + row[i]! * common[m]!, 0);
  }
  const w = new Float32Array(outputs * k).map(() => normal());
  const scales = new Float32Array(outputs).map((_, o) => Math.max(...w.subarray(o * k, (o + 1) * k).map(Math.abs)) / 7);
  return { x, w, scales };
}
/** Σ over rows of (w − q·s) H (w − q·s)ᵀ. */
function weightedError(w: Float32Array, codes: Int8Array, scales: Float32Array, hessian: Float64Array): number {
  const k = w.length / scales.length;
  let total = 0;
  for (const [o, scale] of scales.entries()) {
    const d = Array.from({ length: k }, (_, i) => w[o * k + i]! - codes[o * k + i]! * scale);
    for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) total += d[i]! * hessian[i * k + j]! * d[j]!;
  }
  return total;
}
const nearest = (w: Float32Array, scales: Float32Array, max: number) => {
  const k = w.length / scales.length;
  return Int8Array.from(w, (v, i) => Math.min(max, Math.max(-max, Math.round(v / scales[Math.floor(i / k)]!))));
};

describe('gptqRound', () => {
  it('gives the codes of the paper’s own algorithm (inverse, Cholesky, column updates)', async () => {
    await fc.assert(
      fc.asyncProperty(
        small(1, 9),
        small(1, 40),
        small(1, 60),
        fc.integer(),
        fc.constantFrom(0.01, 0.1),
        async (outputs, k, samples, seed, dampening) => {
          const { x, w, scales } = layer(outputs, k, samples, seed);
          const hessian = new Float64Array(k * k);
          reference.gram(x, k, hessian);
          const expected = reference.gptqRound(w, hessian, scales, { dampening, min: -7, max: 7 });
          for (const level of simdLevels) {
            setSimd(level);
            expect(await gptqRound(w, hessian, scales, { dampening, min: -7, max: 7 })).toEqual(expected);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('leaves less error in the layer’s output than rounding to nearest, at sizes of many blocks', async () => {
    for (const [outputs, k, samples] of [
      [16, 9, 500],
      [32, 150, 400],
      [6, 333, 500],
    ] as const) {
      const { x, w, scales } = layer(outputs, k, samples, k);
      const hessian = new Float64Array(k * k);
      await gram(x, k, hessian);
      const codes = await gptqRound(w, hessian, scales);
      setSimd('scalar');
      expect(await gptqRound(w, hessian, scales)).toEqual(codes);
      setSimd('auto');
      expect(weightedError(w, codes, scales, hessian)).toBeLessThan(0.6 * weightedError(w, nearest(w, scales, 127), scales, hessian));
    }
  });

  it('takes one Hessian a group, as convGram gives them', async () => {
    const geometry: ConvGeometry = { kind: 'conv', inputShape: [3, 9, 9], weightShape: [6, 1, 3, 3], group: 3, pads: [1, 1, 1, 1] };
    const normal = normals(11);
    const hessian = new Float64Array(3 * 81);
    const positions = new Int32Array(81).map((_, i) => i);
    for (let sample = 0; sample < 4; sample++)
      await convGram(
        new Float32Array(243).map(() => normal() + 1),
        geometry,
        positions,
        hessian,
      );
    const w = new Float32Array(54).map(() => normal());
    const scales = new Float32Array(6).fill(0.3);
    const codes = await gptqRound(w, hessian, scales);
    expect(codes).toEqual(reference.gptqRound(w, hessian, scales));
    expect(codes.subarray(18, 36)).toEqual(await gptqRound(w.slice(18, 36), hessian.slice(81, 162), scales.slice(2, 4)));
    await expect(gptqRound(w, new Float64Array(4 * 81), scales)).rejects.toThrow('hessian has 324 elements');
  });

  it('rounds columns that nothing excites to nearest, and everything when there was no input at all', async () => {
    const { x, w, scales } = layer(4, 12, 50, 3);
    for (let i = 0; i < x.length; i++) if (i % 12 === 5) x[i] = 0;
    const hessian = new Float64Array(144);
    reference.gram(x, 12, hessian);
    const codes = await gptqRound(w, hessian, scales);
    const plain = nearest(w, scales, 127);
    for (let o = 0; o < 4; o++) expect(codes[o * 12 + 5]).toBe(plain[o * 12 + 5]);
    expect(await gptqRound(w, new Float64Array(144), scales)).toEqual(plain);
  });

  it('adds dampening until the matrix has a factor, and says when it never has', async () => {
    const { w, scales } = layer(2, 3, 5, 1);
    const singular = Float64Array.from({ length: 9 }, () => 1);
    expect((await gptqRound(w, singular, scales, { dampening: 0 })).length).toBe(6);
    await expect(gptqRound(w, Float64Array.of(1, 9, 0, 9, 1, 0, 0, 0, 1), scales)).rejects.toThrow('not positive definite');
    await expect(gptqRound(w, new Float64Array(9).fill(Number.NaN), scales)).rejects.toThrow('not finite');
    await expect(gptqRound(w, new Float64Array(8), scales)).rejects.toThrow('hessian has 8 elements');
    await expect(gptqRound(w, singular, Float32Array.of(1, 0))).rejects.toThrow('scale');
    const failure = await gptqRound(w, new Float64Array(9).fill(Number.NaN), scales).catch((error: Error) => error);
    expect((failure as Error).stack).toContain('gptq.test.ts');
  });
});
