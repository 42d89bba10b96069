import type { ProfiledNode } from '../../domain/runner.ts';
import type { Quantization } from '../emit/emit.ts';
import { originalName } from '../measure/measure.ts';

/** Names of kernels that compute on integers and have no operator of the same name for floats. */
const INTEGER_KERNEL = /^(QLinear|QGemm|MatMulInteger|ConvInteger|DynamicQuantize|QAttention)/;

/** Units whose own node the profile shows in an integer kernel, or, for those that only move data, that are planned so. */
export function integerUnits(quantization: Quantization, nodes: ProfiledNode[]): string[] {
  const ran = new Map(nodes.map((n) => [originalName(n.name), n.operator]));
  return quantization.units
    .filter((unit) => {
      if (!quantization.quantized.has(unit.id)) return false;
      const kernel = unit.nodes.map((n) => ran.get(n.name)).find((k) => k !== undefined);
      return kernel === undefined || unit.row!.moves || INTEGER_KERNEL.test(kernel);
    })
    .map((unit) => unit.name);
}

/** Units that the plan left in float and the runtime quantized by itself: each is a fault of the guard. */
export function selfQuantized(quantization: Quantization, nodes: ProfiledNode[]): string[] {
  const ran = new Map(nodes.map((n) => [originalName(n.name), n.operator]));
  return quantization.units
    .filter((unit) => !quantization.quantized.has(unit.id) && unit.nodes.some((n) => INTEGER_KERNEL.test(ran.get(n.name) ?? '')))
    .map((unit) => unit.name);
}
