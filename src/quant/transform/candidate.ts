import type { DeviceProfile } from '../../domain/profile.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import type { Tensor } from '../../onnx/model.ts';
import type { Quantization } from '../emit/emit.ts';
import type { ActivationRanges, Observations } from '../observe/observe.ts';
import { quantizationFor } from '../plan/plan.ts';
import type { Unit } from '../plan/units.ts';
import { biasCorrection } from './bias-correction.ts';
import { compensatedCodes } from './compensated-rounding.ts';
import { saturatingChannels } from './saturation.ts';
import { SEVEN_BITS } from './weights.ts';

/** One way to set the numbers of a plan: what is tried, and kept where it lowers the error. */
export interface Choice {
  /** The range rule's name. */
  name: string;
  ranges: ActivationRanges;
  correctBias: boolean;
  /** Second moments of layers' inputs; layers that have them are rounded with compensation, null = all to nearest. */
  moments: ReadonlyMap<number, Float64Array> | null;
}

export interface CandidateInput {
  units: Unit[];
  recipe: ResolvedRecipe;
  profile: DeviceProfile;
  constant: (name: string) => Tensor | undefined;
  observations: Observations;
}

/** Codes that were rounded with compensation before, by unit and scales: a plan changes neither. */
export type CodesCache = Map<number, { scales: Float32Array; codes: Int8Array }>;

/**
 * The numbers of a plan under a choice.
 * 1. Grids and weight scales; output channels that could saturate on x86 without VNNI get 7 bits.
 * 2. Weights: to nearest, or with compensation.
 * 3. Biases, corrected for what rounding did to the weights.
 */
export async function quantizationUnder(
  input: CandidateInput,
  quantized: ReadonlySet<number>,
  choice: Choice,
  cache: CodesCache,
): Promise<Quantization> {
  const { units, recipe, observations } = input;
  const base = { ...input, quantized, ranges: choice.ranges };
  const inputOf = (unit: Unit) => unit.nodes[0]!.inputs[unit.inputs[0]!]!;
  const plain = quantizationFor(base);
  const sevenBits = new Map<number, ReadonlySet<number>>();
  /** Adds the channels whose codes could saturate; whether there were any new ones. */
  const narrow = (quantization: Quantization): boolean => {
    let grew = false;
    if (!avoidsSaturation(input.profile)) return grew;
    for (const unit of units) {
      if (!quantized.has(unit.id) || !unit.weight) continue;
      const found = saturatingChannels(unit, quantization.weights.get(unit.id)!, plain.grid(inputOf(unit)), observations);
      const channels = recipe.weights.granularity === 'channel' ? found : new Set(found.size ? [0] : []);
      const known = sevenBits.get(unit.id);
      if (![...channels].some((c) => !known?.has(c))) continue;
      sevenBits.set(unit.id, new Set([...(known ?? []), ...channels]));
      grew = true;
    }
    return grew;
  };
  narrow(plain);
  let rounded = new Map<number, Int8Array>();
  let settled: Quantization;
  do {
    const rescaled = sevenBits.size ? quantizationFor({ ...base, sevenBits }) : plain;
    rounded = new Map();
    for (const unit of units) {
      const weight = rescaled.weights.get(unit.id);
      const moments = choice.moments?.get(unit.id);
      if (!weight || !moments || weight.type !== 'int8' || !recipe.weights.symmetric) continue;
      const known = cache.get(unit.id);
      if (known?.scales.every((s, i) => s === weight.scales[i])) {
        rounded.set(unit.id, known.codes);
        continue;
      }
      const perTensor = recipe.weights.granularity === 'tensor';
      const limits =
        perTensor && sevenBits.has(unit.id)
          ? new Set(Array.from({ length: unit.weight!.dims[unit.row!.weight!.axis(unit.nodes[0]!, unit.weight!)!]! }, (_, i) => i))
          : sevenBits.get(unit.id);
      const codes = await compensatedCodes(unit, weight, moments, limits, SEVEN_BITS);
      cache.set(unit.id, { scales: weight.scales, codes });
      rounded.set(unit.id, codes);
    }
    settled = rounded.size ? quantizationFor({ ...base, sevenBits, rounded }) : rescaled;
    // Compensation takes codes further than rounding to nearest does: a pair that fitted may not any more. Each channel is narrowed once.
  } while (rounded.size && narrow(settled));
  if (!choice.correctBias) return settled;
  const corrections = new Map<number, Float64Array>();
  for (const unit of units) {
    const weight = settled.weights.get(unit.id);
    if (!weight || (unit.row!.bias === undefined && unit.bias === null)) continue;
    const statistics = observations.get(inputOf(unit));
    const correction = statistics && biasCorrection(unit, weight, statistics);
    if (correction) corrections.set(unit.id, correction);
  }
  return quantizationFor({ ...base, sevenBits, rounded, corrections });
}

/**
 * Whether 7-bit channels are needed: wherever the file may meet an x86 processor. A file outlives the machine that it was
 * measured on, and the channels concerned cost little (docs/decisions).
 */
function avoidsSaturation(profile: DeviceProfile): boolean {
  return !profile.machine || profile.machine.architecture === 'x64';
}
