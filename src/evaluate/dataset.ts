/**
 * Data sets: an .npz whose arrays are named as the model's inputs, first axis = sample, and `labels` beside them.
 * An array of its input's rank gives slices that keep an axis of 1 (a fixed batch B takes groups of B); one of a rank more
 * gives the input as it is (states, scalars). Every run of the model is made up here, one at a time, so memory does not
 * grow with the number of samples.
 */
import { HalftoneError } from '../domain/errors.ts';
import type { ElementType, TensorValue, ValueSignature } from '../domain/runner.ts';
import { convert, convertible, ELEMENT_BYTES, firstNonFinite, integerValues, isFloat } from './elements.ts';
import { type NpyHeader, type Npz, type NpzArray, type NpzLimits, openNpz, readNpzHeaders } from './npz.ts';

/** What an .npz's headers say. */
export interface DatasetDescription {
  samples: number;
  /** Without the labels. */
  arrays: { name: string; dtype: ElementType; shape: number[] }[];
  hasLabels: boolean;
  /** class: one integer a sample; sequence: integers padded with −1. */
  labelsKind: 'class' | 'sequence' | null;
  /** Length of the longest sequence that the labels can hold; 1 for classes, 0 without labels. */
  labelLength: number;
}

/** Labels of all samples, in memory: some bytes a sample. */
type Labels =
  | { kind: 'class'; values: Int32Array }
  | { kind: 'sequence' /** Of the longest that would fit, the padding in. */; length: number; rows: Int32Array[] };

export interface Dataset {
  /** In the file. */
  samples: number;
  /** Samples that one run takes: 1, or the model's fixed batch. */
  batch: number;
  /** Runs that the samples make. */
  groups: number;
  /** Samples beyond the last whole batch. */
  leftOut: number;
  labels: Labels | null;
  /** Shape of one sample of each array, as it stands in the file. */
  sampleShapes: Map<string, number[]>;
  /**
   * The inputs of one run, 0 ≤ run < groups, in memory of their own. Each run's floats are checked the first time.
   * @throws dataset-not-finite naming array and sample
   */
  feed(run: number): Record<string, TensorValue>;
  close(): Promise<void>;
}

/** Labels are kept as int32; no model has more classes. */
const LABEL_LIMIT = 2 ** 31 - 1;

/**
 * Describes a data set from its headers.
 * @throws not-npz, dataset-*: see readNpzHeaders; dataset-empty without samples; dataset-shape where first axes differ;
 * dataset-labels where labels are not integers of rank 1 or 2, or of another length
 */
export async function describeDataset(path: string, limits?: NpzLimits): Promise<DatasetDescription> {
  return describeHeaders(await readNpzHeaders(path, limits));
}

function describeHeaders(headers: NpyHeader[]): DatasetDescription {
  const arrays = headers.filter((header) => header.name !== 'labels');
  const labels = headers.find((header) => header.name === 'labels');
  const first = arrays[0];
  if (first === undefined) throw new HalftoneError('dataset-empty', 'the .npz has no array but labels');
  for (const array of arrays) {
    if (array.shape.length === 0)
      throw new HalftoneError('dataset-shape', `array '${array.name}' is a single value; its first axis must count the samples`);
    if (array.shape[0] !== first.shape[0]) {
      throw new HalftoneError(
        'dataset-shape',
        `array '${array.name}' has the shape ${shown(array.shape)} and '${first.name}' ${shown(first.shape)}; their first axes, the samples, must be alike`,
      );
    }
  }
  const samples = first.shape[0]!;
  if (samples === 0) throw new HalftoneError('dataset-empty', `array '${first.name}' has the shape ${shown(first.shape)}`);
  for (const array of arrays) {
    if (array.shape.includes(0)) throw new HalftoneError('dataset-empty', `array '${array.name}' has the shape ${shown(array.shape)}`);
  }
  if (labels !== undefined) {
    if (isFloat(labels.dtype)) throw new HalftoneError('dataset-labels', `labels have the type ${labels.dtype}; integers are taken`);
    if (labels.shape.length !== 1 && labels.shape.length !== 2) {
      throw new HalftoneError('dataset-labels', `labels have the shape ${shown(labels.shape)}; [samples] or [samples, length] is taken`);
    }
    if (labels.shape[0] !== samples)
      throw new HalftoneError('dataset-labels', `there are ${labels.shape[0]} labels and ${samples} samples`);
    if (labels.shape[1] === 0) throw new HalftoneError('dataset-labels', `labels have the shape ${shown(labels.shape)}`);
  }
  return {
    samples,
    arrays: arrays.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    hasLabels: labels !== undefined,
    labelsKind: labels === undefined ? null : labels.shape.length === 1 ? 'class' : 'sequence',
    labelLength: labels === undefined ? 0 : (labels.shape[1] ?? 1),
  };
}

