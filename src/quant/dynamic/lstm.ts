import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { attrInt, makeNode } from '../../onnx/graph.ts';
import { DataType, type Node, type Tensor } from '../../onnx/model.ts';
import { floatData, floatTensor, isFiniteTensor, makeTensor } from '../../onnx/tensor.ts';
import { quantizeColumns, transpose } from './columns.ts';
import type { Scope } from './scope.ts';

/** Below this hidden size the float kernel wins (runtime.md, section 5: 0.7 of its time at 64, 0.3 at 256). */
const LEAST_HIDDEN = 64;

/** Why an LSTM can't run as com.microsoft.DynamicQuantizeLSTM; null where it can. */
export function lstmObstacle(scope: Scope, node: Node): string | null {
  if (attrInt(node, 'layout', 0) !== 0) return 'the runtime’s quantized LSTM takes layout 0 only';
  for (const input of [1, 2]) {
    const constant = scope.constant(node.inputs[input] ?? '');
    if (constant?.tensor.dataType !== DataType.FLOAT || constant.tensor.dims.length !== 3) return 'its weights are not constant';
    if (!isFiniteTensor(constant.tensor)) return 'its weights hold NaN or Inf';
  }
  const hidden = scope.constant(node.inputs[2]!)!.tensor.dims[2]!;
  return hidden < LEAST_HIDDEN ? `hidden size ${hidden}: in integers it would be slower below ${LEAST_HIDDEN}` : null;
}

/**
 * LSTM → com.microsoft.DynamicQuantizeLSTM, which quantizes its input and its state at each step.
 * 1. Inputs: X, W, R, B, sequence_lens, initial_h, initial_c, P as they were, then W's scale and zero point, R's scale and
 *    zero point. Attributes stay, but `layout` (always 0 here).
 * 2. W [directions, 4H, I] and R [directions, 4H, H] become int8 with the last two axes swapped.
 * 3. Scales are [directions, 4H], or [directions] with granularity `tensor`; zero points alike (all equal: the kernel insists).
 */
export function dynamicLstm(scope: Scope, node: Node, weights: ResolvedRecipe['weights'], avoidSaturation: boolean): void {
  const { view } = scope;
  // The kernel refuses zero points that differ, so weights are symmetric here whatever the recipe says.
  const symmetric = { ...weights, symmetric: true };
  const parts = [1, 2].map((input) => {
    const name = node.inputs[input]!;
    return quantizeGates(view.freshName(`${name}/quantized`), scope.constant(name)!.tensor, symmetric, avoidSaturation);
  });
  const add = (tensor: Tensor) => view.addInitializer(tensor);
  const inputs = Array.from({ length: 8 }, (_, i) => node.inputs[i] ?? '');
  const [w, r] = [parts[0]!, parts[1]!];
  inputs[1] = add(w.codes);
  inputs[2] = add(r.codes);
  for (const part of [w, r]) {
    inputs.push(
      add({ ...part.scale, name: view.freshName(part.scale.name) }),
      add({ ...part.zeroPoint, name: view.freshName(part.zeroPoint.name) }),
    );
  }
  const attributes = [...node.attributes.values()].filter((attribute) => attribute.name !== 'layout');
  view.removeNode(node);
  view.addNode(makeNode('DynamicQuantizeLSTM', inputs, node.outputs, { name: node.name, domain: 'com.microsoft', attributes }));
}

function quantizeGates(
  name: string,
  tensor: Tensor,
  weights: ResolvedRecipe['weights'],
  avoidSaturation: boolean,
): { codes: Tensor; scale: Tensor; zeroPoint: Tensor } {
  const [directions, gates, inner] = tensor.dims as [number, number, number];
  const source = floatData(tensor);
  const perGate = weights.granularity === 'tensor' ? 1 : gates;
  const isSigned = weights.type === 'int8';
  const codes = isSigned ? new Int8Array(source.length) : new Uint8Array(source.length);
  const scales = new Float32Array(directions * perGate);
  const size = gates * inner;
  for (let d = 0; d < directions; d++) {
    const matrix = transpose(source.subarray(d * size, (d + 1) * size), gates, inner);
    const quantized = quantizeColumns(matrix, inner, gates, weights, avoidSaturation);
    codes.set(quantized.data, d * size);
    scales.set(quantized.scales, d * perGate);
  }
  const dims = perGate === 1 ? [directions] : [directions, gates];
  const zeros = isSigned ? new Int8Array(scales.length) : new Uint8Array(scales.length).fill(128);
  const type = isSigned ? DataType.INT8 : DataType.UINT8;
  return {
    codes: makeTensor(name, type, [directions, inner, gates], codes),
    scale: floatTensor(`${name}_scale`, scales, dims),
    zeroPoint: makeTensor(`${name}_zero_point`, type, dims, zeros),
  };
}
