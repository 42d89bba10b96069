import type { LayerNote } from '../../domain/job.ts';
import {
  attrInt,
  attrTensor,
  captures,
  cloneModel,
  GraphView,
  intAttr,
  makeNode,
  setAttr,
  subgraphsOf,
  tensorAttr,
} from '../../onnx/graph.ts';
import { DataType, type Model, type Node, type TensorType } from '../../onnx/model.ts';
import { inferShapes } from '../../onnx/shapes.ts';
import { LARGEST, toFloat16Tensor } from './precision.ts';

/** What was observed may be exceeded on other data: values up to twice as large still have to fit. */
const MARGIN = 2;

/** Operators that ONNX defines for float16 (opset 13 and later) and that lose nothing by it but precision. Everything else stays in float32. */
const HALF = new Set(
  (
    'Conv ConvTranspose Gemm MatMul Einsum Relu LeakyRelu PRelu Elu Selu Celu Sigmoid Tanh HardSigmoid HardSwish Softplus Softsign Erf Gelu Mish ' +
    'Add Sub Mul Div Sqrt Reciprocal Exp Log Abs Neg Floor Ceil Round Sign Sin Cos Clip Min Max Sum Mean Pow Where Equal Less LessOrEqual Greater GreaterOrEqual ' +
    'MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LRN Softmax LogSoftmax ' +
    'ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ArgMax ArgMin LSTM GRU RNN ' +
    'Concat Split Slice Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Gather GatherElements GatherND ScatterElements ScatterND Pad DepthToSpace SpaceToDepth ' +
    'Identity Cast Dropout ConstantOfShape Resize Shape Size Trilu'
  ).split(' '),
);

/** Inputs that stay float32 whatever the operator computes in: Resize's region and scales. */
const ALWAYS_FLOAT: Record<string, number[]> = { Resize: [1, 2] };

/**
 * The whole graph in float16, for devices that compute in it. Inputs and outputs of the graph keep name and type: casts stand
 * at its edges.
 * 1. A node computes in float16 where its operator may (the list above), where all its float values are known, observed
 *    within half of ±65 504, and where no constant of its overflows or underflows.
 * 2. Every other node, and what the recipe excludes, keeps float32, with casts where it meets float16 values; so do nodes with subgraphs and what those capture.
 * 3. Constants that only float16 nodes use are stored in float16.
 */
