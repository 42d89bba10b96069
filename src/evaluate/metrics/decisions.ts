/** What an output decides: a class a row, or a sequence by greedy CTC decoding. Definitions as in engine.md, "Definitions that reports and judges share". */
import type { TensorValue } from '../../domain/runner.ts';
import { floatValues, integerValues, isFloat } from '../elements.ts';
import type { OutputTraits } from './metric.ts';

/** Drops trailing axes of 1 down to rank 2. */
function trimmed(dims: readonly number[]): number[] {
  return dims.length > 2 && dims.slice(2).every((dim) => dim === 1) ? dims.slice(0, 2) : [...dims];
}

/** Rows and columns of an output that is read as classes: the last axis after trimming is the class. A vector as long as the batch is one column. */
export function classLayout(dims: readonly number[], batch: number): { rows: number; width: number } {
  const kept = trimmed(dims);
  const total = kept.reduce((a, b) => a * b, 1);
  if (kept.length === 0 || (kept.length === 1 && kept[0] === batch)) return { rows: total, width: 1 };
  const width = kept.at(-1)!;
  return { rows: width === 0 ? 0 : total / width, width };
}

/** Whether an output has classes: float, of rank 2 once trailing axes of 1 are dropped, at least 2 wide, and not shaped as an input. */
export function hasClasses(traits: OutputTraits): boolean {
  const kept = trimmed(traits.dims);
  if (!isFloat(traits.type) || kept.length !== 2 || kept[1]! < 2) return false;
  const same = (a: readonly number[], b: readonly number[]) => a.length === b.length && a.every((dim, i) => dim === b[i]);
  return !traits.inputShapes.some((shape) => same(shape, kept.slice(1)) || same(shape, traits.dims.slice(1)));
}

/** Steps and classes of an output that is read as sequences, null where it can't be: [batch, steps, classes], or [steps, batch, classes] as some exporters have it. */
export function sequenceLayout(dims: readonly number[], batch: number): { steps: number; width: number; timeMajor: boolean } | null {
  const kept = trimmed(dims);
  if (kept.length < 3 || kept.at(-1)! < 2) return null;
  const [steps, width] = kept.slice(-2) as [number, number];
  if (kept.slice(0, -2).reduce((a, b) => a * b, 1) === batch) return { steps, width, timeMajor: false };
  return kept.length === 3 && kept[1] === batch ? { steps: kept[0]!, width, timeMajor: true } : null;
}

// An output is decoded for several metrics, and the float model's for every variant; it is remembered as long as it lives.
const classesOf = new WeakMap<TensorValue, Int32Array>();
const sequencesOf = new WeakMap<TensorValue, { blank: number; sequences: Int32Array[] }>();
const floatsOf = new WeakMap<TensorValue, Float32Array | Float64Array>();

/** A float output's values; half floats are widened once. */
export function outputValues(tensor: TensorValue): Float32Array | Float64Array {
  let values = floatsOf.get(tensor);
  if (values === undefined) {
    values = floatValues(tensor);
    floatsOf.set(tensor, values);
  }
  return values;
}

function argmax(values: Float32Array | Float64Array, from: number, width: number): number {
  let best = values[from]!;
  let at = 0;
  for (let i = 1; i < width; i++) {
    const value = values[from + i]!;
    if (value > best) {
      best = value;
      at = i;
    }
  }
  return at;
}

/** The class of each row: the first of the largest values; of one column, 1 above 0.5. */
export function classes(tensor: TensorValue, batch: number): Int32Array {
  let result = classesOf.get(tensor);
  if (result === undefined) {
    const { rows, width } = classLayout(tensor.dims, batch);
    const values = outputValues(tensor);
    result = new Int32Array(rows);
    for (let row = 0; row < rows; row++) result[row] = width === 1 ? Number(values[row]! > 0.5) : argmax(values, row * width, width);
    classesOf.set(tensor, result);
  }
  return result;
}

/** Greedy CTC decoding (Graves 2006, best path): the argmax of each step, repeats merged, the blank dropped. One sequence a sample. */
export function sequences(tensor: TensorValue, batch: number, blank: number): Int32Array[] {
  const known = sequencesOf.get(tensor);
  if (known?.blank === blank) return known.sequences;
  const layout = sequenceLayout(tensor.dims, batch);
  if (layout === null) throw new TypeError(`an output of shape [${tensor.dims.join(', ')}] is no sequence of classes`);
  const { steps, width, timeMajor } = layout;
  const values = outputValues(tensor);
  const out: Int32Array[] = [];
  const path = new Int32Array(steps);
  for (let sample = 0; sample < batch; sample++) {
    let length = 0;
    let before = -1;
    for (let step = 0; step < steps; step++) {
      const row = timeMajor ? step * batch + sample : sample * steps + step;
      const label = argmax(values, row * width, width);
      if (label !== before && label !== blank) path[length++] = label;
      before = label;
    }
    out.push(path.slice(0, length));
  }
  sequencesOf.set(tensor, { blank, sequences: out });
  return out;
}

export function sameSequence(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((label, i) => label === b[i]);
}

/** For each sample of an output of integers (decisions already), whether both give the same. */
export function sameIntegers(a: TensorValue, b: TensorValue, batch: number): boolean[] {
  const [x, y] = [integerValues(a.type, a.bytes), integerValues(b.type, b.bytes)];
  const rows = a.dims[0] === batch ? batch : 1;
  const width = x.length / rows;
  return Array.from({ length: rows }, (_, row) => {
    for (let i = row * width; i < (row + 1) * width; i++) if (x[i] !== y[i]) return false;
    return true;
  });
}
