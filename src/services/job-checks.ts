/**
 * What can be known of a job before it runs, from the headers of model and data: each check has the pointer of the field
 * that is to blame, so that the answer to POST says it at once instead of a failed job minutes later.
 */
import { at, HalftoneError } from '../domain/errors.ts';
import type { Metric, MetricName } from '../domain/job.ts';
import type { ValueSignature } from '../domain/runner.ts';
import { type DatasetDescription, planFeeds } from '../evaluate/dataset.ts';
import { METRIC_TABLE } from '../evaluate/metrics/index.ts';
import type { ModelDescription } from './model-headers.ts';
import { modelInputs, modelOutputs } from './models.ts';

/** Whether a model's inputs can be fed and its outputs read: tensors of numbers, the inputs' with a rank. */
export function checkSignature(description: ModelDescription): void {
  const outputs = modelOutputs(description);
  for (const { name, type, dims } of modelInputs(description)) {
    if (type === 'other') throw at('/model', 'model-input', `Input '${name}' is no tensor of numbers, which is all that an .npz can hold.`);
    // The runtime tells a scalar and a tensor of unknown rank alike, so neither data nor made-up values could be shaped for it.
    if (dims.length === 0 && description.inputs.some((input) => input.name === name && input.shape === null)) {
      throw at('/model', 'model-input', `Input '${name}' says no shape. Export the model with one; dimensions that vary may have names.`);
    }
  }
  const unread = outputs.find(({ type }) => type === 'other');
  if (unread) throw at('/model', 'model-output', `Output '${unread.name}' is no tensor of numbers, which is all that can be compared.`);
}

/** Whether a data set's arrays feed the model: names, ranks, types, fixed dimensions, at least one whole batch. */
export function checkDataset(description: DatasetDescription, inputs: ValueSignature[], pointer: string): void {
  try {
    planFeeds(description, inputs);
  } catch (error) {
    if (error instanceof HalftoneError) throw at(pointer, error.code, error.detail);
    throw error;
  }
}

/** An output's dimensions for one run, as far as the headers tell: a free first axis is the batch. Null where others are free. */
function runDims(dims: readonly (number | string)[], batch: number): number[] | null {
  const known = dims.map((dim, axis) => (typeof dim === 'number' && dim >= 0 ? dim : axis === 0 ? batch : null));
  return known.every((dim) => dim !== null) ? known : null;
}

/**
 * Whether a metric can be taken of this output with these labels; the metric's own definition decides. Where the headers
 * leave the output's shape open, only the labels are looked at: the job will see the rest.
 */
export function checkMetric(
  metric: Metric | null,
  inputs: ValueSignature[],
  outputs: ValueSignature[],
  data: DatasetDescription | null,
): void {
  if (metric === null) return;
  const output = metric.output === undefined ? outputs[0] : outputs.find(({ name }) => name === metric.output);
  if (output === undefined) {
    throw at(
      '/metric/output',
      'output-unknown',
      `The model has no output '${metric.output}'; it has ${outputs.map(({ name }) => `'${name}'`).join(', ')}.`,
    );
  }
  if (metric.blank !== undefined && metric.name !== 'ctc' && metric.name !== 'cer') {
    throw at('/metric/blank', 'metric-unsuitable', `${metric.name} has no blank class; it belongs to ctc and cer.`);
  }
  const labelled: MetricName[] = ['top1', 'top5', 'ctc', 'cer'];
  if (data === null) {
    if (labelled.includes(metric.name)) {
      throw at('/metric', 'metric-unsuitable', `${metric.name} needs evaluation data with labels; give \`evaluation\`.`);
    }
    return;
  }
  if (output.type === 'other') throw at('/metric', 'metric-unsuitable', `Output '${output.name}' is not a numeric tensor.`);
  const { batch, inputs: fed } = planFeeds(data, inputs);
  const shape = output.dims.length === 0 ? null : runDims(output.dims, batch);
  // A shape that satisfies every metric stands in for one that is not known.
  const assumed = metric.name === 'ctc' || metric.name === 'cer' ? [batch, 1024, 1024] : [batch, 1024];
  const reason = METRIC_TABLE[metric.name].needs({
    name: output.name,
    type: output.type,
    dims: shape ?? assumed,
    batch,
    inputShapes: shape === null ? [] : fed.map((input) => input.dims.slice(1)),
    labels: data.labelsKind,
    labelLength: data.labelLength,
  });
  if (reason !== null) throw at('/metric', 'metric-unsuitable', `${metric.name} ${reason}.`);
}
