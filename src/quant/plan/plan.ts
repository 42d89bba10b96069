import type { LayerNote } from '../../domain/job.ts';
import type { DeviceProfile } from '../../domain/profile.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import type { Tensor, TensorType } from '../../onnx/model.ts';
import { floatData, isFiniteTensor } from '../../onnx/tensor.ts';
import type { Quantization } from '../emit/emit.ts';
import type { LayerCosts } from '../measure/costs.ts';
import type { ActivationRanges, Observations } from '../observe/observe.ts';
import { channelRange, type QuantizedWeight, quantizeBias, roundUnitWeight, roundWeight } from '../transform/weights.ts';
import { minimumCut } from './cut.ts';
import { type Grid, gridOf, groupRanges } from './ranges.ts';
import type { Unit } from './units.ts';

/** `pattern` with `*` for any run of characters, matched whole. */
export function matchesPattern(pattern: string, name: string): boolean {
  const parts = pattern.split('*');
  if (parts.length === 1) return pattern === name;
  if (!name.startsWith(parts[0]!) || !name.endsWith(parts.at(-1)!)) return false;
  let at = parts[0]!.length;
  for (const part of parts.slice(1, -1)) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= name.length - parts.at(-1)!.length;
}

/** Whether a recipe keeps a layer out, whatever its method: its node keeps float32 arithmetic and float32 weights. */
export function isExcluded({ exclude }: Pick<ResolvedRecipe, 'exclude'>, name: string, operator: string): boolean {
  return (
    exclude.names.includes(name) ||
    exclude.operators.includes(operator) ||
    exclude.patterns.some((pattern) => matchesPattern(pattern, name))
  );
}

/** Why a unit may not run in integers, whatever it costs; null = it may. */
export function forbidden(
  unit: Unit,
  recipe: ResolvedRecipe,
  observations: Observations,
  constant: (name: string) => Tensor | undefined,
): LayerNote | null {
  const note = (reason: string, detail?: string): LayerNote => ({
    node: unit.name,
    operator: unit.operator,
    reason,
    ...(detail && { detail }),
  });
  if (!unit.row) return note(unit.reason === 'no-integer-kernel' ? 'no-integer-kernel' : 'kernel-condition', unit.reason ?? undefined);
  if (isExcluded(recipe, unit.name, unit.operator)) return note('excluded-by-recipe');
  // An infinite weight behind which a Clip makes all finite again: nothing that was observed tells of it.
  // Its constant activations were looked at when the unit was built.
  for (const tensor of [unit.weight, unit.bias === null ? null : constant(unit.bias)])
    if (tensor && !isFiniteTensor(tensor)) return note('not-finite', `its constant ${tensor.name} holds NaN or Inf`);
  for (const value of [...unit.inputs.map((i) => unit.nodes[0]!.inputs[i]!), ...unit.outputs.filter(Boolean)]) {
    const s = observations.get(value);
    if (!s) return note('not-observed', `${value} is not a float tensor that could be observed`);
    if (s.nans || s.infs) return note('not-finite', `${value} holds NaN or Inf on the calibration data`);
    if (!s.count) return note('not-observed', `${value} was empty on the calibration data`);
  }
  return null;
}

/** What a conversion between float and integers costs at a value, in µs: a fixed part and one for its elements. */
const CROSSING = { fixedUs: 4, perElementUs: 0.0003 } as const;

/** What one conversion of a value is taken to cost. */
export function crossingUs(value: string, types: ReadonlyMap<string, TensorType>): number {
  const shape = types.get(value)?.shape;
  const elements = shape?.every((d) => typeof d === 'number') ? (shape as number[]).reduce((a, b) => a * b, 1) : 1000;
  return CROSSING.fixedUs + CROSSING.perElementUs * elements;
}

/** The cheapest choice of integer units by measured cost; `crossing` scales what conversions cost. */
export function chooseByCost(
  units: Unit[],
  allowed: ReadonlySet<number>,
  costs: Pick<LayerCosts, 'units'>,
  types: ReadonlyMap<string, TensorType>,
  crossing: number,
): Set<number> {
  const producers = new Map<string, number>();
  for (const unit of units) for (const output of unit.outputs) if (output) producers.set(output, unit.id);
  const vertices = units.map((unit) => {
    const cost = costs.units[unit.name];
    return {
      float: cost?.floatUs ?? 0,
      integer: allowed.has(unit.id) ? (cost?.integerUs ?? Number.POSITIVE_INFINITY) : Number.POSITIVE_INFINITY,
    };
  });
  const edges: { from: number; to: number; quantize: number; dequantize: number }[] = [];
  const OUTSIDE = units.length;
  vertices.push({ float: 0, integer: Number.POSITIVE_INFINITY });
  const price = (value: string) => crossing * crossingUs(value, types);
  for (const unit of units) {
    for (const value of new Set(unit.nodes.flatMap((n) => n.inputs))) {
      const shape = types.get(value);
      if (!value || unit.nodes.some((n) => n.outputs.includes(value)) || !shape) continue;
      const from = producers.get(value) ?? OUTSIDE;
      if (from === OUTSIDE && !unit.inputs.some((i) => unit.nodes[0]!.inputs[i] === value)) continue;
      edges.push({ from, to: unit.id, quantize: price(value), dequantize: price(value) });
    }
  }
  const side = minimumCut({ vertices, edges });
  return new Set(units.filter((u) => side[u.id]).map((u) => u.id));
}

