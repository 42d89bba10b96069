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
  const greatest = (channel: number) => Math.max(input.zeroPoint, maxima ? code(maxima[channel]!) : overall);
  const w = weight.data;
  const check = (o: number, k: number, weightAt: (i: number) => number, channelAt: (i: number) => number) => {
    for (let i = 0; i + 1 < k; i += 2) {
      const [a, b] = [w[weightAt(i)]!, w[weightAt(i + 1)]!];
      // Only two of one sign can pass the limit together: 255 · 128 fits alone.
      if (a > 0 === b > 0 && Math.abs(a + b) > 128) {
        const sum = a * greatest(channelAt(i)) + b * greatest(channelAt(i + 1));
        if (sum > HIGHEST || sum < LOWEST) {
          found.add(o);
          return;
        }
      }
    }
  };
  if (anchor.opType === 'Conv') {
    const [perGroup, kernel] = [dims[1]!, dims.slice(2).reduce((a, b) => a * b, 1)];
    const perGroupOut = channels / group;
    if (perGroup === 1 && perGroupOut === 1) return found;
    for (let o = 0; o < channels; o++) {
      const [base, first] = [o * perGroup * kernel, Math.floor(o / perGroupOut) * perGroup];
      check(
        o,
        perGroup * kernel,
        (i) => base + (i % perGroup) * kernel + Math.floor(i / perGroup),
        (i) => first + (i % perGroup),
      );
    }
    return found;
  }
  const k = inputs;
  for (let o = 0; o < channels; o++)
    check(
      o,
      k,
      (i) => (outputsFirst ? o * k + i : i * channels + o),
      (i) => i,
    );
  return found;
}
