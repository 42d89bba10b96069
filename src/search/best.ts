import type { Evaluation, VariantResult } from '../domain/job.ts';

/** What a variant may lose, and what stands in for accuracy where there are no labels (engine.md, definitions). */
export interface Constraint {
  /** In the metric's unit. */
  maxAccuracyDrop: number;
  /** Peak resident memory that the target profile has; null = no limit. */
  memoryLimitBytes?: number | null;
}
const MIN_AGREEMENT = 0.99;
const MIN_SQNR_DB = 20;

/** Why a variant's quality is not enough; null = it is. With labels its drop decides, else agreement, else SQNR. */
export function qualityProblem(evaluation: Evaluation, constraint: Constraint): string | null {
  const percent = (x: number) => `${(100 * x).toFixed(2)}%`;
  if (evaluation.metric !== 'agreement' && evaluation.metric !== 'sqnr') {
    const drop = evaluation.drop ?? 0;
    return drop <= constraint.maxAccuracyDrop + 1e-9
      ? null
      : `it loses ${drop.toFixed(4)} of ${evaluation.metric}, and ${constraint.maxAccuracyDrop} is allowed`;
  }
  if (evaluation.agreement !== null)
    return evaluation.agreement >= MIN_AGREEMENT
      ? null
      : `it agrees with the float model on ${percent(evaluation.agreement)}, and ${percent(MIN_AGREEMENT)} are needed`;
  const sqnr = evaluation.sqnrDb ?? 0;
  return sqnr >= MIN_SQNR_DB ? null : `its SQNR is ${sqnr.toFixed(1)} dB, and ${MIN_SQNR_DB} are needed`;
}

/**
 * What a variant with kernels of its own must gain before it counts as no slower: the same two files, timed by another
 * program on another day, differ by so much. A variant that runs the float model's own kernels needs no margin.
 */
const MARGIN = 1.02;

/** The fastest variant on the target profile that is no slower than float and good enough; null = the float model itself. */
export function chooseBest(variants: VariantResult[], target: string, constraint: Constraint): { best: number | null; reason: string } {
  const reasons: string[] = [];
  let best: { index: number; speedup: number } | null = null;
  for (const variant of variants) {
    const label = `variant ${variant.index} (${variant.recipe?.method})`;
    const benchmark = variant.benchmarks.find((b) => b.deviceProfile === target);
    if (variant.error) reasons.push(`${label}: ${variant.error.code}`);
    else if (!variant.evaluation) reasons.push(`${label}: was not evaluated`);
    else if (!benchmark) reasons.push(`${label}: was not measured on ${target}`);
    else {
      const problem = qualityProblem(variant.evaluation, constraint);
      const { value } = benchmark.speedup;
      const limit = constraint.memoryLimitBytes ?? null;
      if (problem) reasons.push(`${label}: ${problem}`);
      else if (limit !== null && benchmark.peakRssBytes > limit)
        reasons.push(`${label}: it takes ${benchmark.peakRssBytes} bytes of memory, and ${target} has ${limit}`);
      else if (!(value >= (variant.kernels?.quantized.length ? MARGIN : 1)))
        reasons.push(
          `${label}: it runs at ${value.toFixed(2)} of the float model's speed on ${target}, which is slower or within what two measurements differ by`,
        );
      else if (!best || value > best.speedup) best = { index: variant.index, speedup: value };
    }
  }
  if (best)
    return {
      best: best.index,
      reason: `variant ${best.index} runs ${best.speedup.toFixed(2)} times as fast as the float model on ${target} and loses no more than is allowed${reasons.length ? `; ${reasons.join('; ')}` : ''}`,
    };
  return { best: null, reason: `the float model is the best: ${reasons.join('; ') || 'no variant was made'}` };
}
