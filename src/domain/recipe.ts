/** What a user asks to be done to a model, and what is meant where the user is silent. */

export const METHODS = ['static', 'dynamic', 'float16'] as const;
type Method = (typeof METHODS)[number];
export const GRANULARITIES = ['tensor', 'channel', 'block'] as const;
type Granularity = (typeof GRANULARITIES)[number];
export const CALIBRATIONS = ['minmax', 'percentile', 'entropy', 'mse'] as const;
export type Calibration = (typeof CALIBRATIONS)[number];
export const FORMATS = ['qdq', 'qoperator'] as const;
type Format = (typeof FORMATS)[number];
/** Integer types that weights and activations can take. */
export const INTEGER_TYPES = ['int8', 'uint8'] as const;
type IntegerType = (typeof INTEGER_TYPES)[number];

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

/** What a device takes. */
export interface Allowed {
  allowedWeightTypes: IntegerType[];
  allowedActivationTypes: IntegerType[];
  allowedGranularities: Granularity[];
  /** Whether the device takes zero points other than that of a symmetric range. */
  requireSymmetricActivations: boolean;
}

/**
 * Fills a recipe's gaps, within what the target allows. u8 activations and per-channel s8 weights are the one combination
 * that is fast in ONNX Runtime's CPU kernels.
 */
export function resolveRecipe(recipe: Recipe, target?: Allowed): ResolvedRecipe {
  const first = <T>(preferred: readonly T[], allowed: readonly T[] | undefined): T =>
    preferred.find((value) => allowed?.includes(value)) ?? preferred[0]!;
  return {
    method: recipe.method,
    weights: {
      type: recipe.weights?.type ?? first<IntegerType>(['int8', 'uint8'], target?.allowedWeightTypes),
      granularity: recipe.weights?.granularity ?? first<Granularity>(['channel', 'tensor'], target?.allowedGranularities),
      symmetric: recipe.weights?.symmetric ?? true,
    },
    activations: {
      type: recipe.activations?.type ?? first<IntegerType>(['uint8', 'int8'], target?.allowedActivationTypes),
      symmetric: recipe.activations?.symmetric ?? target?.requireSymmetricActivations ?? false,
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
