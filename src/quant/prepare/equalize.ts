import { cloneModel } from '../../onnx/graph.ts';
import { DataType, type Model, type Node } from '../../onnx/model.ts';
import { floatData } from '../../onnx/tensor.ts';
import { type Geometry, geometryOf, type Linear, linearOf, rewriteLinear, scaledWeights } from './linear.ts';
import { Rewriter } from './rewriter.ts';

/** Operators through which a positive scale of a channel passes unchanged: f(s·x) = s·f(x), channel by channel. */
const HOMOGENEOUS = new Set([
  'Relu',
  'LeakyRelu',
  'PRelu',
  'MaxPool',
  'AveragePool',
  'GlobalAveragePool',
  'GlobalMaxPool',
  'Identity',
  'Dropout',
]);
/** Convergence: the largest change of a scale in a round, and rounds at most (a round costs a look at each kernel's magnitude). */
const TOLERANCE = 0.01;
const ROUNDS = 8;
/** Scales stay within these bounds, so that a channel of nearly no weight doesn't blow its neighbour's up. */
const SCALE_LIMIT = 1024;

interface Pair {
  first: number;
  second: number;
  /** ln of the scale of each channel, accumulated over the rounds. */
  log: Float64Array;
}
interface Layer {
  linear: Linear;
  geometry: Geometry;
  /** Largest |weight| of each kernel window, scaled as the rounds go: [outer, inner]. */
  magnitudes: Float32Array;
}

/**
 * Cross-layer equalization (Nagel et al. 2019, “Data-Free Quantization Through Weight Equalization and Bias Correction”, §4.1).
 * For layers W¹, W² with a positively homogeneous function between, channel i of what lies between is divided by
 * s_i = √(r¹_i · r²_i) / r²_i, where r¹_i is the largest |weight| that makes it and r²_i the largest that takes it:
 * W¹_i ← W¹_i/s_i, b¹_i ← b¹_i/s_i, W²_·i ← W²_·i·s_i. Both ranges become √(r¹_i·r²_i), and what the network computes
 * stays the same. Repeated over all pairs until no scale changes by more than 1% (chains of three, as 1×1 – depthwise –
 * 1×1, are two pairs that share a layer).
 * 1. Pairs are Conv, Gemm or (as the second) MatMul with constant float32 weights; between them only values that nothing
 *    else sees, and only operators for which f(s·x) = s·f(x): Relu, LeakyRelu, PRelu, pooling. Clip (Relu6) is none, so
 *    its neighbours are not equalized.
 * 2. Channels must correspond one to one: a Conv is followed by a Conv, a Gemm by a Gemm or MatMul.
 * 3. A channel without weights on one side keeps its scale; scales stay within 2^±10.
 * All in float64 on the magnitudes; the weights are multiplied and rounded to float32 once, at the end.
 * Whether the result is better is for the caller to judge by error: the model that came in is not changed.
 */
export function equalize(model: Model): { model: Model; pairs: number; notes: string[] } {
  const copy = cloneModel(model);
  const rewriter = new Rewriter(copy);
  const index = new Map<Node, number>();
  const layers: Layer[] = [];
  for (const node of rewriter.graph.nodes) {
    const linear = linearOf(rewriter, node);
    if (!linear || linear.kind === 'ConvTranspose') continue;
    index.set(node, layers.length);
    layers.push(layerOf(linear));
  }
  const pairs: Pair[] = [];
  for (const [first, { linear }] of layers.entries()) {
    const next = follow(rewriter, linear);
    const second = next && index.get(next);
    if (second === undefined || second === null) continue;
    const { inputs } = layers[second]!.linear;
    if (inputs === linear.outputs) pairs.push({ first, second, log: new Float64Array(inputs) });
  }
  if (pairs.length === 0) return { model: copy, pairs: 0, notes: [] };

  for (let round = 0; round < ROUNDS; round++) {
    let change = 0;
    // To and fro: what one pair changes reaches both ends of a chain in one round each.
    for (const pair of round % 2 === 0 ? pairs : pairs.toReversed())
      change = Math.max(change, balance(layers[pair.first]!, layers[pair.second]!, pair.log));
    if (change < TOLERANCE) break;
  }

  const outputScale = new Map<number, Float64Array>();
  const inputScale = new Map<number, Float64Array>();
  for (const pair of pairs) {
    const scale = pair.log.map(Math.exp);
    outputScale.set(pair.first, scale);
    inputScale.set(pair.second, scale);
  }
  for (const [i, { linear }] of layers.entries()) {
    const [out, into] = [outputScale.get(i), inputScale.get(i)];
    if (!out && !into) continue;
    const weights = scaledWeights(linear, out?.map((scale) => 1 / scale) ?? null, into ?? null);
    const bias = linear.bias?.map((value, output) => value / (out?.[output] ?? 1)) ?? null;
    if (!rewriteLinear(rewriter, linear, weights, bias)) return { model: cloneModel(model), pairs: 0, notes: [] };
  }
  rewriter.commit();
  return { model: copy, pairs: pairs.length, notes: [`cross-layer equalization over ${pairs.length} pairs of layers`] };
}

