import { attrGraph, GraphView, makeNode } from '../../onnx/graph.ts';
import type { Graph } from '../../onnx/model.ts';
import { scalarValue } from '../../onnx/tensor.ts';
import type { Pass } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

/**
 * If with a constant condition becomes the branch that is taken (exporters write such Ifs around squeezes; their condition
 * is constant once shapes are).
 * 1. The branch's nodes and constants move into the graph; names that are taken there get new ones.
 * 2. What makes a branch's output makes the If's output; an output that the branch only passes on gets an Identity.
 * Precondition: conditions that can be folded are folded.
 */
export const inlineIf: Pass = {
  name: 'inline-if',
  report: (count) => `${count} branches whose condition is constant resolved`,
  run(rewriter) {
    let inlined = 0;
    for (const node of rewriter.nodes()) {
      if (node.opType !== 'If' || node.domain !== '') continue;
      const condition = scalarValue(rewriter.constant(node.inputs[0] ?? ''));
      const branch = condition === undefined ? undefined : attrGraph(node, condition ? 'then_branch' : 'else_branch');
      if (!branch || branch.outputs.length < node.outputs.length || branch.unknown?.length) continue;
      makeRoom(rewriter, branch);
      rewriter.remove(node);
      const own = new Set(branch.nodes);
      const results = branch.outputs.map((output) => output.name);
      for (const [name, tensor] of branch.initializers) rewriter.setConstant({ ...tensor, name });
      for (const moved of branch.nodes) rewriter.add(moved, node);
      for (const [i, output] of node.outputs.entries()) {
        const result = results[i]!;
        if (output === '') continue;
        const maker = rewriter.producer(result);
        if (maker && own.has(maker) && results.indexOf(result) === i) {
          rewriter.takeOver(maker, result, output);
          rewriter.replaceUses(result, output);
          for (const [k, name] of results.entries()) if (name === result) results[k] = output;
        } else {
          rewriter.add(makeNode('Identity', [result], [output], { name: `${node.name}/Identity` }), node);
        }
      }
      inlined++;
    }
    return inlined;
  },
};

/** Renames what a branch defines under names that the graph around it has already. */
function makeRoom(rewriter: Rewriter, branch: Graph): void {
  const inner = new GraphView(branch, rewriter.names);
  const inputs = new Set(rewriter.graph.inputs.map((input) => input.name));
  const taken = (name: string) => rewriter.producer(name) !== undefined || rewriter.graph.initializers.has(name) || inputs.has(name);
  const rename = (name: string): string => {
    const free = rewriter.freshName(name);
    inner.replaceUses(name, free);
    for (const output of branch.outputs) if (output.name === name) output.name = free;
    return free;
  };
  for (const [name, tensor] of [...branch.initializers]) {
    if (!taken(name)) continue;
    branch.initializers.delete(name);
    const free = rename(name);
    branch.initializers.set(free, { ...tensor, name: free });
  }
  for (const node of branch.nodes) {
    node.outputs.forEach((output, i) => {
      if (output !== '' && taken(output)) inner.setOutput(node, i, rename(output));
    });
  }
}
