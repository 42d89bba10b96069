/**
 * Top-1 accuracy: the share of samples whose class is the label's. One column is a probability, class 1 above 0.5.
 * An output of one integer a sample is a class already.
 */
import { HalftoneError } from '../../domain/errors.ts';
import { integerValues, isFloat } from '../elements.ts';
import { classes, classLayout } from './decisions.ts';
import { PairedFraction } from './fraction.ts';
import type { MetricDefinition, OutputTraits, RunLabels } from './metric.ts';

/** Why top-k accuracy can't be had. Labels [samples, 1] serve as classes where the output is one row a sample. */
export function needsClassRows(traits: OutputTraits): string | null {
  if (traits.labels === null) return 'needs labels, one integer a sample';
  if (traits.labels === 'sequence' && traits.labelLength !== 1) return 'needs one label a sample; these are sequences';
  const { rows, width } = classLayout(traits.dims, traits.batch);
  if (rows !== traits.batch || width === 0)
    return `needs an output with one row of classes a sample; '${traits.name}' is [${traits.dims.join(', ')}] for ${traits.batch} sample(s)`;
  if (!isFloat(traits.type) && width !== 1)
    return `needs an output of floats, or of one integer a sample; '${traits.name}' is [${traits.dims.join(', ')}] of ${traits.type}`;
  return null;
}

/** The run's labels as classes. */
export function classLabels(labels: RunLabels | null, traits: OutputTraits): ArrayLike<number> {
  if (labels === null) throw new TypeError('no labels');
  const values = labels.kind === 'class' ? labels.values : labels.rows.map((row) => row[0] ?? -1);
  const { width } = classLayout(traits.dims, traits.batch);
  const count = isFloat(traits.type) ? Math.max(width, 2) : Number.POSITIVE_INFINITY;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! < 0 || values[i]! >= count) {
      throw new HalftoneError(
        'dataset-labels',
        `sample ${labels.first + i} has the label ${values[i]}, and output '${traits.name}' has the classes 0 to ${count - 1}`,
      );
    }
  }
  return values;
}

export const top1: MetricDefinition = {
  name: 'top1',
  needs: needsClassRows,
  start({ traits }) {
    const fraction = new PairedFraction();
    return {
      update(reference, got, runLabels) {
        const labels = classLabels(runLabels, traits);
        const decide = isFloat(traits.type)
          ? (tensor: typeof got): ArrayLike<number | bigint> => classes(tensor, traits.batch)
          : (tensor: typeof got): ArrayLike<number | bigint> => integerValues(tensor.type, tensor.bytes);
        const [a, b] = [decide(reference), decide(got)];
        for (let i = 0; i < labels.length; i++) fraction.add(Number(a[i]!) === labels[i], Number(b[i]!) === labels[i]);
      },
      result: () => fraction.result(),
    };
  },
};
