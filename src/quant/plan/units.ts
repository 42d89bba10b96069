import type { GraphView } from '../../onnx/graph.ts';
import type { Model, Node, Tensor, TensorType } from '../../onnx/model.ts';
import { floatData } from '../../onnx/tensor.ts';
import { foldedRange, match, type OperatorRow } from './operators.ts';

/** A node of the prepared model with what folds into it: what is quantized, or left in float, as one. */
export interface Unit {
  id: number;
  /** Name of the anchor node. */
  name: string;
  operator: string;
  /** Anchor first, then bias Add and activation, in order. */
  nodes: Node[];
  /** Null: no integer kernel, always float; `reason` says why. */
  row: OperatorRow | null;
  reason: string | null;
  /** Input indices of the anchor whose activations are quantized, and those whose constants are. */
  inputs: number[];
  constants: number[];
  weight: Tensor | null;
  /** Name of the constant bias (the anchor's own, or of the Add behind a MatMul); null = none. */
  bias: string | null;
  /** What the folded activation leaves: (−∞, ∞) where there is none. */
  clip: { lo: number; hi: number };
  /** Values that the last node gives. */
  outputs: string[];
}

const OPEN = { lo: Number.NEGATIVE_INFINITY, hi: Number.POSITIVE_INFINITY };

/**
 * Groups the graph's nodes (in topological order) into units:
 * 1. a node with an integer kernel is an anchor;
 * 2. the Add of a constant vector behind a MatMul with constant weight joins it, when it is the only reader (the runtime makes them a Gemm);
 * 3. a ReLU, or a Clip with constant bounds, behind an operator that folds it joins it, when it is the only reader;
 * 4. every other node is a unit that stays in float.
 */
export function buildUnits(model: Model, view: GraphView, types: ReadonlyMap<string, TensorType>): Unit[] {
  const constant = (name: string) => model.graph.initializers.get(name);
  const scalar = (name: string) => {
    const tensor = constant(name);
    return tensor ? floatData(tensor)[0] : undefined;
  };
  const onlyReader = (value: string): Node | null => {
    const readers = view.consumers(value);
    return readers.length === 1 && !view.isOutput(value) ? readers[0]! : null;
  };
  const claimed = new Set<Node>();
  const units: Unit[] = [];
  for (const node of model.graph.nodes) {
    if (claimed.has(node)) continue;
    claimed.add(node);
    const found = match(node, { types, constant });
    const unit: Unit = {
      id: units.length,
      name: node.name,
      operator: node.opType,
      nodes: [node],
      row: 'row' in found ? found.row : null,
      reason: 'reason' in found ? found.reason : null,
      inputs: 'row' in found ? found.inputs : [],
      constants: 'row' in found ? found.constants : [],
      weight: 'row' in found ? found.weight : null,
      bias: null,
      clip: OPEN,
      outputs: node.outputs,
    };
    units.push(unit);
    if (!unit.row) continue;
    const join = (next: Node) => {
      claimed.add(next);
      unit.nodes.push(next);
      unit.outputs = next.outputs;
    };
    if (unit.weight && unit.row.bias !== undefined) {
      const bias = node.inputs[unit.row.bias];
      if (bias && constant(bias)) unit.bias = bias;
      else if (bias) Object.assign(unit, { row: null, reason: 'the bias is not a constant' });
      if (!unit.row) continue;
    }
    if (unit.weight && node.opType === 'MatMul') {
      const add = onlyReader(unit.outputs[0]!);
      const bias = add?.opType === 'Add' && add.domain === '' ? add.inputs.find((i) => i !== unit.outputs[0]) : undefined;
      const tensor = bias ? constant(bias) : undefined;
      if (tensor && tensor.dims.length === 1 && tensor.dims[0] === unit.weight.dims[1]) {
        unit.bias = bias!;
        join(add!);
      }
    }
    if (unit.row.folds) {
      const next = onlyReader(unit.outputs[0]!);
      const range = next && !claimed.has(next) ? foldedRange(next, scalar) : null;
      // Zero must lie in the range: padding and the zero point stand for it.
      if (range && next!.inputs[0] === unit.outputs[0] && range.lo <= 0 && range.hi > 0) {
        unit.clip = range;
        join(next!);
      }
    }
  }
  return units;
}
