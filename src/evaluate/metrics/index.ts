/** The table of metrics, and the rule that picks one where the user names none. */
import { HalftoneError } from '../../domain/errors.ts';
import type { Metric, MetricName } from '../../domain/job.ts';
import { agreement } from './agreement.ts';
import { cer } from './cer.ts';
import { ctc } from './ctc.ts';
import type { MetricDefinition, OutputTraits } from './metric.ts';
import { sqnr } from './sqnr.ts';
import { top1 } from './top1.ts';
import { top5 } from './top5.ts';

export const METRIC_TABLE: Record<MetricName, MetricDefinition> = { top1, top5, ctc, cer, agreement, sqnr };

/** What the data allow, best first: labels over the float model's word, decisions over numbers. */
const PREFERENCE: MetricName[] = ['ctc', 'top1', 'agreement', 'sqnr'];

/**
 * The metric asked for, or the best one that the output and the labels allow.
 * @throws metric-unsuitable where the one asked for does not fit
 */
export function chooseMetric(asked: Metric | null, traits: OutputTraits): MetricDefinition {
  if (asked !== null) {
    const definition = METRIC_TABLE[asked.name];
    const reason = definition.needs(traits);
    if (reason !== null) throw new HalftoneError('metric-unsuitable', `${asked.name} ${reason}`);
    return definition;
  }
  const name = PREFERENCE.find((candidate) => METRIC_TABLE[candidate].needs(traits) === null);
  return METRIC_TABLE[name ?? 'sqnr'];
}
