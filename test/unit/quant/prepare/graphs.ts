/** Small models made in the test, random data from a seed, and what ONNX Runtime makes of both: the oracle of the rewrites. */
import type { TensorValue } from '../../../../src/domain/runner.ts';
import { ensureNodeNames, makeNode } from '../../../../src/onnx/graph.ts';
import { DataType, type Dim, type Model, type Node, type Tensor } from '../../../../src/onnx/model.ts';
import { inferShapesAndValues } from '../../../../src/onnx/shapes.ts';
import { floatTensor, int64Tensor } from '../../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { ensureSound, type Pass, type PassContext } from '../../../../src/quant/prepare/pass.ts';
import { Rewriter } from '../../../../src/quant/prepare/rewriter.ts';
import { createRunner } from '../../../../src/runtime/runner.ts';

export const runner = createRunner();

/** mulberry32: the same numbers everywhere. */
export function randomSource(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
/** Roughly normal values (sum of uniform ones). */
export function normals(count: number, seed: number, scale = 1, mean = 0): Float32Array {
  const random = randomSource(seed);
  return Float32Array.from({ length: count }, () => mean + scale * (random() + random() + random() + random() - 2) * 1.7);
}
let seeds = 1;
/** A FLOAT constant of random values. */
export function weight(
  name: string,
  dims: number[],
  options: { scale?: number; mean?: number; positive?: boolean; seed?: number } = {},
): Tensor {
  const count = dims.reduce((a, b) => a * b, 1);
  const values = normals(count, options.seed ?? 1000 + seeds++, options.scale ?? 1, options.mean ?? 0);
  return floatTensor(name, options.positive ? values.map((v) => Math.abs(v) + 0.1) : values, dims);
}
export const scalar = (name: string, value: number) => floatTensor(name, [value], []);
export const ints = (name: string, values: number[]) => int64Tensor(name, values);

export interface Shape {
  [name: string]: Dim[];
}
/** A model of float inputs and outputs (or other types: `types`). */
export function modelOf(
  nodes: Node[],
  inputs: Shape,
  outputs: string[] | Shape,
  constants: Tensor[] = [],
  options: { opset?: number; types?: Record<string, DataType> } = {},
): Model {
  const value = (name: string, shape?: Dim[]) => ({
    name,
    type: { elemType: options.types?.[name] ?? DataType.FLOAT, ...(shape && { shape }) },
  });
  const model: Model = {
    irVersion: 8,
    producerName: 'test',
    producerVersion: '',
    domain: '',
    modelVersion: 0n,
    docString: '',
    opsets: new Map([['', options.opset ?? 17]]),
    metadata: new Map(),
    graph: {
      name: 'g',
      nodes,
      initializers: new Map(constants.map((tensor) => [tensor.name, tensor])),
      inputs: Object.entries(inputs).map(([name, shape]) => value(name, shape)),
      outputs: Array.isArray(outputs)
        ? outputs.map((name) => value(name))
        : Object.entries(outputs).map(([name, shape]) => value(name, shape)),
      valueInfo: new Map(),
    },
  };
  ensureNodeNames(model);
  return model;
}
export { makeNode as node };

export function floats(values: ArrayLike<number>, dims: number[]): TensorValue {
  const data = Float32Array.from(values);
  return { type: 'float32', dims, bytes: new Uint8Array(data.buffer) };
}
export function longs(values: number[], dims: number[] = [values.length]): TensorValue {
  return { type: 'int64', dims, bytes: new Uint8Array(BigInt64Array.from(values, BigInt).buffer) };
}
export function asFloats(value: TensorValue): Float32Array {
  return new Float32Array(value.bytes.slice().buffer);
}

/** Runs a model once. */
export async function run(
  model: Model,
  feeds: Record<string, TensorValue>,
  optimization: 'disable' | 'all' = 'all',
): Promise<Record<string, TensorValue>> {
  const session = await runner.open(serializeModel(model), { threads: 1, optimization });
  try {
    return await session.run(feeds);
  } finally {
    session.close();
  }
}

/** 10·log10(Σ ref² ÷ Σ (ref − got)²); infinite when equal. */
export function sqnr(reference: Float32Array, got: Float32Array): number {
  let [signal, noise] = [0, 0];
  for (let i = 0; i < reference.length; i++) {
    signal += reference[i]! ** 2;
    noise += (reference[i]! - got[i]!) ** 2;
  }
  return noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(signal / noise);
}

/** The least SQNR over the outputs of two models on the same feeds; shapes and types must be equal. */
export async function agreement(reference: Model, other: Model, feeds: Record<string, TensorValue>): Promise<number> {
  const [want, got] = [await run(reference, feeds), await run(other, feeds)];
  let worst = Number.POSITIVE_INFINITY;
  for (const [name, value] of Object.entries(want)) {
    const mine = got[name];
    if (!mine || mine.type !== value.type || JSON.stringify(mine.dims) !== JSON.stringify(value.dims)) {
      throw new Error(`output ${name}: ${value.type} [${value.dims}] became ${mine?.type} [${mine?.dims}]`);
    }
    if (value.type === 'float32') worst = Math.min(worst, sqnr(asFloats(value), asFloats(mine)));
    else if (Buffer.compare(Buffer.from(value.bytes), Buffer.from(mine.bytes)) !== 0) worst = Number.NEGATIVE_INFINITY;
  }
  return worst;
}

/** Applies one pass to a model, in place. */
export async function applyPass(pass: Pass, model: Model): Promise<{ changes: number; notes: string[] }> {
  const notes: string[] = [];
  const rewriter = new Rewriter(model);
  let known: ReturnType<typeof inferShapesAndValues> | undefined;
  const infer = () => {
    known ??= inferShapesAndValues(model);
    return known;
  };
  const context: PassContext = { runner, types: () => infer().types, values: () => infer().values, note: (line) => notes.push(line) };
  const changes = await pass.run(rewriter, context);
  rewriter.removeDead();
  rewriter.commit();
  ensureSound(model, pass.name);
  return { changes, notes };
}

/** Operators in order. */
export const operators = (model: Model): string[] => model.graph.nodes.map((n) => n.opType);
