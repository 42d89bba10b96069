/** What a model's headers and graph say of it, for the API. Tensors' bytes are not touched, external files need not be there. */
import { stat } from 'node:fs/promises';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import { fileBytes } from './bytes.ts';
import { allGraphs, constantTensor } from './graph.ts';
import { DataType, type Dim, feedInputs, type Graph, type Model, type ValueInfo } from './model.ts';
import { assertModelSize, parseModelHeaders } from './reader.ts';
import { dataTypeName, elementCount, isFloatType } from './tensor.ts';
import { checkModel, floatTypes, quantizedOperators } from './validate.ts';

interface ValueSummary {
  name: string;
  /** As numpy names it (float32, int64, bool, …); `other` for sequences, maps and the like, `unknown` where an output's type is left to inference. */
  type: string;
  /** Sizes; a name or null where free. Null where the rank is unknown. */
  shape: Dim[] | null;
}

export interface ModelSummary {
  /** Version of ai.onnx. */
  opset: number;
  irVersion: number;
  /** Name and version of what wrote the file; '' where it does not say. */
  producer: string;
  /** Elements of float and narrow integer initializers and constants, subgraphs' too. */
  parameters: number;
  /** What a caller feeds; initializers that are listed as inputs are not among them. */
  inputs: ValueSummary[];
  outputs: ValueSummary[];
  /** Operator → how many nodes, subgraphs' too; other domains as `domain.Operator`. */
  operators: Record<string, number>;
  /** Operators of the outermost graph that an integer kernel exists for, and what to expect in a sentence. */
  quantizable: { operators: Record<string, number>; note: string };
  alreadyQuantized: boolean;
  /** External-data files that the tensors name, as normalised relative paths. */
  externalFiles: string[];
}

/** Operators that ONNX Runtime's CPU provider has an integer kernel for, that compute (those that only move data go along). */
const INTEGER_KERNELS = new Set(
  'Conv Gemm MatMul Add Mul AveragePool GlobalAveragePool Concat Sigmoid LeakyRelu Softmax Where LSTM'.split(' '),
);
/** Those whose weights are most of a model's size and time. */
const WEIGHTED = new Set(['Conv', 'Gemm', 'MatMul', 'LSTM']);

/**
 * Reads and checks a model file's headers and graph. Errors: those of `readModel` but for missing external files, and those of
 * `checkModel`, so that what can't become a job is refused when it is uploaded. Synchronous in its main part: about a second for 100 thousand nodes.
 */
export async function summarizeModel(path: string): Promise<ModelSummary> {
  assertModelSize((await stat(path)).size);
  const { model, externalFiles } = parseModelHeaders(fileBytes(path));
  checkModel(model);
  const summary = summarize(model);
  const bytes = JSON.stringify(summary).length;
  if (bytes > LIMITS.descriptionBytes) {
    throw new HalftoneError(
      'model-limit-exceeded',
      `The model's ${summary.inputs.length} inputs, ${summary.outputs.length} outputs and ${Object.keys(summary.operators).length} operators take ${bytes} bytes to describe; every answer holds them, and they may take ${LIMITS.descriptionBytes}.`,
    );
  }
  return { ...summary, externalFiles };
}

function summarize(model: Model): Omit<ModelSummary, 'externalFiles'> {
  const operators = new Map<string, number>();
  for (const graph of allGraphs(model.graph)) {
    for (const { opType, domain } of graph.nodes) {
      const name = domain === '' ? opType : `${domain}.${opType}`;
      operators.set(name, (operators.get(name) ?? 0) + 1);
    }
  }
  const alreadyQuantized = quantizedOperators(model).size > 0;
  return {
    opset: model.opsets.get('') ?? 0,
    irVersion: model.irVersion,
    producer: [model.producerName, model.producerVersion].filter(Boolean).join(' '),
    parameters: countParameters(model.graph),
    inputs: feedInputs(model.graph).map(summarizeValue),
    outputs: model.graph.outputs.map(summarizeValue),
    operators: sorted(operators),
    quantizable: quantizable(model, alreadyQuantized),
    alreadyQuantized,
  };
}

function summarizeValue({ name, type, rawType }: ValueInfo): ValueSummary {
  const stated = type !== null && type.elemType !== DataType.UNDEFINED;
  return { name, type: stated ? dataTypeName(type.elemType) : rawType ? 'other' : 'unknown', shape: type?.shape ? [...type.shape] : null };
}

const NARROW: ReadonlySet<DataType> = new Set([
  DataType.INT8,
  DataType.UINT8,
  DataType.INT4,
  DataType.UINT4,
  DataType.INT2,
  DataType.UINT2,
]);
/** Types that weights have: floats, and the narrow integers of quantized models. Wider ones are shapes, axes and indices. */
const isWeightType = (type: DataType) => isFloatType(type) || NARROW.has(type);

function countParameters(outermost: Graph): number {
  let count = 0;
  for (const graph of allGraphs(outermost)) {
    for (const tensor of graph.initializers.values()) if (isWeightType(tensor.dataType)) count += elementCount(tensor.dims);
    for (const node of graph.nodes) {
      if (node.opType !== 'Constant' || node.domain !== '') continue;
      const tensor = constantTensor(node);
      if (tensor && isWeightType(tensor.dataType)) count += elementCount(tensor.dims);
    }
  }
  return count;
}

function quantizable(model: Model, alreadyQuantized: boolean): ModelSummary['quantizable'] {
  const operators = new Map<string, number>();
  for (const { opType, domain } of model.graph.nodes) {
    if (domain === '' && INTEGER_KERNELS.has(opType)) operators.set(opType, (operators.get(opType) ?? 0) + 1);
  }
  const weighted = [...operators].reduce((sum, [name, count]) => sum + (WEIGHTED.has(name) ? count : 0), 0);
  const floats = floatTypes(model);
  const inside = [...allGraphs(model.graph)]
    .slice(1)
    .some(({ nodes }) => nodes.some(({ opType, domain }) => domain === '' && WEIGHTED.has(opType)));
  let note: string;
  if (alreadyQuantized) note = 'The model is quantized already; send the float model that it was made from.';
  else if (weighted === 0 && inside) note = 'All operators with weights stand inside If, Loop or Scan, which stay in float.';
  else if (weighted === 0) note = 'No operator with weights has an integer kernel; there is little to gain.';
  else if (!floats.has(DataType.FLOAT)) note = 'The model has no float32 values, which quantization starts from.';
  else note = `${weighted} operators with weights have integer kernels; which of them pay is measured on the device profile.`;
  return { operators: sorted(operators), note };
}

/** By count, then by name: the same model always reads the same. */
function sorted(counts: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)));
}
