import { join } from 'node:path';
import type { Runner, Session, SessionOptions } from '../domain/runner.ts';
import { cloneModel, NamePool } from '../onnx/graph.ts';
import { DataType, type Model } from '../onnx/model.ts';
import { serializeModel, writeModel } from '../onnx/writer.ts';

/** Models whose tensors are over this go to the runtime through a file with external data: one copy in memory, not three. */
const IN_MEMORY_BYTES = 256e6;

/** Buffers that models were serialized into, for the next: trials open some dozens, and each new buffer would bring a garbage collection nearer. */
const KEPT = { buffers: 2, bytes: 64e6 };
const buffers: Uint8Array[] = [];

/** Opens a model in the runtime, through memory where it is small and through a file in `workDir` where it is not. */
export async function openModel(runner: Runner, model: Model, workDir: string, options: SessionOptions): Promise<Session> {
  let bytes = 0;
  for (const tensor of model.graph.initializers.values())
    bytes += tensor.data.kind === 'bytes' ? tensor.data.bytes.length : tensor.data.length;
  if (bytes <= IN_MEMORY_BYTES) {
    const serialized = serializeModel(model, buffers.pop());
    try {
      return await runner.open(serialized, options);
    } finally {
      // The runtime keeps none of it.
      const buffer = new Uint8Array(serialized.buffer);
      if (buffers.length < KEPT.buffers && buffer.length <= KEPT.bytes) buffers.push(buffer);
    }
  }
  const { mkdtemp, rm } = await import('node:fs/promises');
  const folder = await mkdtemp(join(workDir, 'session-'));
  try {
    const path = join(folder, 'model.onnx');
    await writeModel(model, path);
    return await runner.open(path, options);
  } finally {
    // The runtime has read or mapped what it needs by now.
    await rm(folder, { recursive: true, force: true });
  }
}

/** The model opened with `values` as further outputs. A graph input among them gets an Identity: it can't be an output itself. */
export async function withOutputs(
  runner: Runner,
  model: Model,
  values: Iterable<string>,
  workDir: string,
  options: SessionOptions,
): Promise<{ session: Session; outputOf: (value: string) => string }> {
  const copy = cloneModel(model);
  const inputs = new Set(copy.graph.inputs.map((i) => i.name));
  const outputs = new Set(copy.graph.outputs.map((o) => o.name));
  const renamed = new Map<string, string>();
  const pool = new NamePool(copy.graph);
  for (const value of values) {
    if (outputs.has(value)) continue;
    let name = value;
    if (inputs.has(value)) {
      name = pool.fresh(`${value}_observed`);
      renamed.set(value, name);
      copy.graph.nodes.push({ name, opType: 'Identity', domain: '', inputs: [value], outputs: [name], attributes: new Map() });
    }
    outputs.add(name);
    copy.graph.outputs.push({ name, type: copy.graph.valueInfo.get(value)?.type ?? { elemType: DataType.FLOAT } });
  }
  return { session: await openModel(runner, copy, workDir, options), outputOf: (value) => renamed.get(value) ?? value };
}
