import type { ElementType, Runner, TensorValue } from '../../domain/runner.ts';
import { subgraphsOf } from '../../onnx/graph.ts';
import { DataType, type Model, type Node, type Tensor, type TensorType } from '../../onnx/model.ts';
import { byteLengthOf, elementCount, tensorBytes } from '../../onnx/tensor.ts';
import { serializeModel } from '../../onnx/writer.ts';
import type { Pass } from './pass.ts';
import type { Rewriter } from './rewriter.ts';

/** Operators whose result differs from run to run, and those that carry a quantized weight (they must stay to be seen). */
const NEVER = new Set([
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Multinomial',
  'Bernoulli',
  'Dropout',
  'Constant',
  'QuantizeLinear',
  'DequantizeLinear',
]);
/** Results up to this size are kept in any case: shapes, axes, small tables. */
const SMALL_BYTES = 4096;
/** What a run of the constant part may hold at once; a Range or Expand beyond it is left to the runtime. */
const WORK_BYTES = 256 << 20;

const TYPES: Partial<Record<ElementType, DataType>> = {
  float32: DataType.FLOAT,
  float64: DataType.DOUBLE,
  float16: DataType.FLOAT16,
  int8: DataType.INT8,
  uint8: DataType.UINT8,
  int16: DataType.INT16,
  uint16: DataType.UINT16,
  int32: DataType.INT32,
  uint32: DataType.UINT32,
  int64: DataType.INT64,
  uint64: DataType.UINT64,
  bool: DataType.BOOL,
};

/**
 * Constant folding: nodes that depend on constants alone are run once, here, by the runtime itself, so that the result is
 * its own to the last bit.
 * 1. A node of the default domain without subgraph, deterministic, all of whose inputs are constants or results of such nodes.
 * 2. Only values that the rest of the graph uses are kept, and only those of at most 4 KiB or twice the bytes of the
 *    constants they come from: a file must not grow by what ConstantOfShape, Expand or Range makes of ten bytes. (Small
 *    steps on the way to a small value may be large; up to 256 MiB in all.)
 * 3. What the runtime refuses to run is left as it is, with a note.
 * Precondition: Constant nodes are initializers.
 */
export const foldConstants: Pass = {
  name: 'fold-constants',
  report: (count) => `${count} values that depend on constants alone computed in advance`,
  async run(rewriter, context) {
    let foldable = constantNodes(rewriter);
    if (foldable.size === 0) return 0;
    foldable = withinWorkSize(foldable, rewriter, context.types());
    const frontier = [...foldable].flatMap((node) =>
      node.outputs.filter(
        (output) =>
          output !== '' &&
          rewriter.isUsed(output) &&
          !rewriter.isOutput(output) &&
          rewriter.consumers(output).some((user) => !foldable.has(user)),
      ),
    );
    if (frontier.length === 0) return 0;
    const results = await evaluate(rewriter, foldable, frontier, context.types(), context.runner, context.note);
    let folded = 0;
    for (const [name, tensor] of results) {
      if (tensorBytes(tensor).length > Math.max(SMALL_BYTES, 2 * sourceBytes(rewriter, name))) continue;
      const maker = rewriter.producer(name)!;
      rewriter.takeOver(maker, name, rewriter.freshName(`${name}/unused`));
      rewriter.setConstant(tensor);
      folded++;
    }
    return folded;
  },
};

function constantNodes(rewriter: Rewriter): Set<Node> {
  const found = new Set<Node>();
  const values = new Set<string>();
  const known = (value: string) => value === '' || values.has(value) || rewriter.constant(value) !== undefined;
  for (const node of rewriter.nodes()) {
    if (node.domain !== '' || NEVER.has(node.opType) || node.inputs.length === 0 || subgraphsOf(node).length > 0) continue;
    if (!node.inputs.every(known)) continue;
    found.add(node);
    for (const output of node.outputs) if (output !== '') values.add(output);
  }
  return found;
}