const shown = (shape: readonly (number | string)[]): string => `[${shape.map((dim) => (dim === -1 ? '?' : dim)).join(', ')}]`;

/** How a data set's arrays become runs of a model. */
interface FeedPlan {
  batch: number;
  groups: number;
  leftOut: number;
  inputs: {
    name: string;
    type: ElementType;
    from: ElementType /** Of one run. */;
    dims: number[] /** A rank more than the input: run k takes sample k's array as it is. */;
    whole: boolean;
  }[];
}

/**
 * Checks a data set's description against a model's inputs, in the model's order, and says how it is fed. Needs headers only.
 * @throws dataset-array-refused, dataset-missing-input, dataset-dtype, dataset-shape, dataset-empty
 */
export function planFeeds(description: Pick<DatasetDescription, 'samples' | 'arrays'>, inputs: ValueSignature[]): FeedPlan {
  const names = inputs.map((input) => `'${input.name}'`).join(', ');
  for (const array of description.arrays) {
    if (!inputs.some((input) => input.name === array.name)) {
      throw new HalftoneError(
        'dataset-array-refused',
        `array '${array.name}' is no input of the model; its inputs are ${names}, and labels are named 'labels'`,
      );
    }
  }
  const pairs = inputs.map((input) => {
    const array = description.arrays.find(({ name }) => name === input.name);
    if (array === undefined) {
      throw new HalftoneError(
        'dataset-missing-input',
        `input '${input.name}' ${shown(input.dims)} has no array; the arrays are ${description.arrays.map(({ name }) => `'${name}'`).join(', ')}`,
      );
    }
    return { input, array };
  });
  // The first input decides the batch, as the contract's own judge has it.
  const first = pairs[0];
  const fixed = first?.input.dims[0];
  const batch =
    first !== undefined && typeof fixed === 'number' && fixed > 0 && first.array.shape.length === first.input.dims.length ? fixed : 1;
  const groups = Math.floor(description.samples / batch);
  const plan = pairs.map(({ input, array }) => {
    if (input.type === 'other' || !convertible(array.dtype, input.type)) {
      throw new HalftoneError('dataset-dtype', `array '${array.name}' has the type ${array.dtype}, and the model’s input is ${input.type}`);
    }
    const rank = input.dims.length;
    const whole = array.shape.length === rank + 1;
    const dims = whole ? array.shape.slice(1) : [batch, ...array.shape.slice(1)];
    const fits =
      (whole || array.shape.length === rank) && input.dims.every((dim, axis) => typeof dim === 'string' || dim < 0 || dim === dims[axis]);
    if (!fits) {
      const asIs = shown(['samples', ...input.dims]);
      const sliced =
        rank > 0 ? ` (or ${shown(['samples', ...input.dims.slice(1)])}, cut into slices${batch > 1 ? ` of ${batch}` : ''})` : '';
      throw new HalftoneError(
        'dataset-shape',
        `array '${array.name}' has the shape ${shown(array.shape)}, and input '${input.name}' ${shown(input.dims)} needs ${asIs}${sliced}`,
      );
    }
    return { name: input.name, type: input.type, from: array.dtype, dims, whole };
  });
  if (groups === 0)
    throw new HalftoneError('dataset-empty', `the model’s batch is fixed to ${batch}, and the data set has ${description.samples} samples`);
  return { batch, groups, leftOut: description.samples - groups * batch, inputs: plan };
}

/**
 * Opens a data set for a model.
 * @param workDir where deflated arrays are inflated; removed by `close`
 * @param inputs the model's inputs in its order
 * @throws as describeDataset and planFeeds; dataset-labels for labels below 0 (below −1 in sequences)
 */
