import { GraphView, type NamePool, subgraphsOf } from '../../onnx/graph.ts';
import type { Graph, Node, Tensor } from '../../onnx/model.ts';

/** A graph with the constants that its nodes see: its own and those of the graphs around it. */
export class Scope {
  readonly view: GraphView;
  readonly outer: Scope | null;
  readonly #inputs: Set<string>;

  constructor(graph: Graph, names: NamePool, outer: Scope | null = null) {
    this.view = new GraphView(graph, names);
    this.outer = outer;
    this.#inputs = new Set(graph.inputs.map((input) => input.name));
  }

  /** The constant of this name, and the scope that holds it; undefined for everything that is computed or fed. */
  constant(value: string): { tensor: Tensor; holder: Scope } | undefined {
    if (value === '' || this.#inputs.has(value)) return undefined;
    const tensor = this.view.graph.initializers.get(value);
    if (tensor) return { tensor, holder: this };
    return this.view.producer(value) ? undefined : this.outer?.constant(value);
  }
}

/** Visits a model's graphs with their scopes, outermost first. */
export function eachScope(graph: Graph, names: NamePool, visit: (scope: Scope) => void, outer: Scope | null = null): void {
  const scope = new Scope(graph, names, outer);
  visit(scope);
  for (const node of [...graph.nodes]) for (const inner of subgraphsOf(node)) eachScope(inner, names, visit, scope);
}

/** Removes what nothing uses, innermost graphs first, so that an outer constant that only dead inner nodes used goes, too. */
export function removeDeadEverywhere(graph: Graph): void {
  for (const node of graph.nodes) for (const inner of subgraphsOf(node)) removeDeadEverywhere(inner);
  const view = new GraphView(graph);
  view.removeDead();
  view.sort();
}

/** Each use of a value that a scope holds, in its graph and in those inside it; `input` −1: handed out as an output. */
export function usesIn(scope: Scope, value: string): { node: Node | null; input: number }[] {
  const found: { node: Node | null; input: number }[] = [];
  const search = (graph: Graph) => {
    for (const node of graph.nodes) {
      node.inputs.forEach((name, input) => {
        if (name === value) found.push({ node, input });
      });
      for (const inner of subgraphsOf(node)) search(inner);
    }
    if (graph.outputs.some((output) => output.name === value)) found.push({ node: null, input: -1 });
  };
  for (const { node, input } of scope.view.uses(value)) {
    if (input >= 0) found.push({ node, input });
    else for (const inner of subgraphsOf(node)) search(inner);
  }
  if (scope.view.isOutput(value)) found.push({ node: null, input: -1 });
  return found;
}
