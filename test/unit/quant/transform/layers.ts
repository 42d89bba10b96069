/** Single layers as units, with integer weights and statistics of data, for the tests of this folder. */
import { resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { ObservedStatistics, TensorValue } from '../../../../src/domain/runner.ts';
import { type Attribute, GraphView } from '../../../../src/onnx/graph.ts';
import type { Model, Tensor } from '../../../../src/onnx/model.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { floatTensor } from '../../../../src/onnx/tensor.ts';
import { observe } from '../../../../src/quant/observe/observe.ts';
import { buildUnits, type Unit } from '../../../../src/quant/plan/units.ts';
import { type QuantizedWeight, roundWeight, unitWeight, weightScales } from '../../../../src/quant/transform/weights.ts';
import { inFolder } from '../emit/quantize.ts';
import { floats, modelOf, node, runner } from '../prepare/graphs.ts';

export interface Layer {
  opType: 'Conv' | 'Gemm' | 'MatMul';
  input: number[];
  weight: number[];
  attributes?: Attribute[];
}

/** y = layer(x, w), its one unit, and the model with other weight values. */
export function layerOf(
  layer: Layer,
  values: ArrayLike<number>,
): { unit: Unit; model: Model; withWeights: (w: ArrayLike<number>) => Model } {
  const build = (w: ArrayLike<number>) => {
    const constants: Tensor[] = [floatTensor('w', w, layer.weight)];
    return modelOf([node(layer.opType, ['x', 'w'], ['y'], { attributes: layer.attributes ?? [] })], { x: layer.input }, ['y'], constants);
  };
  const model = build(values);
  const unit = buildUnits(model, new GraphView(model.graph), inferShapes(model))[0]!;
  return { unit, model, withWeights: build };
}

/** The unit's weight to nearest, one scale an output channel. */
export function nearest(unit: Unit, sevenBits?: ReadonlySet<number>): QuantizedWeight {
  const axis = unit.row!.weight!.axis(unit.nodes[0]!, unit.weight!)!;
  const x = unitWeight(unit);
  const grid = weightScales(x, unit.weight!.dims, axis, resolveRecipe({ method: 'static' }).weights, sevenBits ? { sevenBits } : {});
  return roundWeight(x, unit.weight!.dims, axis, 'int8', grid);
}

/** Statistics of `x` over these runs, as the engine gathers them. */
export async function statisticsOf(
  model: Model,
  runs: Record<string, TensorValue>[],
  channelAxis: number | null,
): Promise<ObservedStatistics> {
  const channelAxes = new Map(channelAxis === null ? [] : [['x', channelAxis]]);
  const { observations } = await inFolder((workDir) => observe(runner, model, ['x'], runs, { threads: 1, channelAxes, workDir }));
  return observations.get('x')!;
}
export const feedsOf = (layer: Layer, runs: ArrayLike<number>[]) => runs.map((values) => ({ x: floats(values, layer.input) }));
