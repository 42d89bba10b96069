/** Character error rate: edits (Levenshtein 1966) that turn the decoded sequences into the labels, over the labels' length. May exceed 1. */
import { bootstrapRatio } from '../interval.ts';
import { needsLabelledSequences, sequenceLabels } from './ctc.ts';
import { sequences } from './decisions.ts';
import type { MetricDefinition } from './metric.ts';

/** Insertions, deletions and substitutions between two sequences, the fewest. O(|a|·|b|) time, O(|b|) memory. */
export function editDistance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const row = Uint32Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 0; i < a.length; i++) {
    let diagonal = row[0]!;
    row[0] = i + 1;
    for (let j = 0; j < b.length; j++) {
      const above = row[j + 1]!;
      row[j + 1] = Math.min(above + 1, row[j]! + 1, diagonal + (a[i] === b[j] ? 0 : 1));
      diagonal = above;
    }
  }
  return row[b.length]!;
}

export const cer: MetricDefinition = {
  name: 'cer',
  needs: needsLabelledSequences,
  start({ traits, blank, seed }) {
    // Three small numbers a sample, for the interval and the paired error.
    const referenceEdits: number[] = [];
    const gotEdits: number[] = [];
    const lengths: number[] = [];
    const rate = (edits: number, length: number) => edits / Math.max(1, length);
    return {
      update(reference, got, runLabels) {
        const labels = sequenceLabels(runLabels, reference.dims.at(-1)!);
        const [a, b] = [sequences(reference, traits.batch, blank), sequences(got, traits.batch, blank)];
        labels.forEach((label, i) => {
          referenceEdits.push(editDistance(a[i]!, label));
          gotEdits.push(editDistance(b[i]!, label));
          lengths.push(label.length);
        });
      },
      result() {
        const n = lengths.length;
        const sum = (values: number[]) => values.reduce((x, y) => x + y, 0);
        const total = sum(lengths);
        const floatValue = rate(sum(referenceEdits), total);
        const value = rate(sum(gotEdits), total);
        const drop = value - floatValue;
        // The drop is a ratio of sums: its variance by linearization (Cochran 1977, 6.4), residuals d − drop · length.
        let squares = 0;
        for (let i = 0; i < n; i++) squares += (gotEdits[i]! - referenceEdits[i]! - drop * lengths[i]!) ** 2;
        const dropStandardError = n < 2 ? null : Math.sqrt((n * squares) / (n - 1)) / Math.max(1, total);
        return { value, floatValue, drop, ci95: bootstrapRatio(gotEdits, lengths, rate, seed), dropStandardError, samples: n };
      },
    };
  },
};
