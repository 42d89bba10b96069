import { attrInts } from '../../onnx/graph.ts';
import type { Node } from '../../onnx/model.ts';
import type { Pass } from './pass.ts';

/**
 * Transposes that follow each other (tf2onnx wraps each layer in NHWC → NCHW → NHWC).
 * 1. Transpose after Transpose becomes one Transpose of the first one's input; where it keeps the order, none.
 * 2. The first one goes when nobody else uses it; where others do, the pair is rewritten only if it cancels.
 * 3. A pair that ends in a graph output is merged but never cancelled onto an input of the graph.
 */
export const mergeTransposes: Pass = {
  name: 'merge-transposes',
  report: (count) => `${count} pairs of Transposes merged`,
  run(rewriter) {
    let merged = 0;
    for (const second of rewriter.nodes()) {
      const outer = permutation(second);
      const middle = second.inputs[0]!;
      const first = outer && rewriter.has(second) ? rewriter.producer(middle) : undefined;
      const inner = first ? permutation(first) : null;
      if (!outer || !first || !inner || inner.length !== outer.length) continue;
      const both = outer.map((axis) => inner[axis]!);
      const source = first.inputs[0]!;
      const output = second.outputs[0]!;
      if (
        both.every((axis, i) => axis === i) &&
        (!rewriter.isOutput(output) || (rewriter.producer(source) && !rewriter.isPinned(source)))
      ) {
        rewriter.remove(second);
        if (!rewriter.isUsed(middle)) rewriter.remove(first);
        if (!rewriter.bypass(output, source)) throw new Error(`${second.name} could not be bypassed`);
      } else if (rewriter.onlyUser(middle) === second) {
        rewriter.setInput(second, 0, source);
        second.attributes.set('perm', { name: 'perm', kind: 'ints', value: both.map(BigInt) });
        rewriter.remove(first);
      } else {
        continue;
      }
      merged++;
    }
    return merged;
  },
};

function permutation(node: Node): number[] | null {
  if (node.opType !== 'Transpose' || node.domain !== '') return null;
  const axes = attrInts(node, 'perm', []);
  return axes.length > 0 ? axes : null;
}
