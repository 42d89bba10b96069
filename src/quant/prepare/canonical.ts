import { attrFloat, attrInt, attrInts, attrString } from '../../onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../onnx/model.ts';
import { elementCount, floatData, floatTensor, intData, scalarValue } from '../../onnx/tensor.ts';
import { linearOf, rewriteLinear, scaledWeights } from './linear.ts';
import type { Pass, PassContext } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

/** Bounds from here on are no bound: the largest float32 is 3.4e38. */
const UNBOUNDED = 3e38;

/**
 * One spelling for each thing, the one that the runtime has an integer kernel for (runtime.md, section 1).
 * 1. ReduceMean over the last two axes of rank 4 with keepdims → GlobalAveragePool.
 * 2. Clip(0, ∞) → Relu; Max(x, 0) → Relu; Min(Relu(x), c), Min(Max(x, 0), c) and Clip after Relu, Clip or Max → one Clip; Relu after Relu → none.
 * 3. Div by a constant → Mul by its reciprocal (equal to the last bit for powers of two, within 1.5 units of the last place
 *    else), but not where the runtime matches Gelu (before Erf) or attention (after a MatMul).
 * 4. Sub of a constant → Add of its negative (exact), with the same exceptions.
 * 5. Gemm: alpha and beta go into constant B and C (the integer kernel wants both 1).
 * 6. Pad with zeros of the spatial axes before Conv → the Conv's own padding.
 * MatMul + Add(bias) stays: the runtime makes a Gemm of it. AveragePool stays: the plan decides.
 */
export const canonicalForms: Pass = {
  name: 'canonical-forms',
  report: (count) => `${count} operators rewritten to the form that has an integer kernel`,
  run(rewriter, context) {
    let changed = 0;
    for (const node of rewriter.nodes()) {
      if (node.domain !== '' || !rewriter.has(node)) continue;
      for (const rule of RULES[node.opType] ?? []) {
        if (!rule(rewriter, node, context)) continue;
        changed++;
        break;
      }
    }
    return changed;
  },
};

type Rule = (rewriter: Rewriter, node: Node, context: PassContext) => boolean;
const RULES: Record<string, Rule[]> = {
  ReduceMean: [globalAveragePool],
  Clip: [mergeClip, clipToRelu],
  Relu: [mergeClip],
  Min: [minToClip],
  Max: [maxToRelu],
  Div: [divToMul],
  Sub: [subToAdd],
  Gemm: [unitGemm],
  Conv: [padIntoConv],
};

function globalAveragePool(rewriter: Rewriter, node: Node, context: PassContext): boolean {
  const type = context.types().get(node.inputs[0]!);
  if (type?.shape?.length !== 4 || type.elemType !== DataType.FLOAT || attrInt(node, 'keepdims', 1) !== 1) return false;
  const listed = node.inputs[1] ? rewriter.constant(node.inputs[1]) : undefined;
  if (node.inputs[1] && !listed) return false;
  const axes = (listed ? intData(listed) : attrInts(node, 'axes', [])).map((axis) => (axis < 0 ? axis + 4 : axis)).sort();
  if (axes.length !== 2 || axes[0] !== 2 || axes[1] !== 3) return false;
  rewriter.truncateInputs(node, 1);
  become(node, 'GlobalAveragePool');
  return true;
}

function become(node: Node, opType: string): void {
  node.opType = opType;
  node.attributes = new Map();
}

interface Bounds {
  low: number;
  high: number;
}
/** The interval that a node clips its first input to; null where it isn't a clip or its bounds aren't constant float32 scalars. */
function boundsOf(rewriter: Rewriter, node: Node): Bounds | null {
  if (node.domain !== '') return null;
  if (node.opType === 'Relu') return { low: 0, high: Number.POSITIVE_INFINITY };
  if (node.opType !== 'Clip') return null;
  const bound = (i: number, fallback: number) => {
    const name = node.inputs[i] ?? '';
    if (name === '') return fallback;
    const tensor = rewriter.constant(name);
    return tensor?.dataType === DataType.FLOAT ? scalarValue(tensor) : undefined;
  };
  const [low, high] = [bound(1, Number.NEGATIVE_INFINITY), bound(2, Number.POSITIVE_INFINITY)];
  return low === undefined || high === undefined ? null : { low, high };
}

function clipToRelu(rewriter: Rewriter, node: Node): boolean {
  const bounds = boundsOf(rewriter, node);
  if (bounds?.low !== 0 || bounds.high < UNBOUNDED) return false;
  rewriter.truncateInputs(node, 1);
  become(node, 'Relu');
  return true;
}

/** Clip or Relu right after another one that only it sees. */
function mergeClip(rewriter: Rewriter, node: Node): boolean {
  const middle = node.inputs[0]!;
  const before = rewriter.producer(middle);
  if (!before || rewriter.onlyUser(middle) !== node) return false;
  const [inner, outer] = [boundsOf(rewriter, before), boundsOf(rewriter, node)];
  // min(max(min(max(x, a), b), c), d) is one clip where the intervals meet.
  if (!inner || !outer || outer.low > inner.high || outer.high < inner.low || inner.low > inner.high || outer.low > outer.high)
    return false;
  const source = before.inputs[0]!;
  rewriter.setInput(node, 0, source);
  rewriter.remove(before);
  setBounds(rewriter, node, { low: Math.max(inner.low, outer.low), high: Math.min(inner.high, outer.high) });
  return true;
}

