/** What layers cost on a profile, as measured; cached by model, recipe and profile, and written into the manifest. */
export interface LayerCosts {
  version: 1;
  /** Unit name → µs in the float model and in the model with everything quantized that may be. */
  units: Record<string, { floatUs: number; integerUs: number | null }>;
  /** Whole plans that were run against the float model, interleaved: names of their integer units, and float time ÷ theirs. */
  candidates: { integer: string[]; speedup: number }[];
}
