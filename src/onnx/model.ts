/**
 * The model file as the engine holds it: ONNX's ModelProto (onnx.proto3, IR version 3 to 11), decoded as far as the engine
 * needs and with every unknown field kept, so that what we don't understand goes out as it came in.
 */

/** TensorProto.DataType. */
export const DataType = {
  UNDEFINED: 0,
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  UINT16: 4,
  INT16: 5,
  INT32: 6,
  INT64: 7,
  STRING: 8,
  BOOL: 9,
  FLOAT16: 10,
  DOUBLE: 11,
  UINT32: 12,
  UINT64: 13,
  COMPLEX64: 14,
  COMPLEX128: 15,
  BFLOAT16: 16,
  FLOAT8E4M3FN: 17,
  FLOAT8E4M3FNUZ: 18,
  FLOAT8E5M2: 19,
  FLOAT8E5M2FNUZ: 20,
  UINT4: 21,
  INT4: 22,
  FLOAT4E2M1: 23,
  FLOAT8E8M0: 24,
  UINT2: 25,
  INT2: 26,
} as const;
export type DataType = (typeof DataType)[keyof typeof DataType];

/** A protobuf field that this version does not know: its tag's number and wire type, and its bytes as they stood (without the tag). */
export interface RawField {
  field: number;
  wire: number;
  bytes: Uint8Array;
}

/** Where a tensor's bytes are: in memory, or in a stretch of a file that is mapped when asked for. Little-endian, row-major. */
export type TensorData = { kind: 'bytes'; bytes: Uint8Array } | { kind: 'file'; path: string; offset: number; length: number };

export interface Tensor {
  name: string;
  dataType: DataType;
  dims: number[];
  /** raw_data's layout whatever field it came from (float_data, int32_data, … are normalised on reading). For STRING see `strings`. */
  data: TensorData;
  strings?: Uint8Array[];
  docString?: string;
  unknown?: RawField[];
}

/** A dimension: fixed, named, or neither. */
export type Dim = number | string | null;

export interface TensorType {
  elemType: DataType;
  /** Absent = rank unknown. */
  shape?: Dim[];
}

export interface ValueInfo {
  name: string;
  /** Null for sequence, map, optional and sparse types, which stand as they came in `rawType`. */
  type: TensorType | null;
  /** The TypeProto as it came, where `type` does not say all of it (denotations too); the writer uses it as long as `type` still agrees with it. */
  rawType?: Uint8Array;
  docString?: string;
  unknown?: RawField[];
}

export type Attribute = { name: string; docString?: string; refAttrName?: string; unknown?: RawField[] } & (
  | { kind: 'float'; value: number }
  | { kind: 'int'; value: bigint }
  | { kind: 'string'; value: Uint8Array }
  | { kind: 'tensor'; value: Tensor }
  | { kind: 'graph'; value: Graph }
  | { kind: 'floats'; value: number[] }
  | { kind: 'ints'; value: bigint[] }
  | { kind: 'strings'; value: Uint8Array[] }
  | { kind: 'tensors'; value: Tensor[] }
  | { kind: 'graphs'; value: Graph[] }
  /** sparse tensors, type protos, references: carried through untouched (the whole AttributeProto). */
  | { kind: 'raw'; value: Uint8Array }
);

export interface Node {
  name: string;
  opType: string;
  /** '' = ai.onnx. */
  domain: string;
  /** '' = an optional input left out. */
  inputs: string[];
  outputs: string[];
  attributes: Map<string, Attribute>;
  docString?: string;
  unknown?: RawField[];
}

export interface Graph {
  name: string;
  nodes: Node[];
  initializers: Map<string, Tensor>;
  inputs: ValueInfo[];
  outputs: ValueInfo[];
  /** Types of inner values as the file states them. */
  valueInfo: Map<string, ValueInfo>;
  docString?: string;
  /** Also sparse initializers and quantization annotations. */
  unknown?: RawField[];
}

export interface Model {
  irVersion: number;
  producerName: string;
  producerVersion: string;
  domain: string;
  modelVersion: bigint;
  docString: string;
  /** Domain → version; '' = ai.onnx. */
  opsets: Map<string, number>;
  metadata: Map<string, string>;
  graph: Graph;
  /** Training info and model-local functions among them. */
  unknown?: RawField[];
}

/** The graph inputs that a caller feeds: those that are not initializers' defaults (IR version 3 lists both). */
export function feedInputs(graph: Graph): ValueInfo[] {
  return graph.inputs.filter((input) => !graph.initializers.has(input.name));
}
