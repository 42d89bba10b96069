/**
 * Rounding that keeps sums (Guo et al. 2022, “SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation”).
 * Rounding to nearest leaves each kernel and each output channel with a sum of errors Σe that acts as a bias: what a
 * convolution takes is mostly positive (it comes from a ReLU), so Σe · mean(x) doesn't average out. Here elements are rounded
 * the other way, those nearest to the middle first, until |Σe| ≤ ½ (in steps of the scale), for each kernel window and
 * then for each output channel. No data is needed. Cost: a sort of the elements that are candidates.
 *
 * `x`: [channels, inputs, window], row-major; `scales`: one a channel. Codes stay within ±127.
 */
export function balancedRound(x: Float32Array, channels: number, window: number, scales: Float32Array): Int8Array {
  const codes = new Int8Array(x.length);
  const errors = new Float64Array(x.length);
  const perChannel = x.length / channels;
  for (let c = 0; c < channels; c++) {
    const [from, to] = [c * perChannel, (c + 1) * perChannel];
    for (let i = from; i < to; i++) {
      const exact = x[i]! / scales[c]!;
      const code = Math.min(127, Math.max(-127, roundHalfEven(exact)));
      codes[i] = code;
      errors[i] = code - exact;
    }
    if (window > 1) for (let i = from; i < to; i += window) balance(codes, errors, i, i + window);
    balance(codes, errors, from, to);
  }
  return codes;
}

function balance(codes: Int8Array, errors: Float64Array, from: number, to: number): void {
  let sum = 0;
  for (let i = from; i < to; i++) sum += errors[i]!;
  let flips = Math.round(Math.abs(sum));
  if (flips === 0) return;
  const sign = Math.sign(sum);
  const canFlip = (i: number) => sign * errors[i]! > 0 && Math.abs(codes[i]! - sign) <= 127;
  const sizes = new Float64Array(to - from);
  let candidates = 0;
  for (let i = from; i < to; i++) if (canFlip(i)) sizes[candidates++] = sign * errors[i]!;
  if (candidates === 0) return;
  flips = Math.min(flips, candidates);
  // Largest errors first: they cost least to turn round. Sorting plain numbers is an order of magnitude faster than sorting
  // places by them, and gives the least size that still is turned; ties are taken in order of their places.
  const least = sizes.subarray(0, candidates).sort()[candidates - flips]!;
  for (const ties of [false, true]) {
    for (let i = from; i < to && flips > 0; i++) {
      const size = sign * errors[i]!;
      if (!(ties ? size === least : size > least) || !canFlip(i)) continue;
      codes[i]! -= sign;
      errors[i]! -= sign;
      flips--;
    }
  }
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}
