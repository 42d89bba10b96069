import { attrInt } from '../../onnx/graph.ts';
import { DataType, type Node } from '../../onnx/model.ts';
import { int64Tensor, tensorFromNumbers } from '../../onnx/tensor.ts';
import type { Pass, PassContext } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

const INTEGERS = new Set<DataType>([DataType.INT64, DataType.INT32, DataType.BOOL]);

/**
 * Shape arithmetic (Shape → Gather, Slice, Concat, … → Reshape) as far as the file decides it.
 * 1. An integer value computed from dimensions that the graph's inputs fix becomes a constant. Free dimensions stay free:
 *    nothing is taken from the sizes of any data at hand, nor from inner shapes that the file states (they may be stale).
 * 2. Reshape's target with free dimensions in it becomes a constant of 0s (same as the input's dimension at that place)
 *    and one −1, where the free ones are named dimensions that the input has at the same place, or there is only one.
 *    So exporters' Shape chains around a dynamic batch go, and the batch stays dynamic.
 * 3. Expand's target likewise, where each free dimension is what the input has there already (it becomes 1).
 */
export const foldShapes: Pass = {
  name: 'fold-shapes',
  report: (count) => `${count} steps of shape arithmetic computed in advance`,
  run(rewriter, context) {
    const values = context.values();
    const types = context.types();
    let folded = 0;
    for (const node of rewriter.nodes()) {
      if (node.domain !== '') continue;
      if (node.opType === 'Reshape') folded += simplifyReshape(rewriter, node, context);
      else if (node.opType === 'Expand') folded += simplifyExpand(rewriter, node, context);
      if (node.outputs.length !== 1 || node.opType === 'Constant') continue;
      const output = node.outputs[0]!;
      const type = types.get(output)?.elemType;
      const value = values.get(output);
      if (!value || type === undefined || !INTEGERS.has(type) || rewriter.isOutput(output)) continue;
      if (!value.elements.every((element) => typeof element === 'number' && Number.isSafeInteger(element))) continue;
      rewriter.remove(node);
      rewriter.setConstant(tensorFromNumbers(output, type, value.dims, value.elements as number[]));
      folded++;
    }
    return folded;
  },
};

/** The elements of a one-dimensional target shape; null where it is constant already or not known. */
function target(rewriter: Rewriter, node: Node, context: PassContext): (number | string | null)[] | null {
  const name = node.inputs[1]!;
  const value = context.values().get(name);
  return value?.dims.length === 1 && !rewriter.constant(name) ? value.elements : null;
}

function simplifyReshape(rewriter: Rewriter, node: Node, context: PassContext): number {
  const elements = target(rewriter, node, context);
  if (!elements || attrInt(node, 'allowzero', 0) !== 0) return 0;
  const shape = context.types().get(node.inputs[0]!)?.shape;
  const dims = elements.map((element, axis) => {
    if (typeof element === 'number') return element;
    return element !== null && shape?.[axis] === element ? 0 : null;
  });
  const open = dims.filter((dim) => dim === null).length;
  if (open > 1 || (open === 1 && dims.includes(-1))) return 0;
  const name = rewriter.freshName(`${node.name}/shape`);
  const known = dims.map((dim) => dim ?? -1);
  rewriter.setConstant(int64Tensor(name, known));
  rewriter.setInput(node, 1, name);
  return 1;
}

function simplifyExpand(rewriter: Rewriter, node: Node, context: PassContext): number {
  const elements = target(rewriter, node, context);
  const shape = context.types().get(node.inputs[0]!)?.shape;
  if (!elements || !shape) return 0;
  const offset = shape.length - elements.length;
  const dims = elements.map((element, i) => {
    if (typeof element === 'number') return element;
    return element !== null && shape[i + offset] === element ? 1 : null;
  });
  if (!dims.every((dim) => dim !== null)) return 0;
  const name = rewriter.freshName(`${node.name}/shape`);
  rewriter.setConstant(int64Tensor(name, dims));
  rewriter.setInput(node, 1, name);
  return 1;
}
