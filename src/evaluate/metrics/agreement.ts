/**
 * Agreement: the share of samples on which the variant decides as the float model does: the same argmax, the same decoded
 * sequence where labels are sequences, the same numbers where the output is integers.
 */
import { isFloat } from '../elements.ts';
import { pairedStandardError, wilson } from '../interval.ts';
import { needsSequences } from './ctc.ts';
import { classes, hasClasses, sameIntegers, sameSequence, sequences } from './decisions.ts';
import type { MetricDefinition, OutputTraits } from './metric.ts';
import { needsClassRows } from './top1.ts';

function decision(traits: OutputTraits): 'sequence' | 'class' | 'integer' | null {
  if (!isFloat(traits.type)) return 'integer';
  if (traits.labels === 'sequence' && needsSequences(traits) === null) return 'sequence';
  // Labels say that rows are classes even where shape alone would not (one column, an output shaped as the input).
  return hasClasses(traits) || (traits.labels !== null && needsClassRows(traits) === null) ? 'class' : null;
}

export const agreement: MetricDefinition = {
  name: 'agreement',
  needs: (traits) =>
    decision(traits) === null
      ? `needs an output of classes: floats, rank 2 once trailing axes of 1 are dropped, at least 2 wide, not shaped as an input; '${traits.name}' is [${traits.dims.join(', ')}]`
      : null,
  start({ traits, blank }) {
    const kind = decision(traits);
    let n = 0;
    let same = 0;
    return {
      update(reference, got) {
        if (kind === 'sequence') {
          const [a, b] = [sequences(reference, traits.batch, blank), sequences(got, traits.batch, blank)];
          a.forEach((sequence, i) => {
            n++;
            if (sameSequence(sequence, b[i]!)) same++;
          });
        } else if (kind === 'class') {
          const [a, b] = [classes(reference, traits.batch), classes(got, traits.batch)];
          n += a.length;
          for (let i = 0; i < a.length; i++) if (a[i] === b[i]) same++;
        } else {
          for (const alike of sameIntegers(reference, got, traits.batch)) {
            n++;
            if (alike) same++;
          }
        }
      },
      result() {
        const value = n === 0 ? 1 : same / n;
        return {
          value,
          floatValue: 1,
          drop: 1 - value,
          ci95: wilson(same, n),
          dropStandardError: pairedStandardError(n - same, n - same, n),
          samples: n,
        };
      },
    };
  },
};
