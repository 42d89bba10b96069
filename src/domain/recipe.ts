/** What a user asks to be done to a model, and what is meant where the user is silent. */

export const METHODS = ['static', 'dynamic', 'float16'] as const;
type Method = (typeof METHODS)[number];
export const GRANULARITIES = ['tensor', 'channel', 'block'] as const;
export type Granularity = (typeof GRANULARITIES)[number];
export const CALIBRATIONS = ['minmax', 'percentile', 'entropy', 'mse'] as const;
export type Calibration = (typeof CALIBRATIONS)[number];
export const FORMATS = ['qdq', 'qoperator'] as const;
type Format = (typeof FORMATS)[number];
/** Integer types that weights and activations can take. */
export const INTEGER_TYPES = ['int8', 'uint8'] as const;
export type IntegerType = (typeof INTEGER_TYPES)[number];

/** Layers that the user keeps out of quantization: by node name, by pattern (`*` any run of characters) of it, by operator. */
interface Exclusion {
  names?: string[];
  patterns?: string[];
  operators?: string[];
}

/** A recipe as the user writes it: everything but the method may be left out. */
export interface Recipe {
  method: Method;
  weights?: { type?: IntegerType; granularity?: Granularity; symmetric?: boolean };
  activations?: { type?: IntegerType; symmetric?: boolean; calibration?: Calibration };
  exclude?: Exclusion;
  format?: Format;
}

/**
 * A recipe with nothing left open. `activations.calibration` stays `auto` where the user named none: each tensor's
 * range is then chosen by error (no one range rule wins on every model). `corrections` is whether bias correction and
 * equalization may run (they are part of the default recipe and are accepted only where they lower the error).
 */
export interface ResolvedRecipe {
  method: Method;
  weights: { type: IntegerType; granularity: Granularity; symmetric: boolean };
  activations: { type: IntegerType; symmetric: boolean; calibration: Calibration | 'auto' };
  exclude: Required<Exclusion>;
  format: Format;
}

/** Fills a recipe's gaps. u8 activations and per-channel s8 weights are the one combination that is fast in ONNX Runtime's CPU kernels. */
export function resolveRecipe(recipe: Recipe): ResolvedRecipe {
  return {
    method: recipe.method,
    weights: {
      type: recipe.weights?.type ?? 'int8',
      granularity: recipe.weights?.granularity ?? 'channel',
      symmetric: recipe.weights?.symmetric ?? true,
    },
    activations: {
      type: recipe.activations?.type ?? 'uint8',
      symmetric: recipe.activations?.symmetric ?? false,
      calibration: recipe.activations?.calibration ?? 'auto',
    },
    exclude: {
      names: recipe.exclude?.names ?? [],
      patterns: recipe.exclude?.patterns ?? [],
      operators: recipe.exclude?.operators ?? [],
    },
    format: recipe.format ?? 'qdq',
  };
}
