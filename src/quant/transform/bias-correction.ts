import type { ObservedStatistics } from '../../domain/runner.ts';
import { attrInt } from '../../onnx/graph.ts';
import type { Unit } from '../plan/units.ts';
import { dequantizeWeight, outputChannels, type QuantizedWeight, unitWeight } from './weights.ts';

/**
 * Bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", §4.2, in its
 * form with data): rounding a layer's weights shifts its output's mean by (Ŵ − W)·E[x]; subtracting that from the bias
 * restores it. E[x] are the channel means of the float input, from the one observation pass; at padded borders they are
 * taken as inside. Costs one multiplication a weight.
 *
 * Returns what is to be added to the bias, one value an output channel.
 */
export function biasCorrection(unit: Unit, quantized: QuantizedWeight, input: ObservedStatistics): Float64Array | null {
  const means = input.channels?.mean;
  if (!means) return null;
  const anchor = unit.nodes[0]!;
  const w = unitWeight(unit);
  const q = dequantizeWeight(quantized);
  const [dims, channels] = [unit.weight!.dims, outputChannels(unit)];
  const correction = new Float64Array(channels);
  if (anchor.opType === 'Conv') {
    const group = attrInt(anchor, 'group', 1);
    const [perGroup, kernel] = [dims[1]!, dims.slice(2).reduce((a, b) => a * b, 1)];
    if (means.length !== perGroup * group) return null;
    for (let o = 0, at = 0; o < channels; o++) {
      const first = Math.floor(o / (channels / group)) * perGroup;
      for (let i = 0; i < perGroup; i++) {
        let error = 0;
        for (let k = 0; k < kernel; k++, at++) error += q[at]! - w[at]!;
        correction[o]! -= error * means[first + i]!;
      }
    }
    return correction;
  }
  const [rows, columns] = [dims[0]!, dims[1]!];
  const outputsFirst = channels === rows && unit.row!.weight!.axis(anchor, unit.weight!) === 0;
  if (means.length !== (outputsFirst ? columns : rows)) return null;
  for (let r = 0, at = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, at++) correction[outputsFirst ? r : c]! -= (q[at]! - w[at]!) * means[outputsFirst ? c : r]!;
  }
  return correction;
}
