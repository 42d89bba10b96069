/** Tiny models for the tests of this room. */

import type { ElementType, TensorValue } from '../../../src/domain/runner.ts';
import { type Attribute, floatAttr, intAttr, intsAttr, makeNode, stringAttr } from '../../../src/onnx/graph.ts';
import type { DataType, Dim, Model, Node, Tensor } from '../../../src/onnx/model.ts';
import { tensorFromNumbers } from '../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';

export { DataType } from '../../../src/onnx/model.ts';

export type Values = [type: DataType, dims: Dim[]];
type AttributeValue = number | string | number[];

/** `f:` marks a float: numbers are integers otherwise. */
function attribute(key: string, value: AttributeValue): Attribute {
  if (typeof value === 'string') return stringAttr(key, value);
  if (Array.isArray(value)) return intsAttr(key, value);
  return key.startsWith('f:') ? floatAttr(key.slice(2), value) : intAttr(key, value);
}

export function node(
  opType: string,
  inputs: string[],
  outputs: string[],
  attributes: Record<string, AttributeValue> = {},
  domain = '',
): Node {
  const list = Object.entries(attributes).map(([key, value]) => attribute(key, value));
  return makeNode(opType, inputs, outputs, { name: `${opType}_${outputs[0]}`, domain, attributes: list });
}

export const constant = (name: string, type: DataType, dims: number[], values: ArrayLike<number>): Tensor =>
  tensorFromNumbers(name, type, dims, values);
/** Rank 0. */
export const scalar = (name: string, type: DataType, value: number): Tensor => constant(name, type, [], [value]);

export function model(
  inputs: Record<string, Values>,
  outputs: Record<string, Values>,
  nodes: Node[],
  initializers: Tensor[] = [],
  opset = 13,
): Uint8Array {
  const values = (from: Record<string, Values>) =>
    Object.entries(from).map(([name, [elemType, shape]]) => ({ name, type: { elemType, shape } }));
  const made: Model = {
    irVersion: 8,
    producerName: '',
    producerVersion: '',
    domain: '',
    modelVersion: 0n,
    docString: '',
    opsets: new Map([['', opset]]),
    metadata: new Map(),
    graph: {
      name: 'g',
      nodes,
      initializers: new Map(initializers.map((tensor) => [tensor.name, tensor])),
      inputs: values(inputs),
      outputs: values(outputs),
      valueInfo: new Map(),
    },
  };
  return serializeModel(made);
}

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const;

/** A tensor of these numbers (float16: of these bits). */
export function tensor(type: ElementType, dims: number[], values: ArrayLike<number>): TensorValue {
  const from = Array.from(values);
  const array =
    type === 'int64' || type === 'uint64'
      ? (ARRAYS[type] as BigInt64ArrayConstructor).from(from.map(BigInt))
      : (ARRAYS[type] as Float32ArrayConstructor).from(from);
  return { type, dims, bytes: new Uint8Array(array.buffer) };
}

/** A tensor's values as numbers. */
export function numbers(value: TensorValue | undefined): number[] {
  if (value === undefined) throw new Error('no value');
  const copy = value.bytes.slice().buffer;
  return Array.from(new ARRAYS[value.type](copy) as ArrayLike<number | bigint>, Number);
}

/** Values that look random and are the same every time. */
export function noise(length: number, scale = 1, seed = 1): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
}