export function computeInFloat16(
  model: Model,
  ranges: ReadonlyMap<string, { min: number; max: number }>,
  excluded: (node: Node) => boolean = () => false,
): { model: Model; converted: string[]; leftInFloat: LayerNote[]; flushed: number } {
  const copy = cloneModel(model);
  const view = new GraphView(copy.graph);
  const types = inferShapes(copy);
  const converted: string[] = [];
  const leftInFloat: LayerNote[] = [];
  let flushed = 0;
  const rounded = new Map<string, ReturnType<typeof toFloat16Tensor>>();
  const constantOf = (value: string) => {
    const tensor = copy.graph.initializers.get(value);
    if (tensor?.dataType !== DataType.FLOAT || view.isInput(value)) return undefined;
    let half = rounded.get(value);
    if (!half) {
      half = toFloat16Tensor(tensor, view.freshName(`${value}/float16`));
      rounded.set(value, half);
    }
    return half;
  };
  const isFloat = (value: string) => types.get(value)?.elemType === DataType.FLOAT;

  const half = new Set<Node>();
  for (const node of copy.graph.nodes) {
    const obstacle = excluded(node) ? { reason: 'excluded-by-recipe' } : obstacleTo(node, types, ranges, constantOf);
    if (obstacle === null) half.add(node);
    else if ([...node.inputs, ...node.outputs].some(isFloat)) leftInFloat.push({ node: node.name, operator: node.opType, ...obstacle });
  }

  // Values that float16 nodes make; they keep their names but for graph outputs, whose names belong to the float32 value.
  const halves = new Map<string, string>();
  const casts = new Map<string, string>();
  for (const node of [...copy.graph.nodes]) {
    if (!half.has(node)) continue;
    converted.push(node.name);
    if (node.opType === 'Cast' && attrInt(node, 'to', 0) === DataType.FLOAT) setAttr(node, intAttr('to', DataType.FLOAT16));
    if (node.opType === 'ConstantOfShape') {
      const value = attrTensor(node, 'value');
      setAttr(node, tensorAttr('value', toFloat16Tensor(value ?? zero(), value?.name ?? '').tensor));
    }
    node.outputs.forEach((output, i) => {
      if (output === '' || !isFloat(output)) return;
      if (!view.isOutput(output)) {
        halves.set(output, output);
        // What the file states of it (float32) would be a type error now.
        copy.graph.valueInfo.delete(output);
        return;
      }
      const name = view.freshName(`${output}/float16`);
      view.setOutput(node, i, name);
      halves.set(output, name);
      cast(view, name, output, DataType.FLOAT);
      casts.set(`${output} 32`, output);
    });
  }

  for (const node of [...copy.graph.nodes]) {
    if (node.opType === 'Cast' && view.isOutput(node.outputs[0]!) && halves.get(node.outputs[0]!) === node.inputs[0]) continue;
    const wantsHalf = half.has(node);
    for (const [i, value] of node.inputs.entries()) {
      if (value === '' || !isFloat(value)) continue;
      const asHalf = wantsHalf && !ALWAYS_FLOAT[node.opType]?.includes(i);
      const constant = asHalf ? constantOf(value) : undefined;
      if (constant) {
        if (!copy.graph.initializers.has(constant.tensor.name)) {
          view.addInitializer(constant.tensor);
          flushed += constant.flushed;
        }
        view.setInput(node, i, constant.tensor.name);
      } else {
        const wanted = version(value, asHalf);
        if (wanted !== value) view.setInput(node, i, wanted);
      }
    }
    for (const value of captures(node)) {
      if (!halves.has(value)) continue;
      const wanted = version(value, false);
      if (wanted !== value) view.replaceUses(value, wanted, (use) => use.node === node && use.input < 0);
    }
  }
  view.sort();
  view.removeDead();
  return { model: copy, converted, leftInFloat, flushed };

  /** The name of a value as float16 or float32, with a cast where it is the other. */
  function version(value: string, asHalf: boolean): string {
    const made = halves.get(value);
    if (asHalf === (made !== undefined)) return made ?? value;
    const key = `${value} ${asHalf ? 16 : 32}`;
    let name = casts.get(key);
    if (!name) {
      name = view.freshName(`${value}/${asHalf ? 'float16' : 'float32'}`);
      cast(view, made ?? value, name, asHalf ? DataType.FLOAT16 : DataType.FLOAT);
      casts.set(key, name);
    }
    return name;
  }
}

function cast(view: GraphView, from: string, to: string, type: DataType): void {
  view.addNode(makeNode('Cast', [from], [to], { name: view.freshName(`${to}/Cast`), attributes: [intAttr('to', type)] }));
}

function zero() {
  return { name: '', dataType: DataType.FLOAT, dims: [1], data: { kind: 'bytes' as const, bytes: new Uint8Array(4) } };
}

/** Why a node stays in float32; null where it may compute in float16. */
function obstacleTo(
  node: Node,
  types: ReadonlyMap<string, TensorType>,
  ranges: ReadonlyMap<string, { min: number; max: number }>,
  constantOf: (value: string) => ReturnType<typeof toFloat16Tensor> | undefined,
): { reason: string; detail?: string } | null {
  if (node.domain !== '' || !HALF.has(node.opType) || subgraphsOf(node).length > 0) return { reason: 'no-float16-kernel' };
  for (const value of [...node.inputs, ...node.outputs]) {
    if (value === '') continue;
    const type = types.get(value)?.elemType;
    if (!type) return { reason: 'type-unknown', detail: `the type of ${value} could not be inferred` };
    if (type !== DataType.FLOAT) continue;
    const range = ranges.get(value);
    const largest = range ? Math.max(Math.abs(range.min), Math.abs(range.max)) : 0;
    if (largest * MARGIN > LARGEST)
      return { reason: 'overflow', detail: `${value} reached ${largest.toPrecision(4)}; float16 ends at ${LARGEST}` };
    const obstacle = constantOf(value)?.obstacle;
    if (obstacle) return { reason: obstacle, detail: `the constant ${value} does not fit float16` };
  }
  return null;
}
