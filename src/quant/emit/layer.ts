import type { Attribute, Node } from '../../onnx/model.ts';

/** What a format writes for one integer unit. */
export interface LayerWriter {
  push: (node: Node) => void;
  name: (base: string) => string;
  /** Names of a value's integer form, scale and zero point. */
  integer: (value: string) => [codes: string, scale: string, zeroPoint: string];
  constant: (value: string) => [codes: string, scale: string, zeroPoint: string];
  weight: () => [codes: string, scale: string, zeroPoint: string];
  bias: () => [codes: string, scale: string, zeroPoint: string] | null;
  /** The values that the bias's codes stand for. */
  floatBias: () => string | null;
  /** Rank of the first input; null = unknown. */
  inputRank: () => number | null;
  /** Where the unit's output goes: its codes with their grid, or a float value. */
  output: (index: number) => { codes: string; scale: string; zeroPoint: string } | { float: string };
}

/** Writes an ONNX operator beside a unit's own, under a fresh name. */
export interface NodeWriter {
  node: (op: string, inputs: string[], outputs: string[], attributes?: [string, Attribute][]) => void;
}
