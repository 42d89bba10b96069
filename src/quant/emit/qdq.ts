import { intAttr } from '../../onnx/graph.ts';
import type { Unit } from '../plan/units.ts';
import type { LayerWriter, NodeWriter } from './layer.ts';

/** A unit in the form that the runtime fuses: DequantizeLinear on every input, QuantizeLinear on every output (runtime.md, 1). */
export function qdqLayer(unit: Unit, layer: LayerWriter, write: NodeWriter): void {
  const anchor = unit.nodes[0]!;
  const inputs = [...anchor.inputs];
  const dequantize = (base: string, from: [string, string, string], axis: number | null): string => {
    const out = layer.name(`${base}_dequantized`);
    write.node('DequantizeLinear', from, [out], axis === null ? [] : [['axis', intAttr('axis', axis)]]);
    return out;
  };
  for (const i of unit.inputs) inputs[i] = dequantize(anchor.inputs[i]!, layer.integer(anchor.inputs[i]!), null);
  for (const i of unit.constants) inputs[i] = dequantize(anchor.inputs[i]!, layer.constant(anchor.inputs[i]!), null);
  let bias: string | null = null;
  if (unit.weight) {
    const at = unit.row!.weight!.input;
    const codes = layer.weight();
    inputs[at] = dequantize(anchor.inputs[at]!, codes, unit.row!.weight!.axis(anchor, unit.weight));
    const b = layer.bias();
    if (b) bias = dequantize(unit.bias ?? `${unit.name}_bias`, b, 0);
    if (bias && unit.row!.bias !== undefined) {
      while (inputs.length < unit.row!.bias) inputs.push('');
      inputs[unit.row!.bias] = bias;
    }
  }
  const outputs = unit.outputs.map((value, i) => {
    if (!value) return '';
    const to = layer.output(i);
    return 'float' in to ? to.float : layer.name(`${value}_float`);
  });
  if (bias && unit.row!.bias === undefined) {
    // MatMul and Add: with the bias as DequantizeLinear of int32 the pair becomes QGemm, with or without a quantized output.
    const product = layer.name(`${unit.name}_product`);
    layer.push({ ...anchor, inputs, outputs: [product] });
    const add = unit.nodes.find((n) => n.opType === 'Add')!;
    layer.push({ ...add, inputs: [product, bias], outputs });
  } else layer.push({ ...anchor, inputs, outputs });
  unit.outputs.forEach((value, i) => {
    if (!value) return;
    const to = layer.output(i);
    if ('codes' in to) write.node('QuantizeLinear', [outputs[i]!, to.scale, to.zeroPoint], [to.codes]);
  });
}