function layerOf(linear: Linear): Layer {
  const geometry = geometryOf(linear);
  const { outer, inner, kernel } = geometry;
  const weights = floatData(linear.weight);
  const magnitudes = new Float32Array(outer * inner);
  for (let pair = 0, at = 0; pair < magnitudes.length; pair++) {
    let largest = 0;
    for (const end = at + kernel; at < end; at++) {
      const magnitude = Math.abs(weights[at]!);
      if (magnitude > largest) largest = magnitude;
    }
    magnitudes[pair] = largest * Math.abs(linear.alpha);
  }
  return { linear, geometry, magnitudes };
}

/** Largest magnitude of each channel on one side of a layer. */
function rangesOf({ linear, geometry, magnitudes }: Layer, side: 'outputs' | 'inputs'): Float64Array {
  const { outer, inner, outerPerGroup, outerIsOutput } = geometry;
  const ranges = new Float64Array(linear[side]);
  const byOuter = outerIsOutput === (side === 'outputs');
  for (let o = 0; o < outer; o++) {
    const row = magnitudes.subarray(o * inner, (o + 1) * inner);
    if (byOuter) {
      let largest = 0;
      for (let i = 0; i < inner; i++) if (row[i]! > largest) largest = row[i]!;
      ranges[o] = largest;
    } else {
      const far = Math.floor(o / outerPerGroup) * inner;
      for (let i = 0; i < inner; i++) if (row[i]! > ranges[far + i]!) ranges[far + i] = row[i]!;
    }
  }
  return ranges;
}

function scaleSide({ geometry, magnitudes }: Layer, side: 'outputs' | 'inputs', factors: Float64Array): void {
  const { outer, inner, outerPerGroup, outerIsOutput } = geometry;
  const byOuter = outerIsOutput === (side === 'outputs');
  for (let o = 0; o < outer; o++) {
    const row = magnitudes.subarray(o * inner, (o + 1) * inner);
    if (byOuter) {
      const factor = factors[o]!;
      for (let i = 0; i < inner; i++) row[i]! *= factor;
    } else {
      const far = Math.floor(o / outerPerGroup) * inner;
      for (let i = 0; i < inner; i++) row[i]! *= factors[far + i]!;
    }
  }
}

/** The layer that a layer's output flows into through homogeneous operators alone; null where there is none. */
function follow(rewriter: Rewriter, linear: Linear): Node | null {
  let value = linear.node.outputs[0]!;
  for (;;) {
    const user = rewriter.onlyUser(value);
    if (user?.domain !== '' || user.inputs[0] !== value) return null;
    if (linear.kind === 'Conv' ? user.opType === 'Conv' : user.opType === 'Gemm' || user.opType === 'MatMul') return user;
    if (!HOMOGENEOUS.has(user.opType) || user.outputs.slice(1).some((output) => output !== '' && rewriter.isUsed(output))) return null;
    if (user.opType === 'PRelu' && rewriter.graph.initializers.get(user.inputs[1]!)?.dataType !== DataType.FLOAT) return null;
    value = user.outputs[0]!;
  }
}

/** One step of a pair: its scales into `log` and into both layers' magnitudes. Returns the largest |Δ ln s|. */
function balance(first: Layer, second: Layer, log: Float64Array): number {
  const ranges1 = rangesOf(first, 'outputs');
  const ranges2 = rangesOf(second, 'inputs');
  let change = 0;
  const step = new Float64Array(log.length);
  const limit = Math.log(SCALE_LIMIT);
  for (let c = 0; c < log.length; c++) {
    if (ranges1[c] === 0 || ranges2[c] === 0) {
      step[c] = 1;
      continue;
    }
    const wanted = log[c]! + 0.5 * Math.log(ranges1[c]! / ranges2[c]!);
    const next = Math.min(Math.max(wanted, -limit), limit);
    const delta = next - log[c]!;
    log[c] = next;
    step[c] = Math.exp(delta);
    change = Math.max(change, Math.abs(delta));
  }
  scaleSide(second, 'inputs', step);
  scaleSide(
    first,
    'outputs',
    step.map((factor) => 1 / factor),
  );
  return change;
}
