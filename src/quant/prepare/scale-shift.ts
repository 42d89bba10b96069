import { attrInts, attrString } from '../../onnx/graph.ts';
import { DataType, type Node } from '../../onnx/model.ts';
import { makeTensor } from '../../onnx/tensor.ts';
import { type Affine, affineOf, foldInputAffine, foldOutputAffine, type Linear, linearOf } from './linear.ts';
import type { Pass, PassContext } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

/**
 * Multiplications and additions by constants (“scale” layers, separate biases, as Paddle's, CNTK's and TensorFlow's
 * exporters write them) into the layer before them, in float64.
 * 1. Mul, Add, Sub, Div by a constant that is a scalar or one value a channel, after Conv, ConvTranspose or Gemm with
 *    constant weights whose output nothing else sees.
 * 2. MatMul is left alone: the runtime makes MatMul + Add a Gemm by itself, and matches Gelu, attention and layer norm by
 *    their multiplications.
 */
export const foldScaleAfter: Pass = {
  name: 'fold-scale-after',
  report: (count) => `${count} multiplications and additions by constants folded into the layer before them`,
  run(rewriter) {
    let folded = 0;
    for (const layer of rewriter.nodes()) {
      if (!rewriter.has(layer)) continue;
      for (;;) {
        const linear = linearOf(rewriter, layer);
        if (!linear || linear.kind === 'MatMul') break;
        const data = layer.outputs[0]!;
        const user = rewriter.onlyUser(data);
        if (!user || user.opType === 'BatchNormalization') break;
        const affine = affineOf(rewriter, user, data, { rank: linear.rank!, channelAxis: 1, channels: linear.outputs });
        if (!affine || !foldOutputAffine(rewriter, linear, affine)) break;
        const output = user.outputs[0]!;
        rewriter.remove(user);
        rewriter.takeOver(layer, data, output);
        folded++;
      }
    }
    return folded;
  },
};

/**
 * Multiplications, additions and batch norms before a Conv into that Conv: y = W·(s·x + t) = (W·s)·x + W·t.
 * 1. The Conv's weights are constant, and nothing but the Conv sees the value.
 * 2. Without padding both s and t are folded.
 * 3. With padding (which is zero after the affine function, too) only s can be folded; t stays as an Add of t/s before it,
 *    and only where that saves a node: from Mul → Add, or from a batch norm, whose scales are all at least 1e-3 of their largest.
 * Only for Conv: before MatMul and Gemm the runtime matches layer norm and Gelu by these multiplications.
 */
export const foldScaleBefore: Pass = {
  name: 'fold-scale-before',
  report: (count) => `${count} multiplications and additions by constants folded into the layer after them`,
  run(rewriter, context) {
    let folded = 0;
    for (const layer of rewriter.nodes()) {
      if (layer.opType !== 'Conv') continue;
      for (;;) {
        const linear = linearOf(rewriter, layer);
        if (!linear || !foldOneBefore(rewriter, linear, context)) break;
        folded++;
      }
    }
    return folded;
  },
};

function foldOneBefore(rewriter: Rewriter, linear: Linear, context: PassContext): boolean {
  const layer = linear.node;
  const layout = { rank: linear.rank!, channelAxis: 1, channels: linear.inputs };
  const step = (value: string, user: Node): { node: Node; data: string; affine: Affine } | null => {
    const node = rewriter.producer(value);
    if (!node || rewriter.onlyUser(value) !== user) return null;
    for (const data of new Set(node.inputs.slice(0, node.opType === 'BatchNormalization' ? 1 : 2))) {
      if (data === '' || rewriter.constant(data)) continue;
      // A constant may be what gives the value its channels: then there is nothing to fold into.
      const shape = context.types().get(data)?.shape;
      if (node.opType !== 'BatchNormalization' && (shape?.length !== layout.rank || shape[1] !== layout.channels)) continue;
      const affine = affineOf(rewriter, node, data, layout);
      if (affine) return { node, data, affine };
    }
    return null;
  };
  const last = step(layer.inputs[0]!, layer);
  if (!last) return false;
  const shifts = last.affine.shift.some((value) => value !== 0);
  if (!shifts || !isPadded(layer)) {
    if (!foldInputAffine(rewriter, linear, last.affine)) return false;
    rewriter.setInput(layer, 0, last.data);
    rewriter.remove(last.node);
    return true;
  }
  // With padding: s·x + t = s·(x + t/s), the s goes into the weights.
  const scales = last.affine.scale.some((value) => value !== 1);
  const before = scales ? null : step(last.data, last.node);
  const affine = before ? { scale: before.affine.scale, shift: last.affine.shift } : last.affine;
  if (before?.affine.shift.some((value) => value !== 0)) return false;
  if (!before && !scales) return false;
  const sizes = affine.scale.map(Math.abs);
  if (!(Math.min(...sizes) >= 1e-3 * Math.max(...sizes)) || Math.min(...sizes) === 0) return false;
  const shift = Float32Array.from(affine.shift, (value, i) => value / affine.scale[i]!);
  if (!shift.every(Number.isFinite)) return false;
  if (!foldInputAffine(rewriter, linear, { scale: affine.scale, shift: new Float64Array(linear.inputs) })) return false;
  const same = shift.every((value) => value === shift[0]);
  const constant = rewriter.freshName(`${last.node.name}/shift`);
  const dims = same ? [] : [linear.inputs, ...new Array<number>(linear.rank! - 2).fill(1)];
  rewriter.setConstant(makeTensor(constant, DataType.FLOAT, dims, same ? shift.slice(0, 1) : shift));
  const data = before ? before.data : last.data;
  const output = last.node.outputs[0]!;
  rewriter.remove(last.node);
  if (before) rewriter.remove(before.node);
  rewriter.add(
    { name: last.node.name, opType: 'Add', domain: '', inputs: [data, constant], outputs: [output], attributes: new Map() },
    last.node,
  );
  return true;
}

/** Whether a convolution adds anything around its input. */
function isPadded(node: Node): boolean {
  const auto = attrString(node, 'auto_pad', 'NOTSET');
  if (auto === 'VALID') return false;
  if (auto === 'NOTSET') return attrInts(node, 'pads', []).some((pad) => pad !== 0);
  // SAME_*: pads nothing where kernel and stride are 1.
  return !attrInts(node, 'kernel_shape', [0]).every((size) => size === 1) || !attrInts(node, 'strides', [1]).every((s) => s === 1);
}

/** Turns a MatMul (rank 2) followed by an affine function into a Gemm with both folded in. */
export function addBiasToMatMul(rewriter: Rewriter, linear: Linear, affine: Affine): boolean {
  const { node } = linear;
  const asGemm: Linear = { ...linear, kind: 'Gemm', rank: 2 };
  if (!foldOutputAffine(rewriter, asGemm, affine)) return false;
  node.opType = 'Gemm';
  return true;
}
