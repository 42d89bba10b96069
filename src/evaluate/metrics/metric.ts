/** What a metric is. One file a metric; index.ts is the table. */
import type { MetricName } from '../../domain/job.ts';
import type { ElementType, TensorValue } from '../../domain/runner.ts';

/** What is known of the compared output after the first run. */
export interface OutputTraits {
  name: string;
  type: ElementType;
  dims: number[];
  /** Samples a run. */
  batch: number;
  /** Shapes without their first axis that the model's inputs have, as fed and as they stand in the data set. */
  inputShapes: number[][];
  labels: 'class' | 'sequence' | null;
  /** Length of the longest sequence that labels can hold; 1 for classes. */
  labelLength: number;
}

/** Labels of one run's samples. `first` is the index of the first of them in the data set. */
export type RunLabels = { kind: 'class'; values: Int32Array; first: number } | { kind: 'sequence'; rows: Int32Array[]; first: number };

export interface MetricOptions {
  traits: OutputTraits;
  /** CTC's blank class. */
  blank: number;
  /** Of bootstrap intervals. */
  seed: number;
}

export interface MetricResult {
  value: number;
  /** The same figure of the float model. */
  floatValue: number;
  /** Positive when `value` is the worse one. */
  drop: number;
  ci95: [number, number];
  /** Of the drop, paired by sample; null where there is nothing to pair. */
  dropStandardError: number | null;
  /** What was counted: samples, or rows of an output that has several a sample. */
  samples: number;
}

/** Takes outputs run by run; memory does not grow with their number but by some bytes a sample. */
export interface Accumulator {
  /** @param reference the float model's output @param got the variant's output for the same input */
  update(reference: TensorValue, got: TensorValue, labels: RunLabels | null): void;
  result(): MetricResult;
}

export interface MetricDefinition {
  name: MetricName;
  /** Why the metric cannot be taken of this output with these labels; null where it can. */
  needs(traits: OutputTraits): string | null;
  start(options: MetricOptions): Accumulator;
}
