import { constantTensor, dropInitializerInputs, subgraphsOf } from '../../onnx/graph.ts';
import { DataType, type Graph, type Node, type Tensor } from '../../onnx/model.ts';
import type { Pass } from './pass.ts';

/**
 * Everything constant becomes an initializer.
 * 1. An initializer that is listed as a graph input (IR version 3 had to; later it means a default that a caller may
 *    override) is no input any more: the runtime folds and fuses nothing that could be overridden.
 * 2. A Constant node of any form but sparse becomes an initializer of its output's name, in subgraphs too; one that
 *    is a graph's output stays (an output needs a maker).
 */
export const constantsToInitializers: Pass = {
  name: 'constants-to-initializers',
  report: () => null,
  run(rewriter, context) {
    const { graph, model } = rewriter;
    const listed = graph.inputs.filter((input) => graph.initializers.has(input.name)).length;
    if (listed > 0) {
      dropInitializerInputs(graph);
      if (model.irVersion < 4) model.irVersion = 4;
      else context.note(`${listed} weights were listed as inputs with a default; they are constants in the result`);
    }
    const moved = move(graph);
    rewriter.reindex();
    return moved;
  },
};

function move(graph: Graph): number {
  const outputs = new Set(graph.outputs.map((output) => output.name));
  let moved = 0;
  graph.nodes = graph.nodes.filter((node) => {
    for (const inner of subgraphsOf(node)) moved += move(inner);
    const tensor = constantOf(node);
    if (!tensor || outputs.has(tensor.name)) return true;
    graph.initializers.set(tensor.name, tensor);
    moved++;
    return false;
  });
  return moved;
}

/** What a Constant node holds, as a tensor under its output's name; null for other nodes and sparse constants. */
function constantOf(node: Node): Tensor | null {
  if (node.opType !== 'Constant' || node.domain !== '') return null;
  const name = node.outputs[0]!;
  const tensor = constantTensor(node);
  if (tensor) return { ...tensor, name };
  for (const attribute of node.attributes.values()) {
    if (attribute.kind === 'string') return strings(name, [], [attribute.value]);
    if (attribute.kind === 'strings') return strings(name, [attribute.value.length], attribute.value);
  }
  return null;
}

function strings(name: string, dims: number[], values: Uint8Array[]): Tensor {
  return { name, dataType: DataType.STRING, dims, data: { kind: 'bytes', bytes: new Uint8Array(0) }, strings: values };
}
