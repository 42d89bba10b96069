/** One figure of a bench. `mark`: what it has to reach, in words; `ok`: whether it does. */
export interface BenchRow {
  label: string;
  value: number;
  unit: string;
  mark?: string;
  ok?: boolean;
}

/** What a bench file's `run()` resolves to. */
export interface BenchResult {
  name: string;
  rows: BenchRow[];
}
