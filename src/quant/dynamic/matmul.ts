import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { attrFloat, attrInt, floatScalar, intAttr, makeNode } from '../../onnx/graph.ts';
import { DataType, type Node } from '../../onnx/model.ts';
import { floatData, floatTensor, makeTensor } from '../../onnx/tensor.ts';
import { quantizeColumns, transpose } from './columns.ts';
import type { Scope } from './scope.ts';

/** What DynamicQuantizeLinear made of a value: codes, scale, zero point. */
type Quantized = [codes: string, scale: string, zeroPoint: string];

/** Values of one graph that are quantized already, so that layers which share an input share its quantization. */
export type SharedInputs = Map<string, Quantized>;

/**
 * MatMul or Gemm by a constant matrix in the form that the runtime fuses into DynamicQuantizeMatMul, or MatMulIntegerToFloat
 * where several share an input (runtime.md, section 5):
 * x_q, s, z = DynamicQuantizeLinear(x); y = Cast(MatMulInteger(x_q, W_q, z)) · (s · s_W) [+ bias].
 * 1. W_q is [K, N]: a Gemm's transB and alpha go into it.
 * 2. s_W is one number a column, or a scalar; W's zero point is an input only where it isn't zero.
 * 3. A Gemm's C becomes an Add; a constant one takes beta in, else a Mul does.
 */
export function dynamicMatMul(
  scope: Scope,
  node: Node,
  weights: ResolvedRecipe['weights'],
  avoidSaturation: boolean,
  shared: SharedInputs,
): void {
  const { view } = scope;
  const isGemm = node.opType === 'Gemm';
  const { tensor } = scope.constant(node.inputs[1]!)!;
  const [first, second] = [tensor.dims[0]!, tensor.dims[1]!];
  const transposed = isGemm && attrInt(node, 'transB', 0) !== 0;
  const [rows, columns] = transposed ? [second, first] : [first, second];
  const alpha = isGemm ? attrFloat(node, 'alpha', 1) : 1;
  let matrix = transposed ? transpose(floatData(tensor), first, second) : floatData(tensor);
  if (alpha !== 1) matrix = matrix.map((value) => value * alpha);
  const quantized = quantizeColumns(matrix, rows, columns, weights, avoidSaturation);

  const weightType = weights.type === 'int8' ? DataType.INT8 : DataType.UINT8;
  const constant = (suffix: string, make: (name: string) => Parameters<typeof view.addInitializer>[0]) =>
    view.addInitializer(make(view.freshName(`${node.inputs[1]}/${suffix}`)));
  const codes = constant('quantized', (name) => makeTensor(name, weightType, quantized.dims, quantized.data));
  const scale = constant('scale', (name) =>
    quantized.axis === null ? floatScalar(name, quantized.scales[0]!) : floatTensor(name, quantized.scales, [columns]),
  );
  const zeroPoint = quantized.zeroPoints.every((zero) => zero === 0)
    ? ''
    : constant('zero_point', (name) => {
        const zeros = weights.type === 'int8' ? Int8Array.from(quantized.zeroPoints) : Uint8Array.from(quantized.zeroPoints);
        return makeTensor(name, weightType, quantized.axis === null ? [] : [columns], zeros);
      });

  const [x, xScale, xZero] = quantizeInput(scope, node.inputs[0]!, shared);
  view.removeNode(node);
  const step = (opType: string, inputs: string[], output?: string, attributes: Parameters<typeof makeNode>[3] = {}): string => {
    const value = output ?? view.freshName(`${node.outputs[0]}/${opType}`);
    view.addNode(makeNode(opType, inputs, [value], { ...attributes, name: view.freshName(`${node.name}/${opType}`) }));
    return value;
  };
  const bias = isGemm ? (node.inputs[2] ?? '') : '';
  const sums = step('MatMulInteger', zeroPoint ? [x, codes, xZero, zeroPoint] : [x, codes, xZero]);
  const sumsFloat = step('Cast', [sums], undefined, { attributes: [intAttr('to', DataType.FLOAT)] });
  const scales = step('Mul', [xScale, scale]);
  const product = step('Mul', [sumsFloat, scales], bias ? undefined : node.outputs[0]!);
  if (bias) step('Add', [product, scaledBias(scope, node, bias, step)], node.outputs[0]!);
}

function quantizeInput(scope: Scope, value: string, shared: SharedInputs): Quantized {
  const known = shared.get(value);
  if (known) return known;
  const { view } = scope;
  const made: Quantized = [view.freshName(`${value}/quantized`), view.freshName(`${value}/scale`), view.freshName(`${value}/zero_point`)];
  view.addNode(makeNode('DynamicQuantizeLinear', [value], made, { name: view.freshName(`${value}/DynamicQuantizeLinear`) }));
  shared.set(value, made);
  return made;
}

function scaledBias(scope: Scope, node: Node, bias: string, step: (opType: string, inputs: string[]) => string): string {
  const { view } = scope;
  const beta = attrFloat(node, 'beta', 1);
  if (beta === 1) return bias;
  const constant = scope.constant(bias);
  if (!constant) return step('Mul', [bias, view.addInitializer(floatScalar(view.freshName(`${node.name}/beta`), beta))]);
  const values = floatData(constant.tensor).map((value) => value * beta);
  return view.addInitializer(floatTensor(view.freshName(`${bias}/beta`), values, constant.tensor.dims));
}
