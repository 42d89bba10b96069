import { describe, expect, it } from 'vitest';
import { builtInProfiles } from '../../../src/domain/built-in-profiles.ts';
import { HalftoneError } from '../../../src/domain/errors.ts';
import type { DeviceProfile } from '../../../src/domain/profile.ts';
import { METHODS, type Recipe, resolveRecipe } from '../../../src/domain/recipe.ts';
import { checkRecipe } from '../../../src/domain/recipe-check.ts';

const host: DeviceProfile = { id: 'prf_test', builtIn: true, ...builtInProfiles(null)[0]! };

function refusal(recipe: Recipe, target: DeviceProfile): { code: string; pointer: string | undefined } | null {
  try {
    checkRecipe(recipe, '/recipe', target);
    return null;
  } catch (error) {
    if (!(error instanceof HalftoneError)) throw error;
    return { code: error.code, pointer: error.errors[0]?.pointer };
  }
}

describe('a recipe and the profile that it is for', () => {
  it('a recipe that names only its method is filled with what the profile allows', () => {
    const narrow: DeviceProfile = {
      ...host,
      allowedWeightTypes: ['uint8'],
      allowedActivationTypes: ['int8'],
      allowedGranularities: ['block', 'tensor'],
      requireSymmetricActivations: true,
    };
    expect(refusal({ method: 'static' }, narrow)).toBeNull();
    expect(resolveRecipe({ method: 'static' }, narrow)).toMatchObject({
      weights: { type: 'uint8', granularity: 'tensor' },
      activations: { type: 'int8', symmetric: true },
    });
    expect(resolveRecipe({ method: 'static' }, host)).toEqual(resolveRecipe({ method: 'static' }));
  });

  it('whatever passes is resolved to what the profile allows', () => {
    const subsets = <T>(values: readonly T[]): T[][] => values.reduce<T[][]>((all, v) => all.concat(all.map((s) => s.concat(v))), [[]]);
    const integers = ['int8', 'uint8'] as const;
    let passed = 0;
    for (const method of METHODS)
      for (const allowedWeightTypes of subsets(integers))
        for (const allowedActivationTypes of subsets(integers))
          for (const allowedGranularities of subsets(['tensor', 'channel', 'block'] as const))
            for (const requireSymmetricActivations of [false, true]) {
              const target = { ...host, allowedWeightTypes, allowedActivationTypes, allowedGranularities, requireSymmetricActivations };
              if (method === 'float16' || refusal({ method }, target)) continue;
              passed++;
              const { weights, activations } = resolveRecipe({ method }, target);
              expect(allowedWeightTypes).toContain(weights.type);
              expect(allowedGranularities).toContain(weights.granularity);
              expect(weights.granularity).not.toBe('block');
              expect(allowedActivationTypes).toContain(activations.type);
              if (method === 'dynamic') expect(activations).toMatchObject({ type: 'uint8', symmetric: false });
              if (requireSymmetricActivations) expect(activations.symmetric).toBe(true);
            }
    expect(passed).toBeGreaterThan(100);
  });

  it('names the field that asks too much', () => {
    const target: DeviceProfile = { ...host, allowedGranularities: ['tensor'], float16: false };
    expect(refusal({ method: 'static', weights: { granularity: 'channel' } }, target)).toEqual({
      code: 'profile-forbids',
      pointer: '/recipe/weights/granularity',
    });
    expect(refusal({ method: 'float16' }, target)).toEqual({ code: 'profile-forbids', pointer: '/recipe/method' });
    expect(refusal({ method: 'static' }, { ...host, allowedGranularities: ['block'] })).toEqual({
      code: 'profile-forbids',
      pointer: '/recipe/method',
    });
  });
});