export async function openDataset(path: string, workDir: string, inputs: ValueSignature[], limits?: NpzLimits): Promise<Dataset> {
  // Headers first: nothing is inflated for a data set that doesn't fit.
  const description = await describeDataset(path, limits);
  const plan = planFeeds(description, inputs);
  const npz = await openNpz(path, workDir, limits);
  try {
    return new NpzDataset(npz, description.samples, plan);
  } catch (error) {
    await npz.close();
    throw error;
  }
}

class NpzDataset implements Dataset {
  readonly samples: number;
  readonly batch: number;
  readonly groups: number;
  readonly leftOut: number;
  readonly labels: Labels | null;
  readonly sampleShapes: Map<string, number[]>;
  readonly #npz: Npz;
  readonly #inputs: (FeedPlan['inputs'][number] & { array: NpzArray })[];
  /** Runs whose floats were found finite; one byte each. */
  readonly #checked: Uint8Array;

  constructor(npz: Npz, samples: number, plan: FeedPlan) {
    this.samples = samples;
    this.batch = plan.batch;
    this.groups = plan.groups;
    this.leftOut = plan.leftOut;
    this.#npz = npz;
    this.#inputs = plan.inputs.map((input) => ({ ...input, array: npz.arrays.get(input.name)! }));
    this.#checked = new Uint8Array(plan.groups);
    this.sampleShapes = new Map(this.#inputs.map(({ name, array }) => [name, array.shape.slice(1)]));
    const labels = npz.arrays.get('labels');
    this.labels = labels === undefined ? null : readLabels(labels);
  }

  feed(run: number): Record<string, TensorValue> {
    if (!Number.isInteger(run) || run < 0 || run >= this.groups) throw new RangeError(`run ${run} of ${this.groups}`);
    const feeds: Record<string, TensorValue> = {};
    for (const { name, type, from, dims, whole, array } of this.#inputs) {
      const raw = whole ? array.rows(run, 1) : array.rows(run * this.batch, this.batch);
      if (this.#checked[run] === 0 && isFloat(from)) {
        const at = firstNonFinite(from, raw);
        if (at >= 0) {
          const sample = (whole ? run : run * this.batch) + Math.floor((at * ELEMENT_BYTES[from]) / array.rowBytes);
          throw notFinite(name, sample);
        }
      }
      feeds[name] = { type, dims, bytes: convert(from, type, raw) };
    }
    this.#checked[run] = 1;
    return feeds;
  }

  async close(): Promise<void> {
    await this.#npz.close();
  }
}

const notFinite = (array: string, sample: number) =>
  new HalftoneError('dataset-not-finite', `array '${array}' has NaN or Inf in sample ${sample}`);

function readLabels(array: NpzArray): Labels {
  const [n, length] = array.shape as [number, number | undefined];
  const width = length ?? 1;
  const values = new Int32Array(n * width);
  // In pieces, so that int64 labels never stand twice in memory.
  const piece = Math.max(1, Math.floor(1_000_000 / width));
  for (let start = 0; start < n; start += piece) {
    const count = Math.min(piece, n - start);
    const raw = integerValues(array.dtype, array.rows(start, count));
    for (let i = 0; i < raw.length; i++) {
      const value = Number(raw[i]!);
      const sample = start + Math.floor(i / width);
      if (value > LABEL_LIMIT || value < (length === undefined ? 0 : -1)) {
        throw new HalftoneError(
          'dataset-labels',
          `sample ${sample} has the label ${value}; ${length === undefined ? 'classes count from 0' : 'classes count from 0, and −1 pads'}`,
        );
      }
      if (length !== undefined && i % width > 0 && value >= 0 && Number(raw[i - 1]!) < 0) {
        throw new HalftoneError('dataset-labels', `sample ${sample} has a label after its padding; −1 may only stand at the end`);
      }
      values[start * width + i] = value;
    }
  }
  if (length === undefined) return { kind: 'class', values };
  const rows = Array.from({ length: n }, (_, sample) => {
    const row = values.subarray(sample * width, (sample + 1) * width);
    const end = row.indexOf(-1);
    return end < 0 ? row : row.subarray(0, end);
  });
  return { kind: 'sequence', length: width, rows };
}
