/** The rules between a recipe and the profile that it is for. */
import { at } from './errors.ts';
import type { DeviceProfile } from './profile.ts';
import type { Recipe } from './recipe.ts';

/**
 * Throws for what a recipe asks that does not exist yet, or that the target forbids; the error points below `pointer`. What
 * the recipe leaves open is chosen within the profile (`resolveRecipe`). Asked at POST, and again by the job: what a
 * profile allows may have changed in between.
 */
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
  if (!target.allowedGranularities.some((granularity) => granularity !== 'block')) {
    throw at(
      `${pointer}/method`,
      'profile-forbids',
      `The profile ${target.name} takes weights neither by tensor nor by channel; there is nothing else yet.`,
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
