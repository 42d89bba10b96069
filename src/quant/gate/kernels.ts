import type { ProfiledNode } from '../../domain/runner.ts';
import type { Quantization } from '../emit/emit.ts';
import { originalName } from '../measure/measure.ts';

/** Names of kernels that compute on integers and have no operator of the same name for floats. */
const INTEGER_KERNEL = /^(QLinear|QGemm|MatMulInteger|ConvInteger|DynamicQuantize|QAttention)/;

/** Unit → the kernel that the profile shows under the name of one of its nodes or values. */
function kernelsOf(quantization: Quantization, nodes: ProfiledNode[]): Map<number, string[]> {
  const owner = new Map<string, number>();
  for (const unit of quantization.units) for (const value of unit.nodes.flatMap((n) => n.outputs)) if (value) owner.set(value, unit.id);
  for (const unit of quantization.units) for (const node of unit.nodes) owner.set(node.name, unit.id);
  const kernels = new Map<number, string[]>();
  for (const node of nodes) {
    const id = owner.get(originalName(node.name, owner));
    if (id !== undefined) kernels.set(id, [...(kernels.get(id) ?? []), node.operator]);
  }
  return kernels;
}

/** Units whose own node the profile shows in an integer kernel, or, for those that only move data, that are planned so. */
export function integerUnits(quantization: Quantization, nodes: ProfiledNode[]): string[] {
  const kernels = kernelsOf(quantization, nodes);
  return quantization.units
    .filter((unit) => {
      if (!quantization.quantized.has(unit.id)) return false;
      return unit.row!.moves || (kernels.get(unit.id) ?? []).some((kernel) => INTEGER_KERNEL.test(kernel));
    })
    .map((unit) => unit.name);
}

/** Units that the plan left in float and the runtime quantized by itself: each is a fault of the guard. */
export function selfQuantized(quantization: Quantization, nodes: ProfiledNode[]): string[] {
  const kernels = kernelsOf(quantization, nodes);
  return quantization.units
    .filter((unit) => !quantization.quantized.has(unit.id) && (kernels.get(unit.id) ?? []).some((kernel) => INTEGER_KERNEL.test(kernel)))
    .map((unit) => unit.name);
}
