import { attrInt, captures, cloneModel, floatAttr, GraphView, intAttr, NamePool } from '../../onnx/graph.ts';
import { type Attribute, DataType, type Model, type Node, type Tensor, type TensorType } from '../../onnx/model.ts';
import { inferShapes } from '../../onnx/shapes.ts';
import { makeTensor } from '../../onnx/tensor.ts';
import { OPERATORS, SELF_QUANTIZING } from '../plan/operators.ts';
import type { Grid } from '../plan/ranges.ts';
import type { Unit } from '../plan/units.ts';
import type { QuantizedWeight } from '../transform/weights.ts';
import type { LayerWriter } from './layer.ts';
import { qdqLayer } from './qdq.ts';
import { qoperatorLayer } from './qoperator.ts';

/** All that the file needs: decided by plan and transform, written here. */
export interface Quantization {
  units: Unit[];
  /** Ids of the units that run in integers. */
  quantized: ReadonlySet<number>;
  /** The grid of every value that an integer unit reads or writes. */
  grid: (value: string) => Grid;
  weights: ReadonlyMap<number, QuantizedWeight>;
  /** int32 at scale_x · scale_w. */
  biases: ReadonlyMap<number, { data: Int32Array; scales: Float32Array }>;
  /** Constant activations (of Add, Mul, Concat, Where): initializer name → its form on a grid of its own. */
  constants: ReadonlyMap<string, QuantizedWeight>;
}

const intAttribute = (name: string, value: number): [string, Attribute] => [name, intAttr(name, value)];

/** Types as the model alone tells them: the plan's have the calibration data's sizes in them, and users have data of other sizes. */
const fixed = new WeakMap<Model, ReadonlyMap<string, TensorType>>();
function fixedTypes(model: Model): ReadonlyMap<string, TensorType> {
  let types = fixed.get(model);
  if (!types) {
    types = inferShapes(model);
    fixed.set(model, types);
  }
  return types;
}

/** The axis and number of a layer's input channels, from its weight. */
function inputChannels(node: Node, weight: Tensor): { axis: number; size: number } | null {
  if (node.opType === 'Conv') return { axis: 1, size: weight.dims[1]! * attrInt(node, 'group', 1) };
  if (node.opType === 'ConvTranspose') return { axis: 1, size: weight.dims[0]! };
  if (node.opType === 'Gemm')
    return attrInt(node, 'transA', 0) ? null : { axis: 1, size: weight.dims[attrInt(node, 'transB', 0) ? 1 : 0]! };
  return weight.dims.length >= 2 ? { axis: -1, size: weight.dims.at(-2)! } : null;
}

/**
 * Writes the quantized model.
 *
 * 1. A value made in float and read in integers gets one QuantizeLinear, before its first integer reader.
 * 2. A value made in integers and read in float, or an output of the graph, gets a DequantizeLinear that keeps its name:
 *    inputs and outputs of the graph stay as they were.
 * 3. Each integer reader has a DequantizeLinear of its own; scales and zero points are rank 0 (runtime.md, rule 6).
 * 4. An activation that folds is left out: the grid's ends do its work (which also avoids the Clip edge bug, rule 7). Where
 *    they can't, because the output is float or its grid is wider, it follows: in float, or as a Clip of the codes.
 * 5. A layer left in float between integer ones is guarded from being quantized by the runtime itself (runtime.md, 2): a
 *    vector DequantizeLinear before it, or LeakyRelu(1) behind it, as the operator table says; LeakyRelu(1) before one of a
 *    MatMul's two activations.
 * 6. Nothing that nobody reads is left (rule 12).
 */
