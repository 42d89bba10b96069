/** The method `dynamic`: integers where they pay without calibration data, activation ranges computed at run time. */
import { HalftoneError } from '../../domain/errors.ts';
import type { LayerNote } from '../../domain/job.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { cloneModel, NamePool } from '../../onnx/graph.ts';
import { DataType, type Model, type Node, type TensorType } from '../../onnx/model.ts';
import { isFiniteTensor } from '../../onnx/tensor.ts';
import { isExcluded } from '../plan/plan.ts';
import { dynamicLstm, lstmObstacle } from './lstm.ts';
import { dynamicMatMul, dynamicProduct, type SharedInputs, type SharedWeights } from './matmul.ts';
import { eachScope, removeDeadEverywhere, type Scope } from './scope.ts';
import { storableWeights, storeAsInt8 } from './stored-weights.ts';

export interface DynamicContext {
  /** Types of all values, with the sizes that the model will be run at where they are known. */
  shapes: ReadonlyMap<string, TensorType>;
  /** Whether the file may meet an x86 processor without VNNI. */
  avoidSaturation?: boolean;
  /** Measured: dynamic int8 time ÷ float time of a layer; undefined where it wasn't measured. */
  costs?: (node: Node) => number | undefined;
}

export interface DynamicResult {
  model: Model;
  /** Nodes that run in integers. */
  quantized: string[];
  leftInFloat: LayerNote[];
  notes: string[];
}

/**
 * From these sizes on the integer product wins over float with VNNI, the quantization of its input included (one thread,
 * float ÷ int8 at M·K·N: 1×256×256 1.14, 16×128×128 1.11, 64×64×64 1.02, 64×128×128 1.5, 1×128×128 0.92, 16×64×64 0.92).
 */
const PAYING_MATRIX = 65_536;
const PAYING_PRODUCT = 1 << 19;
/**
 * A product of two activations quantizes both at each run, which pays only where rows, columns and depth are all large
 * (batch × M × K × N, int8 ÷ float: 8×256×512×256 0.69, 8×128×128×128 0.81; attention's own shapes gain nothing:
 * 12×512×64×512 0.87 and then 12×512×512×64 1.19, 4×192×32×192 1.05).
 */
const PAYING_SIDE = 128;

/** Operators that a user may expect among the quantized ones, so that the report says of each why it is not. */
const EXPECTED = new Set(['MatMul', 'Gemm', 'Conv', 'ConvTranspose', 'LSTM', 'GRU', 'RNN']);

/**
 * Dynamic quantization of a prepared model; the one that comes in is not changed.
 * 1. MatMul and Gemm by a constant matrix, and LSTM, run in integers where that pays: by measurement where there is one, else
 *    by the sizes above; in subgraphs as well. A MatMul of two activations, as in attention, does where it is large on all sides.
 *    Convolutions stay in float: ConvInteger is 5 to 11 times slower than float. GRU and RNN have no integer kernel.
 * 2. The weights of all other layers, and the tables of embeddings, are stored as int8 and become float32 when the model is
 *    loaded: a quarter of the file at float's speed. Where nothing pays, this is all, and a note says so.
 * 3. What the recipe excludes keeps float weights.
 * 4. Weights follow the recipe (type, granularity, symmetry); activations are uint8 with a zero point, there is no other form.
 * Errors: recipe-unsupported; nothing-to-quantize, where there is neither a layer to run nor a weight to store in integers.
 */
export function quantizeDynamic(model: Model, recipe: ResolvedRecipe, context: DynamicContext): DynamicResult {
  if (recipe.activations.type !== 'uint8' || recipe.activations.symmetric) {
    throw new HalftoneError(
      'recipe-unsupported',
      'dynamic activations are uint8 with a zero point (DynamicQuantizeLinear knows no other); leave `activations` out',
    );
  }
  if (recipe.weights.granularity === 'block') {
    throw new HalftoneError('recipe-unsupported', 'granularity block belongs to weight-only recipes; use channel or tensor');
  }
  const copy = cloneModel(model);
  const names = new NamePool(copy.graph);
  const quantized: string[] = [];
  const leftInFloat: LayerNote[] = [];
  const notes: string[] = [];
  const avoidSaturation = context.avoidSaturation ?? false;
  const excluded = (node: Node) => isExcluded(recipe, node.name, node.opType);

  const weights: SharedWeights = new Map();
  eachScope(copy.graph, names, (scope) => {
    const inputs: SharedInputs = new Map();
    for (const node of [...scope.view.graph.nodes]) {
      if (node.domain !== '' || !EXPECTED.has(node.opType)) continue;
      const obstacle = excluded(node) ? { reason: 'excluded-by-recipe' } : obstacleTo(scope, node, context);
      if (obstacle) {
        leftInFloat.push({ node: node.name, operator: node.opType, ...obstacle });
      } else {
        if (node.opType === 'LSTM') {
          dynamicLstm(scope, node, recipe.weights, avoidSaturation);
          copy.opsets.set('com.microsoft', copy.opsets.get('com.microsoft') ?? 1);
        } else if (!scope.constant(node.inputs[1]!)) dynamicProduct(scope, node, inputs);
        else dynamicMatMul(scope, node, recipe.weights, avoidSaturation, { inputs, weights });
        quantized.push(node.name);
      }
    }
    scope.view.sort();
  });
  removeDeadEverywhere(copy.graph);

  let [stored, saved] = [0, 0];
  for (const weight of storableWeights(copy.graph, names)) {
    if (weight.users.some(excluded)) continue;
    const bytes = storeAsInt8(weight, recipe);
    saved += bytes;
    if (bytes > 0) stored++;
  }
  removeDeadEverywhere(copy.graph);
  if (stored > 0) {
    notes.push(
      `${stored} weights of layers that run in float are stored as int8 and become float32 when the model is loaded: the file is ${(saved / 1e6).toFixed(2)} MB smaller, those layers are neither faster nor slower`,
    );
  }
  if (quantized.length === 0 && stored === 0) {
    const operators = [...new Set(model.graph.nodes.map((node) => node.opType))].slice(0, 12).join(', ');
    throw new HalftoneError(
      'nothing-to-quantize',
      `no layer with weights worth storing as integers is left; the model has ${operators || 'no operators'}`,
    );
  }
  if (quantized.length === 0)
    notes.push('no layer of this model is faster with dynamic quantization on this processor: the result is smaller, not faster');
  return { model: copy, quantized, leftInFloat, notes };
}

