import type { Runner } from '../../domain/runner.ts';
import { captures, sparseInitializerNames } from '../../onnx/graph.ts';
import type { Model, TensorType } from '../../onnx/model.ts';
import type { Value } from '../../onnx/shape-values.ts';
import type { Rewriter } from './rewriter.ts';

export interface PassContext {
  runner: Runner;
  /** Types of all values as the graph stood when the pass began, by the inputs' types alone; computed when first asked for. */
  types(): Map<string, TensorType>;
  /** Small values that are known without running, shapes above all; at most 1024 elements each. */
  values(): Map<string, Value>;
  /** Adds a line for the report. */
  note(line: string): void;
}

/** One rewrite of the graph. Its doc comment numbers its rules; `run` returns how many times one of them applied. */
export interface Pass {
  name: string;
  /** The report's line for so many rewrites; null where a user has no use for it. */
  report(count: number): string | null;
  run(rewriter: Rewriter, context: PassContext): number | Promise<number>;
}

/** What a caller of the model sees: nothing in `prepare` may change it. */
export function signature(model: Model, inputs: string[]): string {
  const { graph } = model;
  const line = (value: { name: string; type: unknown }) => `${value.name} ${JSON.stringify(value.type)}`;
  const kept = new Set(inputs);
  return [...graph.inputs.filter((input) => kept.has(input.name)).map(line), '→', ...graph.outputs.map(line)].join('\n');
}

/**
 * Postcondition of every pass. Throws (a bug of the pass, not of the model) unless
 * 1. each value has one maker and is made before it is used,
 * 2. every graph output has a maker,
 * 3. node names are unique and not empty.
 */
export function ensureSound(model: Model, pass: string): void {
  const known = new Set<string>([
    ...model.graph.inputs.map((input) => input.name),
    ...model.graph.initializers.keys(),
    ...sparseInitializerNames(model.graph),
  ]);
  const names = new Set<string>();
  const fail = (what: string): never => {
    throw new Error(`pass ${pass} left the graph broken: ${what}`);
  };
  const need = (value: string, by: string) => {
    if (value !== '' && !known.has(value)) fail(`${by} uses ${value} before it is made`);
  };
  for (const node of model.graph.nodes) {
    if (node.name === '' || names.has(node.name)) fail(`node name '${node.name}' is empty or taken twice`);
    names.add(node.name);
    for (const input of node.inputs) need(input, node.name);
    for (const value of captures(node)) need(value, node.name);
    for (const output of node.outputs) {
      if (output === '') continue;
      if (known.has(output)) fail(`${output} is made twice (${node.name})`);
      known.add(output);
    }
  }
  for (const output of model.graph.outputs) need(output.name, 'the graph’s outputs');
}