export function emit(prepared: Model, quantization: Quantization, format: 'qdq' | 'qoperator'): Model {
  const model = cloneModel(prepared);
  const graph = model.graph;
  const nodes: Node[] = [];
  const pool = new NamePool(prepared.graph);
  const name = (base: string): string => pool.fresh(base);
  const reads = (n: Node): string[] => [...n.inputs, ...captures(n)].filter(Boolean);
  const push = (node: Node) => nodes.push(node);
  const node = (opType: string, inputs: string[], outputs: string[], attributes: [string, Attribute][] = []) =>
    push({ name: name(`${outputs[0]}_${opType}`), opType, domain: '', inputs, outputs, attributes: new Map(attributes) });
  const initializer = (base: string, dataType: DataType, dims: number[], data: Parameters<typeof makeTensor>[3]): string => {
    const n = name(base);
    graph.initializers.set(n, makeTensor(n, dataType, dims, data));
    return n;
  };

  const producers = new Map<string, Unit>();
  for (const unit of quantization.units) for (const output of unit.outputs) if (output) producers.set(output, unit);
  const isInteger = (unit: Unit | undefined) => unit !== undefined && quantization.quantized.has(unit.id);
  const readers = new Map<string, Unit[]>();
  for (const unit of quantization.units) {
    const inside = new Set(unit.nodes.flatMap((n) => n.outputs));
    for (const value of new Set(unit.nodes.flatMap((n) => reads(n)))) {
      if (!inside.has(value)) readers.set(value, [...(readers.get(value) ?? []), unit]);
    }
  }
  const graphOutputs = new Set(graph.outputs.map((o) => o.name));
  const readsAsInteger = (unit: Unit, value: string) => isInteger(unit) && unit.inputs.some((i) => unit.nodes[0]!.inputs[i] === value);
  const needsCodes = (value: string) => (readers.get(value) ?? []).some((u) => readsAsInteger(u, value));
  const isBounded = (unit: Unit) => Number.isFinite(unit.clip.lo) || Number.isFinite(unit.clip.hi);
  /** Whether a layer that is in integers gives floats, which spares a quantization nobody needs. */
  const givesFloats = (unit: Unit, value: string): boolean => {
    if (!unit.row!.floatOutput || needsCodes(value)) return false;
    // The runtime joins nothing that gives an output of the graph.
    if (graphOutputs.has(value)) return true;
    const reading = (u: Unit) => u.nodes.filter((n) => reads(n).includes(value));
    const next = isBounded(unit) ? [unit.nodes.at(-1)!] : (readers.get(value) ?? []).flatMap(reading);
    return next.length !== 1 || unit.row!.floatOutput(next[0]!.opType, unit.bias !== null);
  };
  const known = new Map<string, boolean>();
  /** Whether a value is codes where it is made. */
  const madeInIntegers = (value: string): boolean => {
    let made = known.get(value);
    if (made === undefined) {
      const unit = producers.get(value);
      made = isInteger(unit) && !givesFloats(unit!, value);
      known.set(value, made);
    }
    return made;
  };

  const gridNames = new Map<string, [string, string]>();
  const scalarType = (grid: Grid) => (grid.type === 'uint8' ? DataType.UINT8 : DataType.INT8);
  const codesOf = (grid: Grid, zeroPoints: number[]) => (grid.type === 'uint8' ? Uint8Array.from(zeroPoints) : Int8Array.from(zeroPoints));
  /** Names of a grid's scale and zero point: one pair for all values on the same grid. */
  const gridParameters = (value: string): [string, string] => {
    const grid = quantization.grid(value);
    const key = `${grid.type} ${grid.scale} ${grid.zeroPoint}`;
    let names = gridNames.get(key);
    if (!names) {
      names = [
        initializer(`${value}_scale`, DataType.FLOAT, [], Float32Array.of(grid.scale)),
        initializer(`${value}_zero_point`, scalarType(grid), [], codesOf(grid, [grid.zeroPoint])),
      ];
      gridNames.set(key, names);
    }
    return names;
  };
  const codeNames = new Map<string, string>();
  const codes = (value: string): string => {
    let n = codeNames.get(value);
    if (!n) {
      n = name(`${value}_quantized`);
      codeNames.set(value, n);
      // Made in integers: its unit writes the codes. Made in float: quantized here, before the first integer reader.
      if (!madeInIntegers(value)) node('QuantizeLinear', [value, ...gridParameters(value)], [n]);
    }
    return n;
  };
  const constantCodes = (base: string, q: QuantizedWeight): [string, string, string] => {
    const type = q.type === 'int8' ? DataType.INT8 : DataType.UINT8;
    const dims = q.axis === null ? [] : [q.scales.length];
    const zero = q.type === 'int8' ? Int8Array.from(q.zeroPoints) : Uint8Array.from(q.zeroPoints);
    return [
      initializer(`${base}_quantized`, type, q.dims, q.data),
      initializer(`${base}_scale`, DataType.FLOAT, dims, q.scales),
      initializer(`${base}_zero_point`, type, dims, zero),
    ];
  };
  const constantNames = new Map<string, [string, string, string]>();

  const writer = (unit: Unit): LayerWriter => ({
    push,
    name,
    integer: (value) => [codes(value), ...gridParameters(value)],
    constant: (value) => {
      let names = constantNames.get(value);
      if (!names) {
        names = constantCodes(value, quantization.constants.get(value)!);
        constantNames.set(value, names);
      }
      return names;
    },
    weight: () => constantCodes(unit.nodes[0]!.inputs[unit.row!.weight!.input]!, quantization.weights.get(unit.id)!),
    bias: () => {
      const bias = quantization.biases.get(unit.id);
      if (!bias) return null;
      const base = unit.bias ?? `${unit.name}_bias`;
      // A per-tensor weight has one scale, and so has its bias.
      const perChannel = quantization.weights.get(unit.id)!.scales.length > 1;
      const scales = perChannel ? bias.scales : bias.scales.slice(0, 1);
      return [
        initializer(`${base}_quantized`, DataType.INT32, [bias.data.length], bias.data),
        initializer(`${base}_scale`, DataType.FLOAT, perChannel ? [scales.length] : [], scales),
        initializer(`${base}_zero_point`, DataType.INT32, perChannel ? [scales.length] : [], new Int32Array(scales.length)),
      ];
    },
    floatBias: () => {
      const bias = quantization.biases.get(unit.id);
      if (!bias) return null;
      const values = Float32Array.from(bias.data, (code, c) => code * bias.scales[c]!);
      return initializer(`${unit.bias ?? `${unit.name}_bias`}_corrected`, DataType.FLOAT, [values.length], values);
    },
    inputRank: () => fixedTypes(prepared).get(unit.nodes[0]!.inputs[0]!)?.shape?.length ?? null,
    output: (index) => {
      const value = unit.outputs[index]!;
      const before = unclipped(unit);
      if (!madeInIntegers(value)) return { float: before ?? value };
      const [scale, zeroPoint] = gridParameters(value);
      return { codes: before ?? codes(value), scale, zeroPoint };
    },
  });

  /** The bounds of a unit's folded activation in codes, where its output's grid passes them by more than rounding does; null = the grid does its work. */
  const bounds = (unit: Unit): { lo: number; hi: number } | null => {
    const grid = quantization.grid(unit.outputs[0]!);
    const low = grid.type === 'uint8' ? 0 : -128;
    const code = (x: number) => Math.max(low, Math.min(low + 255, Math.round(x / grid.scale) + grid.zeroPoint));
    const [lo, hi] = [code(unit.clip.lo), code(unit.clip.hi)];
    return lo > low + 1 || hi < low + 254 ? { lo, hi } : null;
  };
  const unclippedNames = new Map<Unit, string | null>();
  /** Where a unit writes what its folded activation is still to be applied to; null = nothing is left to be done. */
  const unclipped = (unit: Unit): string | null => {
    let n = unclippedNames.get(unit);
    if (n === undefined) {
      const value = unit.outputs[0]!;
      n = isBounded(unit) && (!madeInIntegers(value) || bounds(unit)) ? name(`${value}_unclipped`) : null;
      unclippedNames.set(unit, n);
    }
    return n;
  };
  /** Rule 4's exceptions: an output in float has no grid's ends, and a grid may be wider than the activation's bounds. Both cost one pass. */
  const activate = (unit: Unit) => {
    const from = unclipped(unit);
    if (from === null) return;
    const value = unit.outputs[0]!;
    const activation = unit.nodes.at(-1)!;
    if (!madeInIntegers(value)) {
      push({ ...activation, inputs: [from, ...activation.inputs.slice(1)], outputs: [value] });
      return;
    }
    const grid = quantization.grid(value);
    const { lo, hi } = bounds(unit)!;
    const bound = (which: string, code: number) => initializer(`${value}_${which}`, scalarType(grid), [], codesOf(grid, [code]));
    node('Clip', [from, bound('lowest', lo), bound('highest', hi)], [codes(value)]);
  };

  const isMover = (unit: Unit) => OPERATORS[unit.operator]?.moves === true;
  /** Where a vector scale can lie: an axis of more than one entry whose length does not change from run to run. The first such is the fastest. */
  const vectorAxis = (value: string, reader: Node): { axis: number; size: number } | null => {
    const shape = fixedTypes(prepared).get(value)?.shape;
    const axis = shape?.findIndex((d) => typeof d === 'number' && d > 1) ?? -1;
    if (axis >= 0) return { axis, size: shape![axis] as number };
    const weight = prepared.graph.initializers.get(reader.inputs[1] ?? '');
    const known = weight && reader.inputs[0] === value ? inputChannels(reader, weight) : null;
    return known && known.size > 1 ? known : null;
  };
  // What the runtime could bring a DequantizeLinear next to, and a QuantizeLinear: both move across units that only move data.
  const fromCodes = new Set<string>();
  const toCodes = new Set<string>();
  /** Of the first those that no vector scale guards. */
  const exposed = new Set<string>();
  const isExposed = (value: string, reader: Node) => exposed.has(value) || (madeInIntegers(value) && !vectorAxis(value, reader));
  for (const unit of quantization.units) {
    const moved = !isInteger(unit) && isMover(unit) ? unit.nodes[0]!.inputs[0]! : null;
    for (const output of unit.outputs) {
      if (!output) continue;
      if (madeInIntegers(output) || (moved && fromCodes.has(moved))) fromCodes.add(output);
      if (moved && isExposed(moved, unit.nodes[0]!)) exposed.add(output);
    }
  }
  for (const unit of [...quantization.units].reverse()) {
    const anchor = unit.nodes[0]!;
    if (isInteger(unit)) for (const i of unit.inputs) toCodes.add(anchor.inputs[i]!);
    else if (isMover(unit) && unit.outputs.some((o) => toCodes.has(o))) toCodes.add(anchor.inputs[0]!);
  }
  const guardOf = (unit: Unit): 'axis' | 'before' | 'after' | null => {
    const anchor = unit.nodes[0]!;
    if (anchor.domain !== '') return null;
    const goesOn = unit.outputs.some((o) => toCodes.has(o));
    if (SELF_QUANTIZING.has(anchor.opType)) {
      // Two activations: no weight that the runtime could quantize, but a kernel that it chooses whatever follows (MatMulIntegerToFloat);
      // it would take a vector scale, too, and then fail to run.
      if (!anchor.inputs.some((i) => prepared.graph.initializers.has(i)))
        return anchor.inputs.every((i) => fromCodes.has(i)) ? 'before' : null;
      return isExposed(anchor.inputs[0]!, anchor) ? (goesOn ? 'after' : null) : 'axis';
    }
    const row = OPERATORS[unit.operator];
    if (row?.guard !== 'after') return row?.guard ?? null;
    const activations = anchor.inputs.filter((value, i) => value && (row.activations === 'all' || row.activations.includes(i)));
    const wanted = (value: string) => fromCodes.has(value) || (row.takesFloatConstant === true && prepared.graph.initializers.has(value));
    return goesOn && activations.every(wanted) ? 'after' : null;
  };
  const vectors = new Map<string, string>();
  /** A DequantizeLinear with a vector scale, all entries equal: costs nothing and is never fused into what follows. */
  const guarded = (value: string, reader: Node): string => {
    const vector = vectorAxis(value, reader);
    if (!vector) return value;
    const { axis, size } = vector;
    const key = `${value} ${axis}`;
    let out = vectors.get(key);
    if (!out) {
      const grid = quantization.grid(value);
      const scale = initializer(`${value}_scales`, DataType.FLOAT, [size], new Float32Array(size).fill(grid.scale));
      const zero = initializer(`${value}_zero_points`, scalarType(grid), [size], codesOf(grid, new Array(size).fill(grid.zeroPoint)));
      out = name(`${value}_dequantized`);
      node('DequantizeLinear', [codes(value), scale, zero], [out], [intAttribute('axis', axis)]);
      vectors.set(key, out);
    }
    return out;
  };
  const dequantized = new Set<string>();
  const dequantize = (value: string) => {
    if (dequantized.has(value)) return;
    dequantized.add(value);
    node('DequantizeLinear', [codes(value), ...gridParameters(value)], [value]);
  };

  for (const unit of quantization.units) {
    if (isInteger(unit)) {
      if (format === 'qdq') qdqLayer(unit, writer(unit), { node });
      else qoperatorLayer(unit, writer(unit), { node });
      activate(unit);
      continue;
    }
    const guard = guardOf(unit);
    const inner = new Set(unit.nodes.flatMap((n) => n.outputs));
    for (const [at, original] of unit.nodes.entries()) {
      const copy: Node = { ...original, inputs: [...original.inputs], outputs: [...original.outputs] };
      copy.inputs = copy.inputs.map((value) => {
        if (!value || inner.has(value) || !madeInIntegers(value)) return value;
        const safe = guard === 'axis' && at === 0 ? guarded(value, original) : value;
        if (safe === value) dequantize(value);
        return safe;
      });
      for (const value of reads(original))
        if (!copy.inputs.includes(value) && !original.inputs.includes(value) && madeInIntegers(value)) dequantize(value);
      if (guard === 'before' && at === 0) {
        const float = name(`${copy.inputs[0]}_float`);
        node('LeakyRelu', [copy.inputs[0]!], [float], [['alpha', floatAttr('alpha', 1)]]);
        copy.inputs[0] = float;
      }
      if (guard === 'after' && at === unit.nodes.length - 1) {
        const value = copy.outputs[0]!;
        copy.outputs[0] = name(`${value}_float`);
        push(copy);
        node('LeakyRelu', [copy.outputs[0]!], [value], [['alpha', floatAttr('alpha', 1)]]);
      } else push(copy);
    }
  }
  for (const output of graphOutputs) if (madeInIntegers(output)) dequantize(output);
  graph.nodes = nodes;
  graph.valueInfo.clear();
  if (format === 'qoperator') model.opsets.set('com.microsoft', Math.max(1, model.opsets.get('com.microsoft') ?? 0));
  const written = new GraphView(graph);
  written.removeDead();
  written.sort();
  return model;
}
