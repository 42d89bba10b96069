import { type ConvGeometry, convGram, gptqRound, gram } from '../../../native/index.ts';
import type { Runner, TensorValue } from '../../domain/runner.ts';
import { attrInt, attrInts, attrString } from '../../onnx/graph.ts';
import type { Model } from '../../onnx/model.ts';
import { eachAtATime } from '../at-a-time.ts';
import type { Unit } from '../plan/units.ts';
import { floats } from '../quality.ts';
import { withOutputs } from '../session.ts';
import { outputChannels, type QuantizedWeight, unitWeight } from './weights.ts';

/** Weight columns over which a layer's Hessian isn't worth its memory and the cube of its size. */
const MAX_COLUMNS = 1152;
const MAX_HESSIAN_BYTES = 200e6;
/** Positions of a feature map, or rows of a product, that one run adds: neighbours tell nearly the same. */
const POSITIONS = 256;
/** Multiply-adds a second, for the time that a layer is expected to take (native/: 3.5 s for 512 rows of 4608 columns; second moments go some times faster). */
const SPEED = 1.5e9;

interface Layer {
  unit: Unit;
  rows: number;
  columns: number;
  groups: number;
  /** Weight stored [K, N]: rounded as its transpose. */
  transposed: boolean;
  /** Multiply-adds of rounding it, and of what one run adds to its second moments. */
  cost: number;
  gramCost: number;
}

/** A layer's weight as a matrix [rows, columns] of output channels and what they sum over; null where there is no such form. */
function layerOf(unit: Unit): Layer | null {
  if (!unit.weight || !unit.row) return null;
  const rows = outputChannels(unit);
  const columns = unit.weight.dims.reduce((a, b) => a * b, 1) / rows;
  if (columns > MAX_COLUMNS || columns < 2) return null;
  const anchor = unit.nodes[0]!;
  const conv = anchor.opType === 'Conv';
  if (conv && !['', 'NOTSET'].includes(attrString(anchor, 'auto_pad', 'NOTSET'))) return null;
  const groups = conv ? attrInt(anchor, 'group', 1) : 1;
  return {
    unit,
    rows,
    columns,
    groups,
    transposed: !conv && unit.row.weight!.axis(anchor, unit.weight) === 1,
    cost: (groups * columns ** 3) / 6 + (rows * columns ** 2) / 2,
    gramCost: (groups * POSITIONS * columns ** 2) / 2,
  };
}

/**
 * Error-compensated rounding (GPTQ, Frantar et al. 2023) at 8 bits: each column of a layer's weight is rounded in turn, and
 * its error made up for in the columns still to come, as the inputs' second moments XᵀX say. X are the float model's inputs of
 * the layer on a few calibration runs, at a sample of positions. Same scales, same speed of the result.
 *
 * Layers are taken cheapest first until `seconds` are used up; of the rest nothing is said.
 */
export async function secondMoments(
  runner: Runner,
  model: Model,
  units: Unit[],
  runs: Record<string, TensorValue>[],
  options: { workDir: string; threads: number; seconds: number; signal?: AbortSignal },
): Promise<Map<number, Float64Array>> {
  const layers: Layer[] = [];
  const timeOf = (layer: Layer) => (layer.cost + runs.length * layer.gramCost) / SPEED;
  let [bytes, time] = [0, 0];
  for (const layer of units
    .map(layerOf)
    .filter((l): l is Layer => l !== null)
    .sort((a, b) => timeOf(a) - timeOf(b) || a.unit.id - b.unit.id)) {
    bytes += 8 * layer.groups * layer.columns ** 2;
    time += timeOf(layer);
    if (bytes > MAX_HESSIAN_BYTES || time > options.seconds) break;
    layers.push(layer);
  }
  const moments = new Map(layers.map((l) => [l.unit.id, new Float64Array(l.groups * l.columns ** 2)]));
  if (!layers.length) return moments;
  const inputOf = (layer: Layer) => layer.unit.nodes[0]!.inputs[layer.unit.inputs[0]!]!;
  const opened = await withOutputs(runner, model, new Set(layers.map(inputOf)), options.workDir, { threads: options.threads });
  try {
    const fetches = [...new Set(layers.map((l) => opened.outputOf(inputOf(l))))];
    for (const feeds of runs) {
      options.signal?.throwIfAborted();
      const values = await opened.session.run(feeds, fetches);
      // One layer to a core; each layer's sum is its own, so their order does not matter.
      await eachAtATime(layers, options.threads || runner.cores, (layer) =>
        addMoments(layer, values[opened.outputOf(inputOf(layer))]!, moments.get(layer.unit.id)!),
      );
    }
  } finally {
    opened.session.close();
  }
  return moments;
}