/** Drops nodes with results too large to compute here (and, with them, what depends on them). */
function withinWorkSize(nodes: Set<Node>, rewriter: Rewriter, types: Map<string, TensorType>): Set<Node> {
  const kept = new Set<Node>();
  const made = new Set<string>();
  let total = 0;
  for (const node of nodes) {
    const sources = node.inputs.reduce((sum, input) => sum + (rewriter.constant(input) ? tensorLength(rewriter.constant(input)!) : 0), 0);
    let size = 0;
    for (const output of node.outputs) {
      if (output === '') continue;
      const type = types.get(output);
      const dims = type?.shape?.every((dim) => typeof dim === 'number') ? (type.shape as number[]) : null;
      // Where inference doesn't know, operators that only rearrange or compute element by element give about what they take.
      size +=
        type && dims
          ? byteLengthOf(type.elemType, elementCount(dims))
          : EXPLOSIVE.has(node.opType)
            ? Number.POSITIVE_INFINITY
            : 4 * sources;
    }
    const fits = total + size <= WORK_BYTES && node.inputs.every((input) => input === '' || made.has(input) || rewriter.constant(input));
    if (!fits) continue;
    total += size;
    kept.add(node);
    for (const output of node.outputs) made.add(output);
  }
  return kept;
}
const EXPLOSIVE = new Set([
  'ConstantOfShape',
  'Expand',
  'Tile',
  'Range',
  'Resize',
  'Upsample',
  'Pad',
  'OneHot',
  'EyeLike',
  'ScatterND',
  'MatMul',
  'Gemm',
  'Einsum',
  'Conv',
  'ConvTranspose',
]);

function tensorLength(tensor: Tensor): number {
  return tensor.data.kind === 'bytes' ? tensor.data.bytes.length : tensor.data.length;
}

/** Bytes of the constants that a value is made of. */
function sourceBytes(rewriter: Rewriter, value: string): number {
  const seen = new Set<string>();
  let bytes = 0;
  const stack = [value];
  for (let name = stack.pop(); name !== undefined; name = stack.pop()) {
    if (name === '' || seen.has(name)) continue;
    seen.add(name);
    const tensor = rewriter.constant(name);
    if (tensor) bytes += tensorLength(tensor);
    else stack.push(...(rewriter.producer(name)?.inputs ?? []));
  }
  return bytes;
}

async function evaluate(
  rewriter: Rewriter,
  nodes: Set<Node>,
  wanted: string[],
  types: Map<string, TensorType>,
  runner: Runner,
  note: (line: string) => void,
): Promise<Map<string, Tensor>> {
  const initializers = new Map<string, Tensor>();
  for (const node of nodes) {
    for (const input of node.inputs) {
      const tensor = rewriter.constant(input);
      if (tensor) initializers.set(input, { ...tensor, name: input });
    }
  }
  const { model } = rewriter;
  const part: Model = {
    ...model,
    metadata: new Map(),
    unknown: undefined,
    graph: {
      name: 'constants',
      nodes: [...nodes],
      initializers,
      inputs: [],
      outputs: wanted.map((name) => ({ name, type: types.has(name) ? { elemType: types.get(name)!.elemType } : null })),
      valueInfo: new Map(),
    },
  };
  let values: Record<string, TensorValue>;
  try {
    const session = await runner.open(serializeModel(part), { threads: 1, optimization: 'disable' });
    try {
      values = await session.run({}, wanted);
    } finally {
      session.close();
    }
  } catch (error) {
    note(`constant folding was left to the runtime: ${error instanceof Error ? error.message : String(error)}`);
    return new Map();
  }
  const tensors = new Map<string, Tensor>();
  for (const name of wanted) {
    const value = values[name];
    const dataType = value && TYPES[value.type];
    if (value && dataType !== undefined)
      tensors.set(name, { name, dataType, dims: value.dims, data: { kind: 'bytes', bytes: value.bytes } });
  }
  return tensors;
}
