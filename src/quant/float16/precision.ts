import { DataType, type Tensor } from '../../onnx/model.ts';
import { float16ToNumber, floatData, makeTensor, numberToFloat16 } from '../../onnx/tensor.ts';

/** float16's largest finite value. */
export const LARGEST = 65_504;
/** Constants that come out below this are kept in float32: most of their values lie where float16 has few bits or none. Normal numbers give 73 dB. */
const LEAST_DB = 50;

export interface Rounded {
  tensor: Tensor;
  /** Why the constant must stay float32; null where it may be float16. */
  obstacle: 'overflow' | 'underflow' | null;
  /** Values that are not zero and come out as zero. */
  flushed: number;
}

/**
 * A float32 constant in float16, rounded to nearest even.
 * 1. A finite value beyond ±65 504 is an overflow (infinities stay what they are).
 * 2. A constant whose error is more than a 300th of it (50 dB), and a scalar that becomes zero, is an underflow:
 *    1e-12 under a root or in a divisor would become 0.
 */
export function toFloat16Tensor(tensor: Tensor, name: string): Rounded {
  const source = floatData(tensor);
  const words = new Uint32Array(source.buffer, source.byteOffset, source.length);
  const values = valuesOfHalves();
  const bits = new Uint16Array(source.length);
  let [signal, noise, flushed, over] = [0, 0, 0, false];
  for (let i = 0; i < source.length; i++) {
    const value = source[i]!;
    const half = halfOf(words[i]!, value);
    bits[i] = half;
    const rounded = values[half]!;
    if (!Number.isFinite(value)) continue;
    if (!Number.isFinite(rounded)) over = true;
    if (rounded === 0 && value !== 0) flushed++;
    signal += value * value;
    noise += (value - rounded) ** 2;
  }
  const under = noise > 0 && 10 * Math.log10(signal / noise) < LEAST_DB;
  return {
    tensor: makeTensor(name, DataType.FLOAT16, tensor.dims, bits),
    obstacle: over ? 'overflow' : under ? 'underflow' : null,
    flushed,
  };
}

/** As numberToFloat16, without its detour over memory for the normal numbers that weights mostly are: 10 ns a value, not 110. */
function halfOf(word: number, value: number): number {
  const magnitude = word & 0x7fffffff;
  if (magnitude < 0x38800000 || magnitude >= 0x477ff000) return numberToFloat16(value);
  return ((word >>> 16) & 0x8000) | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13);
}

let halves: Float32Array | undefined;
/** All 65 536 values of float16, by their bits. */
function valuesOfHalves(): Float32Array {
  halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => float16ToNumber(bits));
  return halves;
}
