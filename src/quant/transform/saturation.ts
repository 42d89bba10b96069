import { attrInt } from '../../onnx/graph.ts';
import type { Observations } from '../observe/observe.ts';
import type { Grid } from '../plan/ranges.ts';
import type { Unit } from '../plan/units.ts';
import { outputChannels, type QuantizedWeight } from './weights.ts';

/** What the 16-bit sum of two u8×s8 products can hold. */
const HIGHEST = 32767;
const LOWEST = -32768;

/**
 * Output channels in which a pair of u8×s8 products could saturate on x86 without VNNI, on the calibration data.
 *
 * vpmaddubsw adds the products of neighbours (2i, 2i+1) in the order kernel row, kernel column, input channel, into 16 bits
 * with saturation (processors/README.md, exact for ONNX Runtime's kernels). With the greatest code that each input channel
 * takes anywhere in the calibration data, a pair whose worst sum fits can't saturate on any sample: what is named here is
 * every channel that does saturate, and few that don't. Depthwise kernels widen first and never saturate.
 */
export function saturatingChannels(unit: Unit, weight: QuantizedWeight, input: Grid, observations: Observations): ReadonlySet<number> {
  const key = `${weight.type} ${input.type} ${input.scale} ${input.zeroPoint}`;
  const before = answers.get(weight.data);
  if (before?.unit === unit && before.key === key && before.observations === observations) return before.found;
  const found = search(unit, weight, input, observations);
  answers.set(weight.data, { unit, key, observations, found });
  return found;
}

/** The last answer about each weight's codes: many plans of one model are tried, and most ask the same. */
const answers = new WeakMap<ArrayBufferView, { unit: Unit; key: string; observations: Observations; found: ReadonlySet<number> }>();

function search(unit: Unit, weight: QuantizedWeight, input: Grid, observations: Observations): Set<number> {
  const found = new Set<number>();
  if (weight.type !== 'int8' || input.type !== 'uint8') return found;
  const anchor = unit.nodes[0]!;
  const statistics = observations.get(anchor.inputs[unit.inputs[0]!]!);
  // A little more: float32 division may round up what lies just below a tie.
  const code = (x: number) => Math.max(0, Math.min(255, Math.round(x / input.scale + 1e-3) + input.zeroPoint));
  const [dims, channels] = [weight.dims, outputChannels(unit)];
  const group = anchor.opType === 'Conv' ? attrInt(anchor, 'group', 1) : 1;
  const outputsFirst = unit.row!.weight!.axis(anchor, unit.weight!) === 0;
  const inputs = anchor.opType === 'Conv' ? dims[1]! * group : outputsFirst ? dims[1]! : dims[0]!;
  // Another reader of the value may have had its channels observed along another axis.
  const maxima = statistics?.channels?.max.length === inputs ? statistics.channels.max : null;
  const overall = code(statistics?.max ?? Number.POSITIVE_INFINITY);
  const perGroup = anchor.opType === 'Conv' ? dims[1]! : inputs;
  const perGroupOut = channels / group;
  const depthwise = anchor.opType === 'Conv' && perGroup === 1 && perGroupOut === 1;
  if (depthwise) return found;
  const greatest = Int32Array.from({ length: inputs }, (_, c) => Math.max(input.zeroPoint, maxima ? code(maxima[c]!) : overall));
  // Where the i-th product's weight lies, from an output channel's first, and which input channel it takes.
  const kernel = anchor.opType === 'Conv' ? dims.slice(2).reduce((a, b) => a * b, 1) : 1;
  const products = perGroup * kernel;
  const weightAt = new Int32Array(products);
  const channelAt = new Int32Array(products);
  const [step, stride] = anchor.opType === 'Conv' || outputsFirst ? [1, products] : [channels, 1];
  for (let i = 0; i < products; i++) {
    channelAt[i] = i % perGroup;
    weightAt[i] = ((i % perGroup) * kernel + Math.floor(i / perGroup)) * step;
  }
  const w = weight.data;
  for (let o = 0; o < channels; o++) {
    const [base, first] = [o * stride, Math.floor(o / perGroupOut) * perGroup];
    for (let i = 0; i + 1 < products; i += 2) {
      const [a, b] = [w[base + weightAt[i]!]!, w[base + weightAt[i + 1]!]!];
      // Only two of one sign can pass the limit together: 255 · 128 fits alone.
      if (a + b <= 128 && a + b >= -128) continue;
      const sum = a * greatest[first + channelAt[i]!]! + b * greatest[first + channelAt[i + 1]!]!;
      if (sum > HIGHEST || sum < LOWEST) {
        found.add(o);
        break;
      }
    }
  }
  return found;
}