function setBounds(rewriter: Rewriter, node: Node, bounds: Bounds): void {
  rewriter.truncateInputs(node, 1);
  if (bounds.low === 0 && bounds.high >= UNBOUNDED) {
    become(node, 'Relu');
    return;
  }
  become(node, 'Clip');
  for (const [i, value] of [bounds.low, bounds.high].entries()) {
    if (Math.abs(value) >= UNBOUNDED) continue;
    const name = rewriter.freshName(`${node.name}/${i === 0 ? 'min' : 'max'}`);
    rewriter.setConstant(floatTensor(name, [value], []));
    rewriter.setInput(node, i + 1, name);
  }
}

/** For a node of two inputs: the constant float32 scalar among them, and the other one; null where there is none. */
function scalarAndData(rewriter: Rewriter, node: Node): { value: number; data: string } | null {
  if (node.inputs.length !== 2) return null;
  for (const side of [1, 0]) {
    const tensor = rewriter.constant(node.inputs[side]!);
    const data = node.inputs[1 - side]!;
    if (tensor?.dataType !== DataType.FLOAT || tensor.dims.length !== 0 || rewriter.constant(data)) continue;
    return { value: scalarValue(tensor)!, data };
  }
  return null;
}

function minToClip(rewriter: Rewriter, node: Node): boolean {
  const parts = scalarAndData(rewriter, node);
  const before = parts && rewriter.producer(parts.data);
  if (!parts || !before || rewriter.onlyUser(parts.data) !== node) return false;
  const inner = boundsOf(rewriter, before);
  if (!inner || parts.value < inner.low) return false;
  rewriter.setInput(node, 0, before.inputs[0]!);
  rewriter.remove(before);
  setBounds(rewriter, node, { low: inner.low, high: Math.min(inner.high, parts.value) });
  return true;
}

function maxToRelu(rewriter: Rewriter, node: Node): boolean {
  const parts = scalarAndData(rewriter, node);
  if (parts?.value !== 0) return false;
  rewriter.setInput(node, 0, parts.data);
  rewriter.truncateInputs(node, 1);
  become(node, 'Relu');
  return true;
}

/** Where the runtime looks for this very spelling: Gelu divides by √2 before Erf, attention by √d after MatMul. */
function isMatched(rewriter: Rewriter, node: Node): boolean {
  if (rewriter.producer(node.inputs[0]!)?.opType === 'MatMul') return true;
  return rewriter.consumers(node.outputs[0]!).some((user) => user.opType === 'Erf');
}

function divToMul(rewriter: Rewriter, node: Node): boolean {
  const divisor = constantFloat(rewriter, node.inputs[1]!);
  if (!divisor || rewriter.constant(node.inputs[0]!) || isMatched(rewriter, node)) return false;
  const reciprocals = Float32Array.from(floatData(divisor), (value) => 1 / value);
  // A subnormal or infinite reciprocal would cost precision.
  if (!reciprocals.every((value) => Number.isFinite(value) && Math.abs(value) > 1e-30)) return false;
  rewriter.replaceConstant(node, 1, floatTensor('', reciprocals, divisor.dims), 'reciprocal');
  become(node, 'Mul');
  return true;
}

function subToAdd(rewriter: Rewriter, node: Node): boolean {
  const subtrahend = constantFloat(rewriter, node.inputs[1]!);
  if (!subtrahend || rewriter.constant(node.inputs[0]!) || isMatched(rewriter, node)) return false;
  const negated = floatData(subtrahend).map((value) => -value);
  rewriter.replaceConstant(node, 1, floatTensor('', negated, subtrahend.dims), 'negative');
  become(node, 'Add');
  return true;
}

function constantFloat(rewriter: Rewriter, name: string): Tensor | null {
  const tensor = rewriter.constant(name);
  return tensor?.dataType === DataType.FLOAT && elementCount(tensor.dims) <= 65_536 ? tensor : null;
}

function unitGemm(rewriter: Rewriter, node: Node): boolean {
  const alpha = attrFloat(node, 'alpha', 1);
  const beta = attrFloat(node, 'beta', 1);
  if (alpha === 1 && (beta === 1 || !node.inputs[2])) return false;
  const linear = linearOf(rewriter, node);
  if (!linear) return false;
  return rewriteLinear(rewriter, linear, scaledWeights(linear, null, null), linear.bias);
}

function padIntoConv(rewriter: Rewriter, node: Node): boolean {
  const padded = node.inputs[0]!;
  const pad = rewriter.producer(padded);
  if (pad?.opType !== 'Pad' || pad.domain !== '' || rewriter.onlyUser(padded) !== node) return false;
  if (attrString(pad, 'mode', 'constant') !== 'constant' || pad.inputs[3]) return false;
  const amounts = rewriter.constant(pad.inputs[1] ?? '');
  const filler = rewriter.constant(pad.inputs[2] ?? '');
  if (!amounts || (pad.inputs[2] && (!filler || scalarValue(filler) !== 0))) return false;
  const pads = intData(amounts);
  const rank = pads.length / 2;
  const weight = rewriter.constant(node.inputs[1]!);
  if (weight?.dims.length !== rank || pads.some((amount) => amount < 0)) return false;
  if (pads[0] !== 0 || pads[1] !== 0 || pads[rank] !== 0 || pads[rank + 1] !== 0) return false;
  const auto = attrString(node, 'auto_pad', 'NOTSET');
  if (auto !== 'NOTSET' && auto !== 'VALID') return false;
  const spatial = rank - 2;
  const own = auto === 'VALID' ? [] : attrInts(node, 'pads', []);
  const sum = Array.from({ length: 2 * spatial }, (_, i) => (own[i] ?? 0) + pads[i < spatial ? i + 2 : i + 4]!);
  node.attributes.delete('auto_pad');
  node.attributes.set('pads', { name: 'pads', kind: 'ints', value: sum.map(BigInt) });
  rewriter.setInput(node, 0, pad.inputs[0]!);
  rewriter.remove(pad);
  return true;
}
