import type { Runner, TensorValue } from '../domain/runner.ts';
import { attrGraph, cloneGraph, cloneModel, cloneNode, GraphView, graphAttr, makeNode, NamePool, subgraphsOf } from '../onnx/graph.ts';
import type { Graph, Model, Node } from '../onnx/model.ts';
import { openModel } from './session.ts';

/** A model around one If, and the branch that the calibration data takes each time. */
export interface TakenBranch {
  /** The same function as long as the branch is taken: the If replaced by that branch's nodes. */
  straight: Model;
  /** Puts a model made from `straight` back behind the condition; the branch not taken stays as it was. */
  wrap: (quantized: Model) => Model;
  note: string;
}

/**
 * Models that choose between whole networks by an input (a sampling rate, say) keep everything inside an If, where values
 * can't be observed. When all calibration runs take one branch:
 *
 * 1. there is exactly one If in the main graph (others: null, such models are quantized around their Ifs);
 * 2. its condition is computed for every run by the part of the graph that it needs; if it varies, null;
 * 3. the branch is laid out in the main graph, which can then be quantized as any other;
 * 4. afterwards the condition, with the whole quantized network in one branch and the whole float network with the other
 *    branch in the other, gives the same function for inputs that the data did not show.
 */
export async function takenBranch(
  runner: Runner,
  model: Model,
  runs: Iterable<Record<string, TensorValue>>,
  workDir: string,
): Promise<TakenBranch | null> {
  const ifs = model.graph.nodes.filter((n) => n.opType === 'If' && n.domain === '');
  if (ifs.length !== 1 || model.graph.nodes.some((n) => n !== ifs[0] && subgraphsOf(n).length)) return null;
  const condition = ifs[0]!.inputs[0]!;
  const graphs = { true: attrGraph(ifs[0]!, 'then_branch'), false: attrGraph(ifs[0]!, 'else_branch') };
  if (!graphs.true || !graphs.false || model.graph.outputs.some((o) => o.name === condition)) return null;

  const chooser = cloneModel(model);
  chooser.graph.outputs = [{ name: condition, type: { elemType: 9, shape: [] } }];
  new GraphView(chooser.graph).removeDead();
  const used = new Set(chooser.graph.nodes.flatMap((n) => n.inputs));
  chooser.graph.inputs = chooser.graph.inputs.filter((i) => used.has(i.name));
  // A condition that is a graph input itself, or that a subgraph computes, has no such part.
  if (!chooser.graph.nodes.length) return null;
  const session = await openModel(runner, chooser, workDir, { threads: 1 });
  let taken: boolean | null = null;
  try {
    const names = session.inputs.map((i) => i.name);
    for (const feeds of runs) {
      const value = await session.run(Object.fromEntries(names.map((n) => [n, feeds[n]!])));
      const now = value[condition]!.bytes[0] !== 0;
      if (taken !== null && taken !== now) return null;
      taken = now;
    }
  } finally {
    session.close();
  }
  if (taken === null) return null;
  const straight = inline(model, taken);
  const other = inline(model, !taken);
  return {
    straight,
    note: `all calibration runs take the If's ${taken ? 'then' : 'else'} branch: that one is quantized, the other stays as it was`,
    wrap: (quantized) => {
      const whole = cloneModel(quantized);
      const outputs = quantized.graph.outputs;
      const pool = new NamePool(chooser.graph, { ...chooser.graph, outputs });
      const around: Graph = { ...chooser.graph, inputs: quantized.graph.inputs, outputs };
      const [shown, unseen] = [asBranch(quantized.graph, around), asBranch(other.graph, around)];
      const node = makeNode(
        'If',
        [condition],
        outputs.map((o) => o.name),
        {
          name: pool.fresh(ifs[0]!.name || 'If'),
          attributes: [graphAttr('then_branch', taken ? shown : unseen), graphAttr('else_branch', taken ? unseen : shown)],
        },
      );
      whole.graph = {
        ...quantized.graph,
        nodes: [...chooser.graph.nodes.map(cloneNode), node],
        initializers: new Map(chooser.graph.initializers),
        valueInfo: new Map(),
        outputs,
      };
      return whole;
    },
  };
}

/** The model with its If replaced by one branch, whose values get names of their own. */
function inline(model: Model, which: boolean): Model {
  const copy = cloneModel(model);
  const graph = copy.graph;
  const at = graph.nodes.findIndex((n) => n.opType === 'If' && n.domain === '');
  const [node] = graph.nodes.splice(at, 1) as [Node];
  const branch = withFreshNames(attrGraph(node, which ? 'then_branch' : 'else_branch')!, new NamePool(graph));
  for (const [name, tensor] of branch.initializers) graph.initializers.set(name, tensor);
  const pool = new NamePool(graph, branch);
  const nodes = [...branch.nodes];
  node.outputs.forEach((output, i) => {
    if (output) nodes.push(makeNode('Identity', [branch.outputs[i]!.name], [output], { name: pool.fresh(`${output}_branch`) }));
  });
  graph.nodes.splice(at, 0, ...nodes);
  new GraphView(graph).removeDead();
  return copy;
}

/** A whole graph as an If's branch: its inputs are captured from outside, everything that it makes has a name that is free there. */
function asBranch(graph: Graph, outside: Graph): Graph {
  const captured = new Set(graph.inputs.map((input) => input.name));
  const branch = withFreshNames({ ...cloneGraph(graph), inputs: [] }, new NamePool(outside), captured);
  // A branch gives what it computes: an output that is an input or a constant passes through a node.
  const made = new Set(branch.nodes.flatMap((n) => n.outputs));
  const pool = new NamePool(outside, branch);
  branch.outputs = branch.outputs.map((output) => {
    if (made.has(output.name)) return output;
    const name = pool.fresh(`${output.name}_branch`);
    branch.nodes.push(makeNode('Identity', [output.name], [name], { name }));
    return { ...output, name };
  });
  return { ...branch, valueInfo: new Map() };
}

/** The graph with those values that it makes renamed whose names are taken in `pool`, also where graphs inside it use them. */
function withFreshNames(original: Graph, pool: NamePool, keep: ReadonlySet<string> = new Set()): Graph {
  const graph = cloneGraph(original);
  const view = new GraphView(graph);
  const rename = (from: string): string => {
    if (!from || keep.has(from) || !pool.has(from)) return from;
    const to = pool.fresh(from);
    view.replaceUses(from, to);
    for (const output of graph.outputs) if (output.name === from) output.name = to;
    return to;
  };
  for (const tensor of [...graph.initializers.values()]) {
    const name = rename(tensor.name);
    if (name === tensor.name) continue;
    graph.initializers.delete(tensor.name);
    graph.initializers.set(name, { ...tensor, name });
  }
  for (const node of graph.nodes) {
    node.outputs.forEach((output, i) => {
      const name = rename(output);
      if (name !== output) view.setOutput(node, i, name);
    });
  }
  return graph;
}
