import type { ResolvedRecipe } from '../../domain/recipe.ts';
import { attrInt, cloneModel, floatScalar, intAttr, makeNode, NamePool } from '../../onnx/graph.ts';
import { DataType, type Graph, type Model, type Node, type Tensor } from '../../onnx/model.ts';
import { byteLengthOf, elementCount, floatData, floatTensor, isFiniteTensor, makeTensor } from '../../onnx/tensor.ts';
import { isExcluded } from '../plan/plan.ts';
import { along, roundWeight, weightScales } from '../transform/weights.ts';
import { balancedRound } from './balanced-rounding.ts';
import { eachScope, removeDeadEverywhere, type Scope, usesIn } from './scope.ts';

/** Smaller tensors aren't worth two nodes. */
const LEAST_ELEMENTS = 1024;
/** Weights of fewer elements a channel stay float32: depthwise kernels are the most sensitive weights of a network and the least part of its file. */
const LEAST_PER_CHANNEL = 32;

/** Which input of an operator is a weight, and along which axis its channels lie: a weight seen as [channels, rest] or along one axis. */
function weightAxis(node: Node, input: number, dims: number[]): number | null {
  if (node.domain !== '') return null;
  switch (node.opType) {
    case 'Conv':
      return input === 1 ? 0 : null;
    case 'ConvTranspose':
      return input === 1 ? 1 : null;
    case 'Gemm':
      return input === 1 && dims.length === 2 ? (attrInt(node, 'transB', 0) !== 0 ? 0 : 1) : null;
    case 'MatMul':
      // [K, N] on the right, [M, K] on the left.
      return dims.length >= 2 ? dims.length - (input === 1 ? 1 : 2) : null;
    case 'Gather':
      return input === 0 && dims.length === 2 && attrInt(node, 'axis', 0) === 0 ? 0 : null;
    // [directions, gates · hidden, inputs]: channels along the second axis (one scale serves both directions).
    case 'LSTM':
    case 'GRU':
    case 'RNN':
      return (input === 1 || input === 2) && dims.length === 3 ? 1 : null;
    default:
      return null;
  }
}

export interface StoredWeight {
  scope: Scope;
  tensor: Tensor;
  axis: number;
  users: Node[];
}

/** Float32 constants that are used as weights and nothing else, each with the axis of its channels. */
export function storableWeights(graph: Graph, names: NamePool): StoredWeight[] {
  const found: StoredWeight[] = [];
  eachScope(graph, names, (scope) => {
    for (const tensor of scope.view.graph.initializers.values()) {
      if (tensor.dataType !== DataType.FLOAT || tensor.dims.length < 2) continue;
      if (elementCount(tensor.dims) < LEAST_ELEMENTS) continue;
      if (scope.constant(tensor.name)?.holder !== scope) continue;
      const uses = usesIn(scope, tensor.name);
      const axes = uses.map(({ node, input }) => (node ? weightAxis(node, input, tensor.dims) : null));
      if (axes.length === 0 || axes.includes(null)) continue;
      if (elementCount(tensor.dims) / tensor.dims[axes[0]!]! < LEAST_PER_CHANNEL) continue;
      if (!isFiniteTensor(tensor)) continue;
      found.push({ scope, tensor, axis: axes[0]!, users: uses.map(({ node }) => node!) });
    }
  });
  return found;
}

/**
 * A weight as int8 and its scales, which the runtime turns back into float32 when it loads the model: W = Cast(W_q) · s.
 * Full float speed at a quarter of the file (runtime.md, rule 10); a DequantizeLinear in that place would run each time.
 * The value keeps its name, so no user of it changes. Convolutions' weights are rounded so that their
 * errors cancel (balanced-rounding.ts). Symmetric, whatever the recipe says: a zero point would cost one more node.
 * Returns the bytes saved, 0 with nothing done where there are none.
 */
export function storeAsInt8(weight: StoredWeight, recipe: ResolvedRecipe): number {
  const { scope, tensor, axis } = weight;
  const { view } = scope;
  const channelAxis = recipe.weights.granularity === 'tensor' ? null : axis;
  const source = floatData(tensor);
  const { length } = along(tensor.dims, channelAxis);
  const saved = 3 * source.length - 4 * length - 300;
  if (saved < source.length) return 0;
  const grid = weightScales(source, tensor.dims, channelAxis, { ...recipe.weights, type: 'int8', symmetric: true });
  const isConv = channelAxis === 0 && weight.users.every((user) => user.opType === 'Conv');
  const data = isConv
    ? balancedRound(source, tensor.dims[0]!, elementCount(tensor.dims.slice(2)), grid.scales)
    : roundWeight(source, tensor.dims, channelAxis, 'int8', grid).data;
  view.graph.initializers.delete(tensor.name);
  const codes = view.addInitializer(makeTensor(view.freshName(`${tensor.name}/int8`), DataType.INT8, tensor.dims, data));
  const scale = view.freshName(`${tensor.name}/scale`);
  view.addInitializer(
    channelAxis === null
      ? floatScalar(scale, grid.scales[0]!)
      : floatTensor(
          scale,
          grid.scales,
          tensor.dims.map((dim, i) => (i === channelAxis ? dim : 1)),
        ),
  );
  const asFloat = view.freshName(`${tensor.name}/float`);
  const attributes = [intAttr('to', DataType.FLOAT)];
  view.addNode(makeNode('Cast', [codes], [asFloat], { name: view.freshName(`${tensor.name}/Cast`), attributes }));
  view.addNode(makeNode('Mul', [asFloat, scale], [tensor.name], { name: view.freshName(`${tensor.name}/Mul`) }));
  return saved;
}

/**
 * A copy of a model with the weights that it holds in float32 stored as int8, but those that the recipe excludes; `only`: those
 * of these names. `bytes`: of all its tensors before; `names`: of the weights that were stored.
 */
export function storeFloatWeights(
  model: Model,
  recipe: ResolvedRecipe,
  only?: ReadonlySet<string>,
): { model: Model; saved: number; bytes: number; names: string[] } {
  const copy = cloneModel(model);
  let bytes = 0;
  for (const tensor of copy.graph.initializers.values()) bytes += byteLengthOf(tensor.dataType, elementCount(tensor.dims));
  let saved = 0;
  const names: string[] = [];
  for (const weight of storableWeights(copy.graph, new NamePool(copy.graph))) {
    if (only && !only.has(weight.tensor.name)) continue;
    if (weight.users.some((user) => isExcluded(recipe, user.name, user.opType))) continue;
    const less = storeAsInt8(weight, recipe);
    saved += less;
    if (less > 0) names.push(weight.tensor.name);
  }
  removeDeadEverywhere(copy.graph);
  return { model: copy, saved, bytes, names };
}
