import { attrInt } from '../../onnx/graph.ts';
import type { Attribute } from '../../onnx/model.ts';
import type { Unit } from '../plan/units.ts';
import type { LayerWriter, NodeWriter } from './layer.ts';

/**
 * A unit as one integer operator (ONNX's QLinearConv and QLinearMatMul, com.microsoft's QGemm, QLinearAdd, …; input orders
 * as in ONNX Runtime's ContribOperators.md). What has no such operator runs on the codes under its own name.
 */
export function qoperatorLayer(unit: Unit, layer: LayerWriter, write: NodeWriter): void {
  const anchor = unit.nodes[0]!;
  const kernel = unit.row!.kernel;
  const triple = (i: number): [string, string, string] =>
    unit.inputs.includes(i) ? layer.integer(anchor.inputs[i]!) : layer.constant(anchor.inputs[i]!);
  const to = unit.outputs.map((value, i) => (value ? layer.output(i) : null));
  const first = to[0]!;
  const out = 'codes' in first ? first.codes : first.float;
  const outGrid: [string, string] = 'codes' in first ? [first.scale, first.zeroPoint] : ['', ''];
  const push = (opType: string, domain: string, inputs: string[], outputs: string[], attributes: Map<string, Attribute>) =>
    layer.push({ name: anchor.name, opType, domain, inputs, outputs, attributes });

  if (!kernel) {
    const inputs = [...anchor.inputs];
    for (const i of unit.inputs) inputs[i] = layer.integer(anchor.inputs[i]!)[0];
    layer.push({ ...anchor, inputs, outputs: to.map((o) => (o ? ('codes' in o ? o.codes : o.float) : '')) });
    return;
  }
  if (unit.weight) {
    const x = layer.integer(anchor.inputs[unit.inputs[0]!]!);
    const w = layer.weight();
    const b = layer.bias();
    if (anchor.opType === 'Conv') {
      push('QLinearConv', '', [...x, ...w, ...outGrid, ...(b ? [b[0]] : [])], [out], anchor.attributes);
      return;
    }
    const gemm = (attributes: Map<string, Attribute>) =>
      push('QGemm', 'com.microsoft', [...x, ...w, b?.[0] ?? '', ...('codes' in first ? outGrid : [])], [out], attributes);
    if (anchor.opType === 'Gemm') {
      gemm(new Map([...anchor.attributes].filter(([k]) => k === 'transA' || k === 'transB' || k === 'alpha')));
      return;
    }
    if (!b && 'codes' in first) {
      push('QLinearMatMul', '', [...x, ...w, ...outGrid], [out], new Map());
      return;
    }
    if (b && layer.inputRank() === 2) {
      gemm(new Map());
      return;
    }
    // A bias, or a float output: no QLinearMatMul takes either, and QGemm takes matrices only; this one takes both, of any rank.
    const bias = layer.floatBias();
    const product = 'codes' in first ? layer.name(`${unit.name}_product`) : out;
    push('MatMulIntegerToFloat', 'com.microsoft', [x[0], w[0], x[1], w[1], x[2], w[2], ...(bias ? [bias] : [])], [product], new Map());
    if ('codes' in first) write.node('QuantizeLinear', [product, ...outGrid], [out]);
    return;
  }
  switch (anchor.opType) {
    case 'MatMul': {
      const [a, b] = [triple(0), triple(1)];
      if ('codes' in first) push('QLinearMatMul', '', [...a, ...b, ...outGrid], [out], new Map());
      else push('MatMulIntegerToFloat', 'com.microsoft', [a[0], b[0], a[1], b[1], a[2], b[2]], [out], new Map());
      return;
    }
    case 'Concat':
      push(kernel.op, kernel.domain, [...outGrid, ...anchor.inputs.flatMap((_, i) => triple(i))], [out], anchor.attributes);
      return;
    case 'Where':
      push(kernel.op, kernel.domain, [anchor.inputs[0]!, ...triple(1), ...triple(2), ...outGrid], [out], anchor.attributes);
      return;
    case 'Softmax': {
      const attributes = new Map<string, Attribute>([
        ['axis', { name: 'axis', kind: 'int', value: BigInt(attrInt(anchor, 'axis', -1)) }],
        ['opset', { name: 'opset', kind: 'int', value: 13n }],
      ]);
      push(kernel.op, kernel.domain, [...triple(0), ...outGrid], [out], attributes);
      return;
    }
    default:
      push(
        kernel.op,
        kernel.domain,
        [...anchor.inputs.flatMap((value, i) => (value ? triple(i) : [])), ...outGrid],
        [out],
        anchor.attributes,
      );
      return;
  }
}