async function addMoments(layer: Layer, value: TensorValue, into: Float64Array): Promise<void> {
  const x = floats(value);
  const anchor = layer.unit.nodes[0]!;
  if (anchor.opType !== 'Conv') {
    const rows = x.length / layer.columns;
    if (rows <= POSITIONS) return gram(x, layer.columns, into);
    const step = rows / POSITIONS;
    const some = new Float32Array(POSITIONS * layer.columns);
    for (let i = 0; i < POSITIONS; i++) {
      const at = Math.floor(i * step) * layer.columns;
      some.set(x.subarray(at, at + layer.columns), i * layer.columns);
    }
    return gram(some, layer.columns, into);
  }
  const [batch, ...inputShape] = value.dims;
  const weightShape = layer.unit.weight!.dims;
  const geometry: ConvGeometry = { kind: 'conv', inputShape, weightShape, group: layer.groups };
  for (const name of ['strides', 'pads', 'dilations'] as const) {
    const given = attrInts(anchor, name);
    if (given) geometry[name] = given;
  }
  const positions = inputShape.slice(1).reduce((product, length, i) => {
    const [begin, end] = [geometry.pads?.[i] ?? 0, geometry.pads?.[i + inputShape.length - 1] ?? 0];
    const reach = (geometry.dilations?.[i] ?? 1) * (weightShape[i + 2]! - 1) + 1;
    return product * (Math.floor((length + begin + end - reach) / (geometry.strides?.[i] ?? 1)) + 1);
  }, 1);
  const count = Math.min(POSITIONS, positions);
  const chosen = Int32Array.from({ length: count }, (_, i) => Math.floor((i * positions) / count));
  const size = inputShape.reduce((a, b) => a * b, 1);
  for (let b = 0; b < batch!; b++) await convGram(x.subarray(b * size, (b + 1) * size), geometry, chosen, into);
}

/** A weight's codes with each column's error compensated in those to come, on the scales that it has already. */
export async function compensatedCodes(
  unit: Unit,
  weight: QuantizedWeight,
  moments: Float64Array,
  limits: ReadonlySet<number> | undefined,
  narrow: number,
): Promise<Int8Array> {
  const layer = layerOf(unit)!;
  const [w, { rows, columns }] = [unitWeight(unit), layer];
  const scales = weight.scales.length === 1 ? new Float32Array(rows).fill(weight.scales[0]!) : weight.scales;
  const codes = await gptqRound(layer.transposed ? transpose(w, columns, rows) : w, moments, scales, { min: -127, max: 127 });
  // Compensation may push a weight over what keeps its channel from saturating.
  for (const row of limits ?? []) {
    for (let i = row * columns; i < (row + 1) * columns; i++) codes[i] = Math.max(-narrow, Math.min(narrow, codes[i]!));
  }
  return layer.transposed ? transpose(codes, rows, columns) : codes;
}

function transpose<T extends Float32Array | Int8Array>(x: T, rows: number, columns: number): T {
  const out = new (x.constructor as new (n: number) => T)(x.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c]!;
  return out;
}
