import { pairedStandardError, wilson } from '../interval.ts';
import type { MetricResult } from './metric.ts';

/** Counts hits of the float model and of a variant on the same samples: all that an accuracy, its interval and its drop's paired standard error need. */
export class PairedFraction {
  #n = 0;
  #reference = 0;
  #got = 0;
  #differ = 0;

  add(referenceHit: boolean, gotHit: boolean): void {
    this.#n++;
    if (referenceHit) this.#reference++;
    if (gotHit) this.#got++;
    if (referenceHit !== gotHit) this.#differ++;
  }

  result(): MetricResult {
    const n = this.#n;
    const lost = this.#reference - this.#got;
    return {
      value: n === 0 ? 0 : this.#got / n,
      floatValue: n === 0 ? 0 : this.#reference / n,
      drop: n === 0 ? 0 : lost / n,
      ci95: wilson(this.#got, n),
      dropStandardError: pairedStandardError(lost, this.#differ, n),
      samples: n,
    };
  }
}