/** Why a layer stays in float; null where it is to run in integers. */
function obstacleTo(scope: Scope, node: Node, context: DynamicContext): { reason: string; detail?: string } | null {
  if (node.opType === 'Conv' || node.opType === 'ConvTranspose') {
    return {
      reason: 'no-integer-kernel',
      detail: 'dynamic convolutions run 5 to 11 times slower than float; static quantization has a fast kernel',
    };
  }
  if (node.opType === 'GRU' || node.opType === 'RNN')
    return { reason: 'no-integer-kernel', detail: `the runtime has no quantized ${node.opType}` };
  const cost = context.costs?.(node);
  const slower = cost !== undefined && cost >= 1 ? slowerThan(cost) : null;
  if (node.opType === 'LSTM') {
    const obstacle = lstmObstacle(scope, node);
    return obstacle ? { reason: 'kernel-condition', detail: obstacle } : slower;
  }
  const tensor = scope.constant(node.inputs[1]!)?.tensor;
  if (!tensor) return obstacleToProduct(node, scope.constant(node.inputs[0]!) !== undefined, context, cost);
  if (tensor.dataType !== DataType.FLOAT || tensor.dims.length !== 2)
    return { reason: 'kernel-condition', detail: 'its weights are not a float32 matrix' };
  if (!isFiniteTensor(tensor)) return { reason: 'not-finite', detail: `its constant ${tensor.name} holds NaN or Inf` };
  if (node.opType === 'Gemm' && transposesInput(node)) return { reason: 'kernel-condition', detail: 'transA is set' };
  const shape = context.shapes.get(node.inputs[0]!)?.shape;
  if (shape?.length === 1) return { reason: 'kernel-condition', detail: 'its input is a vector' };
  if (cost !== undefined) return slower;
  const [a, b] = [tensor.dims[0]!, tensor.dims[1]!];
  const leading = shape?.slice(0, -1);
  const rows = leading?.every((dim) => typeof dim === 'number')
    ? leading.reduce<number>((product, dim) => product * (dim as number), 1)
    : 1;
  if (a * b >= PAYING_MATRIX || rows * a * b >= PAYING_PRODUCT) return null;
  return { reason: 'too-small', detail: `${rows} × ${a} × ${b}: quantizing the input costs more than the product gains` };
}

const slowerThan = (cost: number) => ({ reason: 'slower-on-profile', detail: `${cost.toFixed(2)} times float’s time` });

function obstacleToProduct(
  node: Node,
  constantLeft: boolean,
  context: DynamicContext,
  cost: number | undefined,
): { reason: string; detail?: string } | null {
  const detail = 'a product of two activations, both of which would be quantized at each run';
  if (node.opType !== 'MatMul' || constantLeft) return { reason: 'no-constant-weights', detail };
  const [a, b] = [context.shapes.get(node.inputs[0]!), context.shapes.get(node.inputs[1]!)];
  if (a?.elemType !== DataType.FLOAT || b?.elemType !== DataType.FLOAT)
    return { reason: 'kernel-condition', detail: 'its inputs are not float32' };
  if (cost !== undefined) return cost < 1 ? null : slowerThan(cost);
  const sides = [a.shape?.at(-2), a.shape?.at(-1), b.shape?.at(-1)];
  if (sides.every((side) => typeof side === 'number' && side >= PAYING_SIDE) && (b.shape?.length ?? 0) >= 2) return null;
  return { reason: 'too-small', detail };
}

function transposesInput(node: Node): boolean {
  const attribute = node.attributes.get('transA');
  return attribute?.kind === 'int' && attribute.value !== 0n;
}
