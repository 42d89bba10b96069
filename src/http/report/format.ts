/** Figures as people read them. Input units: bytes, ms, fractions, dB. */
import type { Evaluation, MetricName } from '../../domain/job.ts';
import type { Recipe } from '../../domain/recipe.ts';

export const NONE = '–';

/** 1 MB = 1 000 000 bytes, as disks and networks are sold. */
export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= 999.5 && unit < units.length - 1) {
    rest /= 1000;
    unit++;
  }
  return `${unit === 0 ? rest : digits(rest, 3)} ${units[unit]}`;
}

/** Significant digits without an exponent. */
export function digits(value: number, count: number): string {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return '0';
  const rounded = Number(value.toPrecision(count));
  const decimals = count - 1 - Math.floor(Math.log10(Math.abs(rounded)));
  return rounded.toFixed(Math.max(0, Math.min(10, decimals)));
}

export function ms(value: number): string {
  if (value >= 100_000) return `${digits(value / 60_000, 3)} min`;
  if (value >= 10_000) return `${digits(value / 1000, 3)} s`;
  return `${digits(value, 3)} ms`;
}

export const percent = (value: number): string => `${(value * 100).toFixed(Math.abs(value) < 0.9995 && Math.abs(value) > 0.99 ? 2 : 1)}%`;
export const times = (value: number): string => `${value.toFixed(2)}×`;

const METRIC_TITLES: Record<MetricName, string> = {
  top1: 'Top-1 accuracy',
  top5: 'Top-5 accuracy',
  ctc: 'Sequences exactly right',
  cer: 'Character error rate',
  agreement: 'Agreement with float',
  sqnr: 'SQNR',
};
export const metricTitle = (name: MetricName): string => METRIC_TITLES[name] ?? name;

/** A value in the metric's own unit. */
export const metricValue = (metric: MetricName, value: number): string => (metric === 'sqnr' ? `${value.toFixed(1)} dB` : percent(value));

/** A drop: points of a percentage, or dB. */
export function dropValue({ metric, drop, dropStandardError }: Evaluation): string {
  if (drop === null) return NONE;
  if (metric === 'sqnr') return `${drop.toFixed(1)} dB`;
  const points = (drop * 100).toFixed(2);
  return `${points === '-0.00' ? '0.00' : points}${dropStandardError === null ? '' : ` ± ${(dropStandardError * 100).toFixed(2)}`} pt`;
}

/** One line that tells two recipes apart. */
export function recipeTitle(recipe: Recipe | null): string {
  if (recipe === null) return 'float model';
  const { weights, activations, exclude } = recipe;
  const word = (symmetric: boolean | undefined) => (symmetric === undefined ? null : symmetric ? 'symmetric' : 'asymmetric');
  const part = (name: string, values: (string | null | undefined)[]) => {
    const given = values.filter((value) => value !== null && value !== undefined);
    return given.length > 0 ? `${name} ${given.join(' ')}` : null;
  };
  const excluded = [...(exclude?.operators ?? []), ...(exclude?.names ?? []), ...(exclude?.patterns ?? [])];
  return [
    recipe.method,
    part('weights', [weights?.type, weights?.granularity && `per ${weights.granularity}`, word(weights?.symmetric)]),
    part('activations', [activations?.type, activations?.calibration, word(activations?.symmetric)]),
    recipe.format,
    excluded.length > 0
      ? `without ${excluded.length > 3 ? `${excluded.slice(0, 3).join(', ')} and ${excluded.length - 3} more` : excluded.join(', ')}`
      : null,
  ]
    .filter((each) => each !== null && each !== undefined)
    .join(', ');
}

const REASONS: Record<string, string> = {
  'slower-on-profile': 'slower in integers than in float, as measured on the target profile',
  'excluded-by-recipe': 'excluded by the recipe',
  'no-integer-kernel': 'the runtime has no integer kernel for it',
  'no-float16-kernel': 'the runtime has no half-float kernel for it',
  'kernel-condition': 'the runtime’s integer kernel has conditions that it does not meet',
  'no-constant-weights': 'its weights are computed, not constant',
  'first-layer': 'first layer: little to gain, much to lose',
  sensitive: 'the output suffers too much',
  overflow: 'its values overflow the type',
  'too-small': 'too small to pay for the conversion',
  'type-unknown': 'the type of its values is not known',
};
/** A reason code in words; codes that are not known here stand for themselves. */
export const reasonTitle = (reason: string): string => (Object.hasOwn(REASONS, reason) ? REASONS[reason]! : reason);
