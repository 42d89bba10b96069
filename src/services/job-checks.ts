/**
 * What can be known of a job before it runs, from the headers of model and data: each check has the pointer of the field
 * that is to blame, so that the answer to POST says it at once instead of a failed job minutes later.
 */
import { type ErrorCode, HalftoneError } from '../domain/errors.ts';
import type { Metric, MetricName } from '../domain/job.ts';
import type { DeviceProfile } from '../domain/profile.ts';
import type { Recipe } from '../domain/recipe.ts';
import type { ValueSignature } from '../domain/runner.ts';
import { type DatasetDescription, planFeeds } from '../evaluate/dataset.ts';
import { METRIC_TABLE } from '../evaluate/metrics/index.ts';

/** An error that points at a field of the request. */
export function at(pointer: string, code: ErrorCode, detail: string): HalftoneError {
  return new HalftoneError(code, detail, { errors: [{ pointer, detail }] });
}

/** What a recipe asks that does not exist yet, or that the target forbids. What the recipe leaves open is chosen within the profile. */
export function checkRecipe(recipe: Recipe, pointer: string, target: DeviceProfile): void {
  const { weights, activations } = recipe;
  if (weights?.granularity === 'block') {
    throw at(
      `${pointer}/weights/granularity`,
      'recipe-unsupported',
      'Granularity block belongs to weight-only recipes, which do not exist yet; use channel or tensor.',
    );
  }
  if (recipe.method === 'float16') {
    if (!target.float16) throw at(`${pointer}/method`, 'profile-forbids', `The profile ${target.name} does not take float16.`);
    if (weights) throw at(`${pointer}/weights`, 'recipe-unsupported', 'A float16 recipe has no integer weights; leave `weights` out.');
    if (activations)
      throw at(`${pointer}/activations`, 'recipe-unsupported', 'A float16 recipe has no integer activations; leave `activations` out.');
    if (recipe.format) throw at(`${pointer}/format`, 'recipe-unsupported', 'A float16 model has neither form; leave `format` out.');
    return;
  }
  if (recipe.method === 'dynamic') {
    if (activations?.calibration) {
      throw at(
        `${pointer}/activations/calibration`,
        'recipe-unsupported',
        'A dynamic recipe measures ranges while the model runs; leave `calibration` out, or use the method static.',
      );
    }
    if (activations?.type === 'int8') {
      throw at(`${pointer}/activations/type`, 'recipe-unsupported', 'The runtime quantizes to uint8 while a model runs; leave `type` out.');
    }
    if (activations?.symmetric === true) {
      throw at(
        `${pointer}/activations/symmetric`,
        'recipe-unsupported',
        'The runtime quantizes asymmetrically while a model runs; leave `symmetric` out.',
      );
    }
  }
  const named = (list: readonly string[]) => (list.length === 0 ? 'none' : list.join(', '));
  if (weights?.type && !target.allowedWeightTypes.includes(weights.type)) {
    throw at(
      `${pointer}/weights/type`,
      'profile-forbids',
      `The profile ${target.name} does not take ${weights.type} weights; it takes ${named(target.allowedWeightTypes)}.`,
    );
  }
  if (target.allowedWeightTypes.length === 0)
    throw at(`${pointer}/method`, 'profile-forbids', `The profile ${target.name} takes no integer weights.`);
  if (weights?.granularity && !target.allowedGranularities.includes(weights.granularity)) {
    throw at(
      `${pointer}/weights/granularity`,
      'profile-forbids',
      `The profile ${target.name} does not take granularity ${weights.granularity}; it takes ${named(target.allowedGranularities)}.`,
    );
  }
  if (activations?.type && !target.allowedActivationTypes.includes(activations.type)) {
    throw at(
      `${pointer}/activations/type`,
      'profile-forbids',
      `The profile ${target.name} does not take ${activations.type} activations; it takes ${named(target.allowedActivationTypes)}.`,
    );
  }
  if (target.requireSymmetricActivations) {
    if (activations?.symmetric === false) {
      throw at(`${pointer}/activations/symmetric`, 'profile-forbids', `The profile ${target.name} takes symmetric activations only.`);
    }
    if (recipe.method === 'dynamic') {
      throw at(
        `${pointer}/method`,
        'profile-forbids',
        `The profile ${target.name} takes symmetric activations only, and the runtime’s dynamic quantization is asymmetric; use static.`,
      );
    }
  }
  if (recipe.method === 'dynamic' && !target.allowedActivationTypes.includes('uint8')) {
    throw at(
      `${pointer}/method`,
      'profile-forbids',
      `The profile ${target.name} does not take uint8 activations, which dynamic quantization gives.`,
    );
  }
  if (recipe.method === 'static' && target.allowedActivationTypes.length === 0) {
    throw at(`${pointer}/method`, 'profile-forbids', `The profile ${target.name} takes no integer activations; use dynamic or float16.`);
  }
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
