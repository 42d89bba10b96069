import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { type QuantizedWeight, roundWeight, weightScales } from '../transform/weights.ts';

/** Two u8 activations of 255 times two s8 weights that add up to more than this leave int16: 255 · 128 = 32 640, 255 · 129 > 32 767. */
const PAIR_LIMIT = 128;

/**
 * A matrix [K, N] as integers, one scale a column (or one for all). With `avoidSaturation` no pair of neighbouring weights
 * of a column can leave 16 bits whatever the activations are, as it would on x86 without VNNI, where u8×s8 products are
 * added in pairs (2i, 2i+1) along K with saturation (processors/README.md): a column in which two neighbours of one sign
 * add up to more than 128 gets a larger scale, just as large as it must be (at most what 7 bits would be).
 * u8 weights run in other kernels, which don't saturate. s8 weights have zero point 0 then, also where the recipe would
 * let them have another: a zero weight would be a code like −128, and saturate.
 */
export function quantizeColumns(
  x: Float32Array,
  rows: number,
  columns: number,
  weights: ResolvedRecipe['weights'],
  avoidSaturation: boolean,
): QuantizedWeight {
  const dims = [rows, columns];
  const axis = weights.granularity === 'tensor' ? null : 1;
  const safe = avoidSaturation && weights.type === 'int8';
  const grid = weightScales(x, dims, axis, safe ? { ...weights, symmetric: true } : weights);
  let quantized = roundWeight(x, dims, axis, weights.type, grid);
  if (!safe) return quantized;
  // Rounding can add a step to what the new scale allows, so look again; each round raises the scales that still exceed it.
  for (let round = 0; round < 8; round++) {
    const worst = worstPairs(quantized.data, rows, columns);
    let changed = false;
    for (let c = 0; c < grid.scales.length; c++) {
      const sum = axis === null ? Math.max(...worst) : worst[c]!;
      if (sum <= PAIR_LIMIT) continue;
      grid.scales[c] = grid.scales[c]! * Math.max(sum / PAIR_LIMIT, 1.002);
      changed = true;
    }
    if (!changed) return quantized;
    quantized = roundWeight(x, dims, axis, weights.type, grid);
  }
  return quantized;
}

/** For each column the largest |b₂ᵢ| + |b₂ᵢ₊₁| of neighbours of one sign. */
function worstPairs(codes: Int8Array | Uint8Array, rows: number, columns: number): Int32Array {
  const worst = new Int32Array(columns);
  for (let k = 0; k + 1 < rows; k += 2) {
    for (let n = 0; n < columns; n++) {
      const a = codes[k * columns + n]!;
      const b = codes[(k + 1) * columns + n]!;
      if (a < 0 !== b < 0) continue;
      const sum = Math.abs(a + b);
      if (sum > worst[n]!) worst[n] = sum;
    }
  }
  return worst;
}

/** [rows, columns] → [columns, rows]. */
export function transpose(x: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c]!;
  return out;
}
