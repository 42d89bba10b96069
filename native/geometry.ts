/** Checks a layer's geometry and flattens it into the numbers that geometry.h reads. */
import type { ConvGeometry } from './types.ts';

export interface PackedGeometry {
  /** matmul, channels, outputs, group, zero point; then of each of three spatial axes: input, kernel, stride, pad begin, dilation, output. */
  numbers: Float64Array;
  inputLength: number;
  weightLength: number;
  /** Output channels of the whole layer. */
  outputs: number;
  group: number;
  /** Output positions of one sample (rows of a matrix product). */
  positions: number;
  /** Products of one output value: input channels of a group × kernel. */
  k: number;
}

const product = (values: number[]) => values.reduce((total, value) => total * value, 1);

function integers(values: number[], length: number, least: number, what: string): number[] {
  if (values.length !== length) throw new RangeError(`geometry: ${what} has ${values.length} entries, ${length} are needed`);
  for (const value of values)
    if (!Number.isSafeInteger(value) || value < least)
      throw new RangeError(`geometry: ${what} must be integers from ${least}, not ${value}`);
  return values;
}

/** @throws RangeError when shapes, attributes and group do not belong together. */
export function packGeometry(geometry: ConvGeometry): PackedGeometry {
  const { kind, inputShape, weightShape, zeroPoint = 0 } = geometry;
  if (kind !== 'conv' && kind !== 'matmul') throw new TypeError(`geometry: unknown kind '${kind}'`);
  integers([zeroPoint], 1, 0, 'zeroPoint');
  if (zeroPoint > 255) throw new RangeError(`geometry: zeroPoint ${zeroPoint} is no uint8`);
  const numbers = new Float64Array(5 + 3 * 6);
  const setAxis = (axis: number, values: number[]) => numbers.set(values, 5 + 6 * axis);
  for (let axis = 0; axis < 3; axis++) setAxis(axis, [1, 1, 1, 0, 1, 1]);

  if (kind === 'matmul') {
    const [m, k] = integers(inputShape, 2, 0, 'inputShape') as [number, number];
    const [rows, outputs] = integers(weightShape, 2, 0, 'weightShape') as [number, number];
    if (rows !== k) throw new RangeError(`geometry: inputs of ${k} columns meet weights of ${rows} rows`);
    numbers.set([1, k, outputs, 1, zeroPoint]);
    setAxis(2, [m, 1, 1, 0, 1, m]);
    return { numbers, inputLength: m * k, weightLength: k * outputs, outputs, group: 1, positions: m, k };
  }

  const rank = inputShape.length - 1;
  if (rank < 1 || rank > 3) throw new RangeError(`geometry: inputShape [${inputShape}] is not [C, H, W] (one to three spatial axes)`);
  integers(inputShape, rank + 1, 1, 'inputShape');
  integers(weightShape, rank + 2, 1, 'weightShape');
  const strides = integers(geometry.strides ?? Array(rank).fill(1), rank, 1, 'strides');
  const dilations = integers(geometry.dilations ?? Array(rank).fill(1), rank, 1, 'dilations');
  const pads = integers(geometry.pads ?? Array(2 * rank).fill(0), 2 * rank, 0, 'pads');
  const [group] = integers([geometry.group ?? 1], 1, 1, 'group') as [number];
  const [channels, outputs, perGroup] = [inputShape[0]!, weightShape[0]!, weightShape[1]!];
  if (perGroup * group !== channels || outputs % group !== 0)
    throw new RangeError(`geometry: weights [${weightShape}] in ${group} groups do not fit ${channels} input channels`);
  numbers.set([0, channels, outputs, group, zeroPoint]);
  let positions = 1;
  for (let d = 0; d < rank; d++) {
    const [size, kernel, stride, dilation] = [inputShape[d + 1]!, weightShape[d + 2]!, strides[d]!, dilations[d]!];
    const begin = pads[d]!;
    const out = Math.floor((size + begin + pads[rank + d]! - dilation * (kernel - 1) - 1) / stride) + 1;
    if (out < 1) throw new RangeError(`geometry: a kernel of ${kernel} (dilation ${dilation}) is larger than its padded input of ${size}`);
    setAxis(3 - rank + d, [size, kernel, stride, begin, dilation, out]);
    positions *= out;
  }
  const k = product(weightShape.slice(1));
  return { numbers, inputLength: product(inputShape), weightLength: product(weightShape), outputs, group, positions, k };
}
