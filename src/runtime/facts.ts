/**
 * What the engine knows about ONNX Runtime's CPU provider and relies on: bugs, traps and costs, each with the version that it was
 * seen in. They are facts about one version; test/unit/runtime/facts.test.ts shows those that a plan's correctness hangs on, on
 * tiny models, so that a newer runtime that behaves otherwise fails a test and not a user's model.
 */

export interface RuntimeFact {
  /** Stable; comments elsewhere refer to it. */
  id: string;
  /** The version of ONNX Runtime that it was seen in; holds for later ones until the test says otherwise. */
  sinceVersion: string;
  text: string;
  /** The stages that obey it. */
  obeyedBy: string[];
}

const fact = (id: string, text: string, ...obeyedBy: string[]): RuntimeFact => ({ id, sinceVersion: '1.30.0', text, obeyedBy });

export const FACTS: readonly RuntimeFact[] = [
  fact(
    'fast-types',
    'Fast integer kernels take u8 activations, s8 weights with zero point 0, an int32 bias with scale x·w. Signed activations in QOperator form take 4 to 19 times as long, u8 weights 2 to 2.9 times (with VNNI), s8 weights with a zero point 1.3 to 2 times.',
    'plan',
    'emit',
  ),
  fact(
    'signed-qdq-rewritten',
    'QDQ with s8 activations becomes u8 at load only where one Q feeds one DQ with one user; residual forks and s8 graph inputs stay float.',
    'plan',
  ),
  fact(
    'scalar-parameters',
    'Add, Mul and AveragePool fail to load unless scale and zero point are rank-0 tensors: shape [1] is refused.',
    'emit',
  ),
  fact(
    'relu-folds-at-lowest-code',
    'Relu folds into the quantized operator before it if, and only if, the output’s zero point is the lowest code (u8 0, s8 −128); otherwise the operator before it stays float and dequantizes its weights in every run.',
    'plan',
  ),
  fact(
    'clip-folds-inside-range',
    'Clip folds if, and only if, the integer range lies inside [lo, hi]: for Relu6 a scale of at most 6/255 with zero point 0.',
    'plan',
  ),
  fact(
    'clip-edge-duplicate-node',
    'Clip → Q fails to load (two nodes of one name) when a bound rounds onto the end of the integer range without reaching it: Clip(0, 6), zero point 0, scale between 6/255 and 6/254.5.',
    'plan',
    'gate',
  ),
  fact(
    'one-consumer',
    'A Conv is integer only if its one consumer is a Q: a second consumer, two Qs, or being a graph output leaves it float. A fork after the Q is fine.',
    'plan',
    'emit',
  ),
  fact(
    'float-island',
    'DQ → Conv, ConvTranspose or Gemm with float weights → [Relu, Clip] → Q is quantized by the runtime itself (WeightBiasQuantization): weights int8 per tensor, asymmetric, at optimization BASIC and above.',
    'emit',
  ),
  fact(
    'float-island-guard',
    'What keeps a float island float at no cost: the DQ before it with vector scale and zero point along axis 1, all entries equal. Before an operator with int8 weights such a DQ fuses and then fails to run.',
    'emit',
  ),
  fact(
    'constant-dq-not-folded',
    'DequantizeLinear of a constant is never folded: an operator that does not fuse dequantizes its weights in every run. Cast(int8) → Mul(scale) is folded at load.',
    'emit',
    'dynamic',
  ),
  fact('dead-nodes-run', 'Nodes whose outputs nobody reads are not removed: they run.', 'emit'),
  fact(
    'weight-axis-not-checked',
    'A weight’s DQ along the wrong axis is not diagnosed: square weights give wrong results, others fail at run. Right: Conv 0; MatMul 1; Gemm 0 with transB, 1 without.',
    'emit',
  ),
  fact('gemm-alpha-beta', 'Gemm is integer only with alpha = 1 and beta = 1.', 'plan'),
  fact(
    'equal-scales-move-data',
    'MaxPool, Resize nearest, Split, Slice, Gather, Transpose, Reshape, Flatten, Squeeze, Expand and Tile run on integers only with equal scale and zero point on both sides; Concat with differing scales runs 2.2 to 2.8 times as long as in float.',
    'plan',
  ),
  fact(
    'u8s8-saturates',
    'On x86 without VNNI u8×s8 kernels add pairs of products in 16 bits with saturation. Depthwise convolutions, u8 weights and weights within ±63 do not saturate.',
    'plan',
    'transform',
  ),
  fact(
    'average-pool-slow',
    'QLinearAveragePool takes 8 to 31 times as long as in float, Softmax 4 to 5 times, MaxPool outside a chain of QLinearConvs 7 to 23 times.',
    'measure',
  ),
  fact('conv-integer-slow', 'ConvInteger with s8 weights takes 5 to 11 times as long as the float convolution.', 'dynamic'),
  fact(
    'dynamic-matmul-fuses',
    'DynamicQuantizeLinear → MatMulInteger → Cast → Mul fuses into DynamicQuantizeMatMul, without a weight zero point.',
    'dynamic',
  ),
  fact(
    'weight-only-matmul-rounds-activations',
    'DQ(constant) → MatMul with float in and out becomes MatMulNBits, which quantizes activations to int8 by default (accuracy level 4).',
    'emit',
    'dynamic',
  ),
  fact('gather-before-dequantize', 'Gather(DQ(table)) dequantizes the whole table in every run; DQ(Gather(table)) does not.', 'emit'),
  fact(
    'rounding',
    'QuantizeLinear divides in float32 and rounds half to even; NaN becomes the lowest code. QLinearConv, QLinearMatMul and QGemm are exact to the half-even rounding of the exact sum.',
    'observe',
    'transform',
  ),
  fact(
    'pool-threads-spin',
    'A session’s pool threads spin for some 35 ms after its last run and slow whatever runs next, another session too, unless session.force_spinning_stop is set or the sessions share a pool.',
    'measure',
    'benchmark',
  ),
  fact('unknown-config-accepted', 'Unknown session config keys are accepted without a word.', 'runtime'),
];
