import { attrInt, attrInts } from '../../onnx/graph.ts';
import type { Node, TensorType } from '../../onnx/model.ts';
import { elementCount, intData, numberData, scalarValue } from '../../onnx/tensor.ts';
import type { Pass } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

/**
 * Operators that hand their first input on unchanged go.
 * 1. Identity; Dropout in inference whose mask nobody uses; Concat, Sum, Mean, Max, Min of one input.
 * 2. Cast to the type that the value has.
 * 3. Transpose that keeps the order; Pad by nothing; Slice of everything; Expand to all ones of no higher rank; Flatten at
 *    axis 1 of rank 2; Clip without bounds.
 * 4. Reshape to the shape that the value has: all dimensions fixed but at most one, and that one written as −1 or 0.
 * 5. Mul or Div by 1, Add or Sub of 0 (right side), by a constant that doesn't widen the shape.
 * A node whose output is a graph output hands that name to the maker of its input; between an input and an output of the
 * graph it stays.
 */
export const removeNoOps: Pass = {
  name: 'remove-no-ops',
  report: (count) => `${count} operators without effect removed`,
  run(rewriter, context) {
    let removed = 0;
    for (const node of rewriter.nodes()) {
      if (node.domain !== '') continue;
      const source = passesOn(rewriter, node, () => context.types());
      if (source === null) continue;
      const output = node.outputs[0]!;
      if (rewriter.isOutput(output) && (!rewriter.producer(source) || rewriter.isPinned(source))) continue;
      rewriter.remove(node);
      if (!rewriter.bypass(output, source)) throw new Error(`${node.name} could not be bypassed`);
      removed++;
    }
    return removed;
  },
};

/** The input that a node hands on unchanged; null where it does something. */
function passesOn(rewriter: Rewriter, node: Node, types: () => Map<string, TensorType>): string | null {
  const data = node.inputs[0];
  if (!data) return null;
  const constant = (i: number) => rewriter.constant(node.inputs[i] ?? '');
  const ints = (i: number): number[] | null => {
    const tensor = constant(i);
    return tensor ? intData(tensor) : null;
  };
  const given = (i: number) => (node.inputs[i] ?? '') !== '';
  switch (node.opType) {
    case 'Identity':
      return data;
    case 'Dropout': {
      if (node.outputs[1] && rewriter.isUsed(node.outputs[1])) return null;
      if (!given(2)) return data;
      const training = constant(2);
      return training && scalarValue(training) === 0 ? data : null;
    }
    case 'Concat':
    case 'Sum':
    case 'Mean':
    case 'Max':
    case 'Min':
      return node.inputs.length === 1 ? data : null;
    case 'Cast':
      return types().get(data)?.elemType === attrInt(node, 'to', 0) ? data : null;
    case 'Transpose': {
      const permutation = attrInts(node, 'perm', []);
      return permutation.length > 0 && permutation.every((axis, i) => axis === i) ? data : null;
    }
    case 'Pad': {
      const pads = ints(1);
      return pads?.every((pad) => pad === 0) ? data : null;
    }
    case 'Clip':
      return given(1) || given(2) ? null : data;
    case 'Slice': {
      const [starts, ends] = [ints(1), ints(2)];
      const steps = given(4) ? ints(4) : [];
      if (!starts || !ends || !steps) return null;
      const all = starts.every((start, i) => start === 0 && (ends[i] ?? 0) >= 2 ** 31 - 1 && (steps[i] ?? 1) === 1);
      return all ? data : null;
    }
    case 'Expand': {
      const shape = ints(1);
      const rank = types().get(data)?.shape?.length;
      return shape && rank !== undefined && shape.length <= rank && shape.every((dim) => dim === 1) ? data : null;
    }
    case 'Flatten':
      return types().get(data)?.shape?.length === 2 && attrInt(node, 'axis', 1) === 1 ? data : null;
    case 'Reshape': {
      const shape = types().get(data)?.shape;
      const target = ints(1);
      if (!shape || !target || target.length !== shape.length || attrInt(node, 'allowzero', 0) !== 0) return null;
      const open = shape.filter((dim, i) => target[i] !== 0 && (typeof dim !== 'number' || dim !== target[i]));
      if (open.length > 1) return null;
      return shape.every((dim, i) => target[i] === 0 || target[i] === -1 || dim === target[i]) ? data : null;
    }
    case 'Mul':
    case 'Div':
      return neutral(rewriter, node, 1, types) ?? (node.opType === 'Mul' ? neutral(rewriter, node, 1, types, 0) : null);
    case 'Add':
    case 'Sub':
      return neutral(rewriter, node, 0, types) ?? (node.opType === 'Add' ? neutral(rewriter, node, 0, types, 0) : null);
    default:
      return null;
  }
}

/** The other input, where input `side` is a constant of all `value` that does not widen its shape. */
function neutral(rewriter: Rewriter, node: Node, value: number, types: () => Map<string, TensorType>, side = 1): string | null {
  const tensor = rewriter.constant(node.inputs[side] ?? '');
  const data = node.inputs[1 - side]!;
  if (!tensor || tensor.strings || elementCount(tensor.dims) > 65_536 || rewriter.constant(data)) return null;
  const values = numberData(tensor);
  for (let i = 0; i < values.length; i++) if (values[i] !== value) return null;
  if (tensor.dims.length === 0) return data;
  const shape = types().get(data)?.shape;
  if (!shape || tensor.dims.length > shape.length) return null;
  const offset = shape.length - tensor.dims.length;
  return tensor.dims.every((dim, i) => dim === 1 || dim === shape[i + offset]) ? data : null;
}
