/** The method `float16`. */
import { HalftoneError } from '../../domain/errors.ts';
import type { LayerNote } from '../../domain/job.ts';
import type { ResolvedRecipe } from '../../domain/recipe.ts';
import type { Model, Node } from '../../onnx/model.ts';
import { isExcluded } from '../plan/plan.ts';
import { computeInFloat16 } from './graph.ts';
import { storeAsFloat16 } from './stored.ts';

export interface Float16Context {
  /** `float32`: weights stored in float16, arithmetic in float32. `float16`: the whole graph, for devices with float16 kernels. */
  compute: 'float16' | 'float32';
  /** Observed ranges of values, where there are any. */
  ranges?: ReadonlyMap<string, { min: number; max: number }>;
  /** Layers that keep float32. */
  exclude?: ResolvedRecipe['exclude'];
}

/**
 * A prepared model in float16; the one that comes in is not changed. Inputs and outputs keep names and types.
 * Errors: nothing-to-quantize, where nothing of it can be float16.
 */
export function toFloat16(
  model: Model,
  context: Float16Context,
): { model: Model; converted: string[]; leftInFloat: LayerNote[]; notes: string[] } {
  const { exclude } = context;
  const excluded = (node: Node) => exclude !== undefined && isExcluded({ exclude }, node.name, node.opType);
  const made =
    context.compute === 'float16' ? computeInFloat16(model, context.ranges ?? new Map(), excluded) : storeAsFloat16(model, excluded);
  if (made.converted.length === 0) {
    const kept = made.leftInFloat.length > 0 ? `; ${made.leftInFloat.length} layers stay in float32` : '';
    const operators = [...new Set(model.graph.nodes.map((node) => node.opType))].slice(0, 12).join(', ');
    throw new HalftoneError(
      'nothing-to-quantize',
      `the model has no float32 weights worth storing in float16 (256 elements or more)${kept}; it has ${operators || 'no operators'}`,
    );
  }
  const notes = [
    context.compute === 'float16'
      ? `${made.converted.length} nodes compute in float16`
      : 'weights are stored in float16 and become float32 when the model is loaded: half the file at the same speed, this processor has no float16 kernels',
  ];
  if (made.flushed > 0) notes.push(`${made.flushed} weights are too small for float16 and became zero`);
  return { model: made.model, converted: made.converted, leftInFloat: made.leftInFloat, notes };
}
