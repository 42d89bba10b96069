import type { ActivationRanges } from '../observe/observe.ts';
import type { Unit } from './units.ts';

/** An affine grid: real = scale · (code − zeroPoint). `scale` is a float32 value. */
export interface Grid {
  type: 'uint8' | 'int8';
  scale: number;
  zeroPoint: number;
}
export interface Range {
  min: number;
  max: number;
}

const CODES = { uint8: { low: 0, high: 255 }, int8: { low: -128, high: 127 } } as const;
/** Below it a range is as good as zero, and scale_x · scale_w would be denormal. */
const SMALLEST_SCALE = Math.fround(1e-10);

/** The largest float32 not above x. */
function floorFloat32(x: number): number {
  const f = Math.fround(x);
  if (f <= x) return f;
  const bits = new DataView(new ArrayBuffer(4));
  bits.setFloat32(0, f);
  bits.setUint32(0, bits.getUint32(0) - 1);
  return bits.getFloat32(0);
}

/**
 * The grid of a range (Jacob et al. 2018, §2.1), which always contains zero exactly. A range that starts at zero gets the
 * lowest code as its zero point, so that ReLU folds (runtime.md, 3); `ceiling`: the bound of a folded Clip that the grid's
 * end may not pass, or the runtime fails to fold it.
 */
export function gridOf(range: Range, type: 'uint8' | 'int8', symmetric: boolean, ceiling = Number.POSITIVE_INFINITY): Grid {
  const { low, high } = CODES[type];
  const min = Math.min(0, range.min);
  const max = Math.max(0, Math.min(range.max, ceiling));
  // Signed and symmetric means a zero point of 0, ReLU or not: a device that asks for it may take no other.
  if (min === 0 && !(symmetric && type === 'int8')) {
    const scale = max / (high - low);
    return { type, scale: Math.max(SMALLEST_SCALE, Number.isFinite(ceiling) ? floorFloat32(scale) : Math.fround(scale)), zeroPoint: low };
  }
  if (symmetric) {
    const scale = Math.fround(Math.max(-min, max) / 127);
    return { type, scale: Math.max(SMALLEST_SCALE, scale), zeroPoint: type === 'int8' ? 0 : 128 };
  }
  const scale = Math.max(SMALLEST_SCALE, Math.fround((max - min) / (high - low)));
  const zeroPoint = Math.min(high, Math.max(low, Math.round(low - min / scale)));
  return { type, scale, zeroPoint };
}

/**
 * One range for each quantized value, with values that must (or should) share a grid brought together:
 * 1. an operator that only moves data has one grid at both ends;
 * 2. Concat gets one grid for all its inputs and its output, unless that would take away the zero point by which a ReLU
 *    or Clip folds, or would widen an input's range more than `widest` times (a slower kernel is then the better choice).
 * Returns value → group representative, and representative → range and ceiling.
 */
export function groupRanges(
  units: Unit[],
  quantized: ReadonlySet<number>,
  ranges: ActivationRanges,
  widest = 8,
): { group: (value: string) => string; range: Map<string, Range>; ceiling: Map<string, number> } {
  const parent = new Map<string, string>();
  const find = (value: string): string => {
    let root = value;
    while (parent.has(root) && parent.get(root) !== root) root = parent.get(root)!;
    return root;
  };
  const range = new Map<string, Range>();
  const ceiling = new Map<string, number>();
  const floorZero = new Set<string>();
  const touch = (value: string) => {
    if (parent.has(value)) return;
    parent.set(value, value);
    const r = ranges.get(value);
    range.set(value, r ? { ...r } : { min: 0, max: 0 });
  };
  const merge = (a: string, b: string) => {
    const [ra, rb] = [find(a), find(b)];
    if (ra === rb) return;
    parent.set(rb, ra);
    const [x, y] = [range.get(ra)!, range.get(rb)!];
    range.set(ra, { min: Math.min(x.min, y.min), max: Math.max(x.max, y.max) });
    if (ceiling.has(ra) || ceiling.has(rb)) ceiling.set(ra, Math.min(ceiling.get(ra) ?? Infinity, ceiling.get(rb) ?? Infinity));
    if (floorZero.has(rb)) floorZero.add(ra);
  };
  const active = units.filter((u) => quantized.has(u.id));
  for (const unit of active) {
    const values = [...unit.inputs.map((i) => unit.nodes[0]!.inputs[i]!), ...unit.outputs.filter(Boolean)];
    values.forEach(touch);
    if (unit.clip.lo === 0) {
      floorZero.add(unit.outputs[0]!);
      const r = range.get(unit.outputs[0]!)!;
      r.min = 0;
      if (Number.isFinite(unit.clip.hi)) ceiling.set(unit.outputs[0]!, unit.clip.hi);
    }
  }
  for (const unit of active) {
    if (unit.row!.moves) for (const output of unit.outputs.filter(Boolean)) merge(unit.nodes[0]!.inputs[unit.inputs[0]!]!, output);
  }
  for (const unit of active) {
    if (!unit.row!.prefersOneScale) continue;
    const values = [...unit.inputs.map((i) => unit.nodes[0]!.inputs[i]!), unit.outputs[0]!];
    const roots = [...new Set(values.map(find))];
    const all = roots.map((r) => range.get(r)!);
    const union = { min: Math.min(...all.map((r) => r.min)), max: Math.max(...all.map((r) => r.max)) };
    const breaksFold = roots.some((r) => (floorZero.has(r) && union.min < 0) || (ceiling.has(r) && union.max > ceiling.get(r)!));
    const span = union.max - union.min;
    const tooWide = all.some((r) => r.max - r.min > 0 && span > widest * (r.max - r.min));
    if (!breaksFold && !tooWide) for (const r of roots.slice(1)) merge(roots[0]!, r);
  }
  const group = (value: string) => find(value);
  return { group, range, ceiling };
}
