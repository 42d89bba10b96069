/**
 * ONNX models written by hand, field by field, so that these tests share no code with the service that reads them.
 * Numbers are onnx.proto3's field numbers.
 */

const varint = (value: number | bigint): Buffer => {
  let rest = BigInt.asUintN(64, BigInt(value));
  const bytes: number[] = [];
  do {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
};
/** A length-delimited field. */
export const field = (number: number, content: Buffer | string): Buffer => {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content;
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
};
export const int = (number: number, value: number | bigint): Buffer => Buffer.concat([varint(number << 3), varint(value)]);
const float = (number: number, value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([varint((number << 3) | 5), bytes]);
};

const FLOAT = 1;
const INT64 = 7;

/** TensorProto with raw_data. */
export function tensor(name: string, dims: number[], values: Float32Array | BigInt64Array): Buffer {
  return Buffer.concat([
    ...dims.map((dim) => int(1, dim)),
    int(2, values instanceof Float32Array ? FLOAT : INT64),
    field(8, name),
    field(9, Buffer.from(values.buffer, values.byteOffset, values.byteLength)),
  ]);
}

/** TensorProto whose bytes lie in another file. */
export function externalTensor(name: string, dims: number[], location: string, offset: number, length: number): Buffer {
  const entry = (key: string, value: string) => field(13, Buffer.concat([field(1, key), field(2, value)]));
  return Buffer.concat([
    ...dims.map((dim) => int(1, dim)),
    int(2, FLOAT),
    field(8, name),
    entry('location', location),
    entry('offset', String(offset)),
    entry('length', String(length)),
    int(14, 1),
  ]);
}

export type AttributeValue = number | number[] | string | { float: number } | { tensor: Buffer } | { graph: Buffer };

function attribute(name: string, value: AttributeValue): Buffer {
  const body =
    typeof value === 'number'
      ? [int(3, value), int(20, 2)]
      : typeof value === 'string'
        ? [field(4, value), int(20, 3)]
        : Array.isArray(value)
          ? [...value.map((one) => int(8, one)), int(20, 7)]
          : 'float' in value
            ? [float(2, value.float), int(20, 1)]
            : 'tensor' in value
              ? [field(5, value.tensor), int(20, 4)]
              : [field(6, value.graph), int(20, 5)];
  return Buffer.concat([field(1, name), ...body]);
}

/** NodeProto. */
export function node(
  op: string,
  inputs: string[],
  outputs: string[],
  attributes: Record<string, AttributeValue> = {},
  domain = '',
): Buffer {
  return Buffer.concat([
    ...inputs.map((name) => field(1, name)),
    ...outputs.map((name) => field(2, name)),
    field(3, `${op}_${outputs[0]}`),
    field(4, op),
    ...Object.entries(attributes).map(([name, value]) => field(5, attribute(name, value))),
    ...(domain === '' ? [] : [field(7, domain)]),
  ]);
}

/** ValueInfoProto of a tensor; a string is a free dimension's name. */
export function value(name: string, dims: (number | string)[], type: number = FLOAT): Buffer {
  const shape = Buffer.concat(dims.map((dim) => field(1, typeof dim === 'number' ? int(1, dim) : field(2, dim))));
  return Buffer.concat([field(1, name), field(2, field(1, Buffer.concat([int(1, type), field(2, shape)])))]);
}

export interface GraphParts {
  nodes: Buffer[];
  initializers?: Buffer[];
  inputs: Buffer[];
  outputs: Buffer[];
}
/** GraphProto. */
export function graph(name: string, parts: GraphParts): Buffer {
  return Buffer.concat([
    ...parts.nodes.map((one) => field(1, one)),
    field(2, name),
    ...(parts.initializers ?? []).map((one) => field(5, one)),
    ...parts.inputs.map((one) => field(11, one)),
    ...parts.outputs.map((one) => field(12, one)),
  ]);
}

/** ModelProto. */
export function model(body: Buffer, options: { opset?: number; irVersion?: number; domains?: Record<string, number> } = {}): Buffer {
  const opset = (domain: string, version: number) =>
    field(8, Buffer.concat([...(domain === '' ? [] : [field(1, domain)]), int(2, version)]));
  return Buffer.concat([
    int(1, options.irVersion ?? 8),
    field(2, 'acceptance-tests'),
    field(7, body),
    opset('', options.opset ?? 17),
    ...Object.entries(options.domains ?? {}).map(([domain, version]) => opset(domain, version)),
  ]);
}
