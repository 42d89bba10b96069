/** Top-5 accuracy: the share of samples whose label is among the five largest values. Of equal values the first counts as larger, as in argmax. */
import { isFloat } from '../elements.ts';
import { classLayout, outputValues } from './decisions.ts';
import { PairedFraction } from './fraction.ts';
import type { MetricDefinition } from './metric.ts';
import { classLabels, needsClassRows } from './top1.ts';

const K = 5;

function among(values: Float32Array | Float64Array, from: number, width: number, label: number): boolean {
  const own = values[from + label]!;
  let larger = 0;
  for (let i = 0; i < width; i++) {
    const value = values[from + i]!;
    if (value > own || (value === own && i < label)) larger++;
  }
  return larger < K;
}

export const top5: MetricDefinition = {
  name: 'top5',
  needs(traits) {
    const reason = needsClassRows(traits);
    if (reason !== null) return reason;
    if (!isFloat(traits.type) || classLayout(traits.dims, traits.batch).width < 2)
      return `needs an output of floats with at least 2 classes; '${traits.name}' is [${traits.dims.join(', ')}] of ${traits.type}`;
    return null;
  },
  start({ traits }) {
    const fraction = new PairedFraction();
    return {
      update(reference, got, runLabels) {
        const labels = classLabels(runLabels, traits);
        const { width } = classLayout(reference.dims, traits.batch);
        const [a, b] = [outputValues(reference), outputValues(got)];
        for (let i = 0; i < labels.length; i++)
          fraction.add(among(a, i * width, width, labels[i]!), among(b, i * width, width, labels[i]!));
      },
      result: () => fraction.result(),
    };
  },
};
