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
  const flips = Math.round(Math.abs(sum));
  if (flips === 0) return;
  const sign = Math.sign(sum);
  const candidates: number[] = [];
  for (let i = from; i < to; i++) if (sign * errors[i]! > 0 && Math.abs(codes[i]! - sign) <= 127) candidates.push(i);
  // Largest errors first: they cost least to turn round. Ties in order of their places, so that the result is the same everywhere.
  candidates.sort((a, b) => sign * (errors[b]! - errors[a]!) || a - b);
  for (const i of candidates.slice(0, flips)) {
    codes[i]! -= sign;
    errors[i]! -= sign;
  }
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}
