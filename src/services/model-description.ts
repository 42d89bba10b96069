/** A model as its headers tell it: what the API shows of it and what is checked before a job is made. Tensors' bytes are not touched. */
import type { ErrorCode } from '../domain/errors.ts';
import { HalftoneError } from '../domain/errors.ts';
import { fileBytes } from '../onnx/bytes.ts';
import { allGraphs } from '../onnx/graph.ts';
import { DataType, feedInputs, type Model, type Tensor, type ValueInfo } from '../onnx/model.ts';
import { parseModelHeaders } from '../onnx/reader.ts';

export interface ValueDescription {
  name: string;
  /** As numpy names it; another word for what is no plain tensor. */
  type: string;
  /** A size, a name, or null where neither is known; null where the rank is not known. */
  shape: (number | string | null)[] | null;
}

export interface ModelDescription {
  /** Of the default domain. */
  opset: number;
  /** Domain → version, the default one as ai.onnx. */
  opsets: Record<string, number>;
  irVersion: number;
  producer: { name: string; version: string };
  /** Values in float initializers. */
  parameters: number;
  inputs: ValueDescription[];
  outputs: ValueDescription[];
  /** Operator → nodes, subgraphs' among them. */
  operators: Record<string, number>;
  /** Operators of the main graph that have an integer form → nodes. */
  quantizable: Record<string, number>;
  alreadyQuantized: boolean;
  /** Why no job can be made of it; null where one can. */
  refusal: { code: ErrorCode; detail: string } | null;
}

/**
 * Reads a model file's headers.
 * @param externalSizes sizes of the external files that came with it, by path; null = not to be checked yet
 * @throws HalftoneError as the reader; `external-data-missing`, `external-data-range`
 */
export function describeModelFile(path: string, externalSizes: ReadonlyMap<string, number> | null): { description: ModelDescription; externalFiles: string[] } {
  const { model, externalFiles } = parseModelHeaders(fileBytes(path));
  if (externalSizes !== null) checkExternal(model, externalSizes);
  return { description: describe(model), externalFiles };
}

function* tensorsOf(model: Model): Generator<Tensor> {
  for (const graph of allGraphs(model.graph)) {
    yield* graph.initializers.values();
    for (const node of graph.nodes) {
      for (const attribute of node.attributes.values()) {
        if (attribute.kind === 'tensor') yield attribute.value;
        else if (attribute.kind === 'tensors') yield* attribute.value;
      }
    }
  }
}

function checkExternal(model: Model, sizes: ReadonlyMap<string, number>): void {
  for (const tensor of tensorsOf(model)) {
    if (tensor.data.kind !== 'file') continue;
    const { path, offset, length } = tensor.data;
    const size = sizes.get(path);
    if (size === undefined) {
      throw new HalftoneError('external-data-missing', `Tensor '${tensor.name}' has its data in '${path}', which was not sent with the model.`);
    }
    if (offset + length > size) {
      throw new HalftoneError(
        'external-data-range',
        `Tensor '${tensor.name}' has its data at bytes ${offset} to ${offset + length} of '${path}', which has ${size} bytes.`,
      );
    }
  }
}

const NUMPY: Partial<Record<DataType, string>> = {
  [DataType.FLOAT]: 'float32',
  [DataType.DOUBLE]: 'float64',
  [DataType.FLOAT16]: 'float16',
  [DataType.INT8]: 'int8',
  [DataType.UINT8]: 'uint8',
  [DataType.INT16]: 'int16',
  [DataType.UINT16]: 'uint16',
  [DataType.INT32]: 'int32',
  [DataType.UINT32]: 'uint32',
  [DataType.INT64]: 'int64',
  [DataType.UINT64]: 'uint64',
  [DataType.BOOL]: 'bool',
};

const value = (info: ValueInfo): ValueDescription => ({
  name: info.name,
  type: (info.type && NUMPY[info.type.elemType]) ?? 'other',
  shape: info.type?.shape ?? null,
});

const QUANTIZED = new Set(['QLinearConv', 'QLinearMatMul', 'ConvInteger', 'MatMulInteger', 'QuantizeLinear', 'DequantizeLinear', 'DynamicQuantizeLinear']);
const INTEGER_FORM = new Set(['Conv', 'Gemm', 'MatMul', 'Add', 'Mul', 'AveragePool', 'GlobalAveragePool', 'Concat', 'Sigmoid', 'LeakyRelu', 'Softmax', 'Where', 'LSTM']);

function describe(model: Model): ModelDescription {
  const operators: Record<string, number> = {};
  const quantizable: Record<string, number> = {};
  for (const graph of allGraphs(model.graph)) {
    for (const node of graph.nodes) {
      const operator = node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
      operators[operator] = (operators[operator] ?? 0) + 1;
      if (graph === model.graph && INTEGER_FORM.has(operator)) quantizable[operator] = (quantizable[operator] ?? 0) + 1;
    }
  }
  let parameters = 0;
  for (const graph of allGraphs(model.graph)) {
    for (const tensor of graph.initializers.values()) {
      if (tensor.dataType === DataType.FLOAT || tensor.dataType === DataType.FLOAT16 || tensor.dataType === DataType.DOUBLE) {
        parameters += tensor.dims.reduce((a, b) => a * b, 1);
      }
    }
  }
  const found = Object.keys(operators).filter((operator) => QUANTIZED.has(operator.split('.').at(-1)!) || operator.startsWith('com.microsoft.QLinear'));
  return {
    opset: model.opsets.get('') ?? 0,
    opsets: Object.fromEntries(Array.from(model.opsets, ([domain, version]) => [domain === '' ? 'ai.onnx' : domain, version])),
    irVersion: model.irVersion,
    producer: { name: model.producerName, version: model.producerVersion },
    parameters,
    inputs: feedInputs(model.graph).map(value),
    outputs: model.graph.outputs.map(value),
    operators,
    quantizable,
    alreadyQuantized: found.length > 0,
    refusal:
      found.length > 0
        ? { code: 'already-quantized', detail: `The model has ${found.join(', ')}.` }
        : null,
  };
}
