import { affineOf, foldOutputAffine, linearOf } from './linear.ts';
import type { Pass } from './pass.ts';
import { addBiasToMatMul } from './scale-shift.ts';

/**
 * Batch normalization into the layer before it (Jacob et al. 2018, §3.2: W' = γ/√(σ²+ε)·W), in float64.
 * 1. BatchNormalization in inference after Conv, ConvTranspose or Gemm with constant weights, whose output nothing else
 *    sees: weights and bias take it in, the layer makes the batch norm's output.
 * 2. After a MatMul by a matrix with an output of rank 2 (only then are columns channels): the MatMul becomes a Gemm with
 *    the shift as its bias.
 * 3. A fold that would leave float32's range is not done. What is left (after an activation, say) stays as it is.
 * Precondition: constants are initializers.
 */
export const foldBatchNorm: Pass = {
  name: 'fold-batch-norm',
  report: (count) => `${count} batch norms folded into the weights before them`,
  run(rewriter, context) {
    let folded = 0;
    for (const norm of rewriter.nodes()) {
      if (norm.opType !== 'BatchNormalization' || norm.domain !== '') continue;
      const data = norm.inputs[0]!;
      const maker = rewriter.producer(data);
      if (!maker || rewriter.onlyUser(data) !== norm) continue;
      const linear = linearOf(rewriter, maker);
      if (!linear) continue;
      if (linear.kind === 'MatMul' && context.types().get(data)?.shape?.length !== 2) continue;
      const affine = affineOf(rewriter, norm, data, { rank: linear.rank ?? 2, channelAxis: 1, channels: linear.outputs });
      if (!affine) continue;
      const done = linear.kind === 'MatMul' ? addBiasToMatMul(rewriter, linear, affine) : foldOutputAffine(rewriter, linear, affine);
      if (!done) continue;
      const output = norm.outputs[0]!;
      rewriter.remove(norm);
      rewriter.takeOver(maker, data, output);
      folded++;
    }
    return folded;
  },
};