export interface PlanInput {
  units: Unit[];
  quantized: ReadonlySet<number>;
  ranges: ActivationRanges;
  recipe: ResolvedRecipe;
  profile: DeviceProfile;
  constant: (name: string) => Tensor | undefined;
  /** unit id → output channels that get 7 bits. */
  sevenBits?: ReadonlyMap<number, ReadonlySet<number>>;
  /** unit id → what is added to the bias. */
  corrections?: ReadonlyMap<number, Float64Array>;
  /** unit id → weight codes chosen otherwise than by rounding to nearest, on the same scales. */
  rounded?: ReadonlyMap<number, Int8Array>;
}

/**
 * Grids, integer weights and biases for a set of integer units. Pure: the same input gives the same numbers.
 *
 * 1. Activations: one affine grid a value (or group of values, ranges.ts), of the recipe's type.
 * 2. Weights: per output channel where recipe and profile allow it; two-activation MatMuls have none.
 * 3. Biases: int32 at scale_x · scale_w, with the correction added in float first.
 * 4. Constant activations: a grid of their own, per tensor.
 */
export function quantizationFor(input: PlanInput): Quantization {
  const { units, quantized, recipe } = input;
  const symmetric = recipe.activations.symmetric || input.profile.requireSymmetricActivations;
  const groups = groupRanges(units, quantized, input.ranges);
  const grids = new Map<string, Grid>();
  const grid = (value: string): Grid => {
    const root = groups.group(value);
    let g = grids.get(root);
    if (!g) {
      const range = groups.range.get(root);
      if (!range) throw new Error(`no range for ${value}`);
      g = gridOf(range, recipe.activations.type, symmetric, groups.ceiling.get(root));
      grids.set(root, g);
    }
    return g;
  };
  const weights = new Map<number, QuantizedWeight>();
  const biases = new Map<number, { data: Int32Array; scales: Float32Array }>();
  const constants = new Map<string, QuantizedWeight>();
  for (const unit of units) {
    if (!quantized.has(unit.id)) continue;
    const anchor = unit.nodes[0]!;
    for (const i of unit.constants) {
      const name = anchor.inputs[i]!;
      const tensor = input.constant(name)!;
      const x = floatData(tensor);
      const range = channelRange(x, tensor.dims, null);
      const g = gridOf({ min: range.min[0]!, max: range.max[0]! }, recipe.activations.type, symmetric);
      constants.set(
        name,
        roundWeight(x, tensor.dims, null, g.type, { scales: Float32Array.of(g.scale), zeroPoints: Int32Array.of(g.zeroPoint) }),
      );
    }
    if (!unit.weight) continue;
    const channelAxis = unit.row!.weight!.axis(anchor, unit.weight)!;
    const axis = recipe.weights.granularity === 'channel' ? channelAxis : null;
    const channels = unit.weight.dims[channelAxis]!;
    const correction = input.corrections?.get(unit.id);
    const original = unit.bias ? floatData(input.constant(unit.bias)!) : null;
    const takesBias = original !== null || unit.row!.bias !== undefined;
    let bias: Float32Array | null = original;
    if (takesBias && correction)
      bias = Float32Array.from({ length: channels }, (_, c) => (original ? original[original.length === 1 ? 0 : c]! : 0) + correction[c]!);
    else if (original && original.length === 1 && channels > 1) bias = new Float32Array(channels).fill(original[0]!);
    const inputScale = grid(anchor.inputs[unit.inputs[0]!]!).scale;
    const nearest = roundUnitWeight(unit, axis, recipe.weights, {
      ...(input.sevenBits?.has(unit.id) && { sevenBits: input.sevenBits.get(unit.id)! }),
      ...(bias && { bias: axis === null ? Float32Array.of(bias.reduce((a, b) => Math.max(a, Math.abs(b)), 0)) : bias, inputScale }),
    });
    const chosen = input.rounded?.get(unit.id);
    weights.set(unit.id, chosen ? { ...nearest, type: 'int8', data: chosen } : nearest);
    if (bias) biases.set(unit.id, quantizeBias(bias, inputScale, nearest.scales));
  }
  return { units, quantized, grid, weights, biases, constants };
}
