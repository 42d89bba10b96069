/** Sequence accuracy: the share of samples whose greedily decoded sequence is exactly the label's. */
import { HalftoneError } from '../../domain/errors.ts';
import { isFloat } from '../elements.ts';
import { sameSequence, sequenceLayout, sequences } from './decisions.ts';
import { PairedFraction } from './fraction.ts';
import type { MetricDefinition, OutputTraits, RunLabels } from './metric.ts';

/** Why an output can't be decoded as CTC, whatever the labels. */
export function needsSequences(traits: OutputTraits): string | null {
  if (!isFloat(traits.type) || sequenceLayout(traits.dims, traits.batch) === null) {
    return `needs an output of floats, [samples, steps, classes]; '${traits.name}' is [${traits.dims.join(', ')}] of ${traits.type} for ${traits.batch} sample(s)`;
  }
  return null;
}

export function needsLabelledSequences(traits: OutputTraits): string | null {
  if (traits.labels !== 'sequence') return 'needs labels that are sequences, [samples, length] padded with −1';
  return needsSequences(traits);
}

/** The run's labels as sequences of classes that the output has. */
export function sequenceLabels(labels: RunLabels | null, width: number): Int32Array[] {
  if (labels?.kind !== 'sequence') throw new TypeError('no sequences as labels');
  labels.rows.forEach((row, i) => {
    const wrong = row.find((label) => label >= width);
    if (wrong !== undefined)
      throw new HalftoneError(
        'dataset-labels',
        `sample ${labels.first + i} has the label ${wrong}, and the output has the classes 0 to ${width - 1}`,
      );
  });
  return labels.rows;
}

export const ctc: MetricDefinition = {
  name: 'ctc',
  needs: needsLabelledSequences,
  start({ traits, blank }) {
    const fraction = new PairedFraction();
    return {
      update(reference, got, runLabels) {
        const labels = sequenceLabels(runLabels, reference.dims.at(-1)!);
        const [a, b] = [sequences(reference, traits.batch, blank), sequences(got, traits.batch, blank)];
        labels.forEach((label, i) => {
          fraction.add(sameSequence(a[i]!, label), sameSequence(b[i]!, label));
        });
      },
      result: () => fraction.result(),
    };
  },
};
