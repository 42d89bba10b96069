import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { attrFloat, attrInt, floatScalar, intAttr, makeNode } from '../../onnx/graph.ts';
import { type Attribute, DataType, type Node, type Tensor } from '../../onnx/model.ts';
import { floatData, floatTensor, makeTensor } from '../../onnx/tensor.ts';
import { quantizeColumns, transpose } from './columns.ts';
import type { Scope } from './scope.ts';

/** What DynamicQuantizeLinear made of a value: codes, scale, zero point. */
type Quantized = [codes: string, scale: string, zeroPoint: string];

/** Values of one graph that are quantized already, so that layers which share an input share its quantization. */
export type SharedInputs = Map<string, Quantized>;
/** Names of a quantized weight: codes, scale, zero point ('' where that is zero). */
type QuantizedNames = [codes: string, scale: string, zeroPoint: string];
/** Weights that are quantized already, by the form they took: one that several layers use is stored once. */
export type SharedWeights = Map<Tensor, Map<string, QuantizedNames>>;

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
  shared: { inputs: SharedInputs; weights: SharedWeights },
): void {
  const { view } = scope;
  const isGemm = node.opType === 'Gemm';
  const [codes, scale, zeroPoint] = quantizeWeight(scope, node, weights, avoidSaturation, shared.weights);
  const [x, xScale, xZero] = quantizeInput(scope, node.inputs[0]!, shared.inputs);
  view.removeNode(node);
  const bias = isGemm ? (node.inputs[2] ?? '') : '';
  const sums = step(scope, node, 'MatMulInteger', zeroPoint ? [x, codes, xZero, zeroPoint] : [x, codes, xZero]);
  const sumsFloat = step(scope, node, 'Cast', [sums], undefined, [intAttr('to', DataType.FLOAT)]);
  const scales = step(scope, node, 'Mul', [xScale, scale]);
  const product = step(scope, node, 'Mul', [sumsFloat, scales], bias ? undefined : node.outputs[0]!);
  if (bias) step(scope, node, 'Add', [product, scaledBias(scope, node, bias)], node.outputs[0]!);
}

/** Puts a layer's weight in integers beside the float one, in the graph that holds it. */
function quantizeWeight(
  scope: Scope,
  node: Node,
  weights: ResolvedRecipe['weights'],
  avoidSaturation: boolean,
  shared: SharedWeights,
): QuantizedNames {
  const { tensor, holder } = scope.constant(node.inputs[1]!)!;
  const isGemm = node.opType === 'Gemm';
  const transposed = isGemm && attrInt(node, 'transB', 0) !== 0;
  const alpha = isGemm ? attrFloat(node, 'alpha', 1) : 1;
  const forms = shared.get(tensor) ?? new Map<string, QuantizedNames>();
  shared.set(tensor, forms);
  const known = forms.get(`${transposed} ${alpha}`);
  if (known) return known;

  const [first, second] = [tensor.dims[0]!, tensor.dims[1]!];
  const [rows, columns] = transposed ? [second, first] : [first, second];
  let matrix = transposed ? transpose(floatData(tensor), first, second) : floatData(tensor);
  if (alpha !== 1) matrix = matrix.map((value) => value * alpha);
  const quantized = quantizeColumns(matrix, rows, columns, weights, avoidSaturation);
  const type = weights.type === 'int8' ? DataType.INT8 : DataType.UINT8;
  const add = (suffix: string, make: (name: string) => Tensor) =>
    holder.view.addInitializer(make(holder.view.freshName(`${tensor.name}/${suffix}`)));
  const perColumn = quantized.axis === null ? [] : [columns];
  const names: QuantizedNames = [
    add('quantized', (name) => makeTensor(name, type, quantized.dims, quantized.data)),
    add('scale', (name) => floatTensor(name, quantized.scales, perColumn)),
    quantized.zeroPoints.every((zero) => zero === 0)
      ? ''
      : add('zero_point', (name) =>
          makeTensor(
            name,
            type,
            perColumn,
            weights.type === 'int8' ? Int8Array.from(quantized.zeroPoints) : Uint8Array.from(quantized.zeroPoints),
          ),
        ),
  ];
  forms.set(`${transposed} ${alpha}`, names);
  return names;
}

/**
 * MatMul of two activations: both are quantized at run time, y = Cast(MatMulInteger(a_q, b_q, z_a, z_b)) · (s_a · s_b).
 * uint8 times uint8, so nothing saturates anywhere.
 */
export function dynamicProduct(scope: Scope, node: Node, shared: SharedInputs): void {
  const { view } = scope;
  const [a, aScale, aZero] = quantizeInput(scope, node.inputs[0]!, shared);
  const [b, bScale, bZero] = quantizeInput(scope, node.inputs[1]!, shared);
  view.removeNode(node);
  const sums = step(scope, node, 'MatMulInteger', [a, b, aZero, bZero]);
  const sumsFloat = step(scope, node, 'Cast', [sums], undefined, [intAttr('to', DataType.FLOAT)]);
  step(scope, node, 'Mul', [sumsFloat, step(scope, node, 'Mul', [aScale, bScale])], node.outputs[0]!);
}

/** Adds one operator of those that stand for `node`; returns what it makes. */
function step(scope: Scope, node: Node, opType: string, inputs: string[], output?: string, attributes: Attribute[] = []): string {
  const { view } = scope;
  const value = output ?? view.freshName(`${node.outputs[0]}/${opType}`);
  view.addNode(makeNode(opType, inputs, [value], { attributes, name: view.freshName(`${node.name}/${opType}`) }));
  return value;
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

function scaledBias(scope: Scope, node: Node, bias: string): string {
  const { view } = scope;
  const beta = attrFloat(node, 'beta', 1);
  if (beta === 1) return bias;
  const constant = scope.constant(bias);
  if (!constant) return step(scope, node, 'Mul', [bias, view.addInitializer(floatScalar(view.freshName(`${node.name}/beta`), beta))]);
  const values = floatData(constant.tensor).map((value) => value * beta);
  return view.addInitializer(floatTensor(view.freshName(`${bias}/beta`), values, constant.tensor.dims));
}
