/**
 * Model → ModelProto, streamed: small fields are gathered, tensors go from where they lie (memory, a mapped file, another file)
 * straight to the disk, and the hash is taken on the way. The same model always gives the same bytes: fields in order of their
 * numbers, entries in order of their maps, no time stamps.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HalftoneError } from '../domain/errors.ts';
import { fileBytes } from './bytes.ts';
import type { Attribute, Graph, Model, Node, Tensor, TensorType, ValueInfo } from './model.ts';
import { DataType } from './model.ts';
import { type Part, ProtoReader, ProtoWriter } from './protobuf.ts';
import { readType } from './reader.ts';

/** Protobuf libraries read messages below 2^31 bytes; the margin leaves room for what a runtime adds when it saves the model again. */
const PROTOBUF_LIMIT_BYTES = 1_900_000_000;
/** Where external data is needed, smaller tensors stay inside: shape inference reads them. ONNX's own tools use the same 1024. */
const EXTERNAL_FROM_BYTES = 1024;
/** ONNX recommends offsets at page boundaries for large tensors, so that runtimes can map them (its own writer does so from 1 MB). */
const PAGE_BYTES = 4096;
const PAGE_ALIGN_FROM_BYTES = 1 << 20;
const ALIGN_BYTES = 64;
/** Written and hashed in pieces of this size, so that other work gets its turn. */
const PIECE_BYTES = 4 << 20;

export interface WriteOptions {
  /** Initializers from this size on go into an external file, whatever the model's size. Default: only where the model would pass 1.9 GB, then from 1024 bytes. */
  externalDataThresholdBytes?: number;
  /** Size above which the model does without its initializers. Default: 1.9 GB. */
  inlineLimitBytes?: number;
  /** Name of the external file, beside the model. Default: the model's file name and `.data`. */
  externalFileName?: string;
}

export interface WrittenFile {
  path: string;
  /** Name relative to the model's folder. */
  name: string;
  sizeBytes: number;
  sha256: string;
}

/** Where a tensor's bytes go when they don't stay in the model. */
interface External {
  location: string;
  offset: number;
  length: number;
}

/**
 * Writes a model, the model file first in `files`, then its external data where there is any. Files appear under their names
 * only when they are whole, so a model may be written over the one it was read from. Errors: storage-full; else Node's own.
 */
export async function writeModel(model: Model, path: string, options: WriteOptions = {}): Promise<{ files: WrittenFile[] }> {
  let threshold = options.externalDataThresholdBytes;
  let inline = threshold === undefined ? encode(model, new Map()) : undefined;
  if (inline && inline.length > (options.inlineLimitBytes ?? PROTOBUF_LIMIT_BYTES)) {
    inline = undefined;
    threshold = EXTERNAL_FROM_BYTES;
  }
  const placed = new Map<Tensor, External>();
  const externalParts: Part[] = [];
  const location = options.externalFileName ?? `${basename(path)}.data`;
  if (!inline) {
    let end = 0;
    for (const tensor of initializersOf(model.graph)) {
      const length = tensor.data.kind === 'bytes' ? tensor.data.bytes.length : tensor.data.length;
      if (tensor.dataType === DataType.STRING || length < Math.max(1, threshold ?? 0)) continue;
      const boundary = length >= PAGE_ALIGN_FROM_BYTES ? PAGE_BYTES : ALIGN_BYTES;
      const offset = Math.ceil(end / boundary) * boundary;
      if (offset > end) externalParts.push(new Uint8Array(offset - end));
      externalParts.push(tensorPart(tensor));
      placed.set(tensor, { location, offset, length });
      end = offset + length;
    }
    inline = encode(model, placed);
    if (inline.length > PROTOBUF_LIMIT_BYTES) {
      throw new HalftoneError(
        'model-limit-exceeded',
        `Without its initializers the model is still ${inline.length} bytes, and protobuf takes 2^31. Make large constants initializers.`,
      );
    }
  }
  const targets: { name: string; parts: Part[] }[] = [{ name: basename(path), parts: inline.parts() }];
  if (placed.size > 0) targets.push({ name: location, parts: externalParts });
  const files: WrittenFile[] = [];
  const partial: string[] = [];
  try {
    for (const { name, parts } of targets) {
      const file = join(dirname(path), name);
      partial.push(`${file}.part`);
      files.push({ path: file, name, ...(await writeParts(parts, `${file}.part`)) });
    }
    // The external file first: a model never stands beside data that isn't there yet.
    for (const { path: file } of [...files].reverse()) await rename(`${file}.part`, file);
  } catch (error) {
    await Promise.all(partial.map((file) => rm(file, { force: true })));
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOSPC' || code === 'EDQUOT')
      throw new HalftoneError('storage-full', `There is no room to write ${basename(path)}.`, { cause: error });
    throw error;
  }
  return { files };
}

/**
 * A model as one array of bytes, external data brought inside. For models that are small; large ones go through `writeModel`.
 * `into`: where the bytes go if they fit there, so that who opens many models in turn does not allocate each.
 */
export function serializeModel(model: Model, into?: Uint8Array): Uint8Array {
  const encoded = encode(model, new Map());
  const out = into && into.length >= encoded.length ? into.subarray(0, encoded.length) : new Uint8Array(encoded.length);
  let to = 0;
  for (const part of encoded.parts()) {
    out.set(part instanceof Uint8Array ? part : fileBytes(part.path, part.offset, part.length), to);
    to += part.length;
  }
  return out;
}

async function writeParts(parts: Part[], path: string): Promise<{ sizeBytes: number; sha256: string }> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const out = await open(path, 'w');
  try {
    const write = async (bytes: Uint8Array) => {
      sizeBytes += bytes.length;
      let done = 0;
      // The hash is taken while the disk works.
      const first = out.write(bytes, 0, bytes.length);
      hash.update(bytes);
      for (let { bytesWritten } = await first; ; { bytesWritten } = await out.write(bytes, done, bytes.length - done)) {
        done += bytesWritten;
        if (done >= bytes.length) return;
      }
    };
    let small: Uint8Array[] = [];
    let smallBytes = 0;
    const flush = async () => {
      if (smallBytes > 0) await write(Buffer.concat(small, smallBytes));
      small = [];
      smallBytes = 0;
    };
    for (const part of parts) {
      if (part instanceof Uint8Array && part.length < PIECE_BYTES / 4) {
        small.push(part);
        smallBytes += part.length;
        if (smallBytes >= PIECE_BYTES) await flush();
        continue;
      }
      await flush();
      if (part instanceof Uint8Array) {
        for (let from = 0; from < part.length; from += PIECE_BYTES) await write(part.subarray(from, from + PIECE_BYTES));
      } else {
        const source = await open(part.path, 'r');
        try {
          for (let from = 0; from < part.length; from += PIECE_BYTES) {
            await write(await readPiece(source, part, from, Math.min(PIECE_BYTES, part.length - from)));
          }
        } finally {
          await source.close();
        }
      }
    }
    await flush();
  } finally {
    await out.close();
  }
  return { sizeBytes, sha256: hash.digest('hex') };
}

async function readPiece(source: FileHandle, part: { path: string; offset: number }, from: number, size: number): Promise<Uint8Array> {
  const piece = Buffer.allocUnsafe(size);
  for (let done = 0; done < size; ) {
    const { bytesRead } = await source.read(piece, done, size - done, part.offset + from + done);
    if (bytesRead === 0) throw new HalftoneError('external-data-range', `'${basename(part.path)}' became shorter while it was read.`);
    done += bytesRead;
  }
  return piece;
}

/** Initializers of the graph and of its subgraphs, in file order. */
function* initializersOf(graph: Graph): Generator<Tensor> {
  yield* graph.initializers.values();
  for (const node of graph.nodes) {
    for (const attribute of node.attributes.values()) {
      if (attribute.kind === 'graph') yield* initializersOf(attribute.value);
      else if (attribute.kind === 'graphs') for (const inner of attribute.value) yield* initializersOf(inner);
    }
  }
}

const tensorPart = (tensor: Tensor): Part => (tensor.data.kind === 'bytes' ? tensor.data.bytes : tensor.data);

type Placed = ReadonlyMap<Tensor, External>;

function encode(model: Model, placed: Placed): ProtoWriter {
  const w = new ProtoWriter();
  w.int64(1, model.irVersion);
  if (model.producerName) w.string(2, model.producerName);
  if (model.producerVersion) w.string(3, model.producerVersion);
  if (model.domain) w.string(4, model.domain);
  if (model.modelVersion !== 0n) w.int64(5, model.modelVersion);
  if (model.docString) w.string(6, model.docString);
  w.message(7, (inner) => encodeGraph(inner, model.graph, placed));
  for (const [domain, version] of model.opsets) {
    w.message(8, (inner) => {
      if (domain) inner.string(1, domain);
      inner.int64(2, version);
    });
  }
  for (const [key, value] of model.metadata) w.message(14, (inner) => encodeEntry(inner, key, value));
  for (const field of model.unknown ?? []) w.raw(field);
  return w;
}

function encodeEntry(w: ProtoWriter, key: string, value: string): void {
  w.string(1, key);
  w.string(2, value);
}

function encodeGraph(w: ProtoWriter, graph: Graph, placed: Placed): void {
  for (const node of graph.nodes) w.message(1, (inner) => encodeNode(inner, node, placed));
  // The name is required by ONNX Runtime's checker, also when it is empty.
  w.string(2, graph.name);
  for (const tensor of graph.initializers.values()) w.message(5, (inner) => encodeTensor(inner, tensor, placed));
  if (graph.docString) w.string(10, graph.docString);
  for (const info of graph.inputs) w.message(11, (inner) => encodeValueInfo(inner, info));
  for (const info of graph.outputs) w.message(12, (inner) => encodeValueInfo(inner, info));
  for (const info of graph.valueInfo.values()) w.message(13, (inner) => encodeValueInfo(inner, info));
  for (const field of graph.unknown ?? []) w.raw(field);
}

function encodeNode(w: ProtoWriter, node: Node, placed: Placed): void {
  for (const input of node.inputs) w.string(1, input);
  for (const output of node.outputs) w.string(2, output);
  if (node.name) w.string(3, node.name);
  w.string(4, node.opType);
  for (const attribute of node.attributes.values()) w.message(5, (inner) => encodeAttribute(inner, attribute, placed));
  if (node.docString) w.string(6, node.docString);
  if (node.domain) w.string(7, node.domain);
  for (const field of node.unknown ?? []) w.raw(field);
}

/** AttributeProto.AttributeType, by kind. */
const ATTRIBUTE_TYPE = {
  float: 1,
  int: 2,
  string: 3,
  tensor: 4,
  graph: 5,
  floats: 6,
  ints: 7,
  strings: 8,
  tensors: 9,
  graphs: 10,
} as const;

function encodeAttribute(w: ProtoWriter, attribute: Attribute, placed: Placed): void {
  if (attribute.kind === 'raw') {
    w.append(attribute.value);
    return;
  }
  w.string(1, attribute.name);
  switch (attribute.kind) {
    case 'float':
      w.float(2, attribute.value);
      break;
    case 'int':
      w.int64(3, attribute.value);
      break;
    case 'string':
      w.bytes(4, attribute.value);
      break;
    case 'tensor':
      w.message(5, (inner) => encodeTensor(inner, attribute.value, placed));
      break;
    case 'graph':
      w.message(6, (inner) => encodeGraph(inner, attribute.value, placed));
      break;
    case 'floats':
      for (const value of attribute.value) w.float(7, value);
      break;
    case 'ints':
      for (const value of attribute.value) w.int64(8, value);
      break;
    case 'strings':
      for (const value of attribute.value) w.bytes(9, value);
      break;
    case 'tensors':
      for (const value of attribute.value) w.message(10, (inner) => encodeTensor(inner, value, placed));
      break;
    case 'graphs':
      for (const value of attribute.value) w.message(11, (inner) => encodeGraph(inner, value, placed));
      break;
  }
  if (attribute.docString) w.string(13, attribute.docString);
  w.int64(20, ATTRIBUTE_TYPE[attribute.kind]);
  for (const field of attribute.unknown ?? []) w.raw(field);
}

function encodeTensor(w: ProtoWriter, tensor: Tensor, placed: Placed): void {
  if (tensor.dims.length > 0) {
    w.message(1, (inner) => {
      for (const dim of tensor.dims) inner.varint(dim);
    });
  }
  w.int64(2, tensor.dataType);
  for (const value of tensor.strings ?? []) w.bytes(6, value);
  if (tensor.name) w.string(8, tensor.name);
  const external = placed.get(tensor);
  if (!external && tensor.dataType !== DataType.STRING && tensor.dataType !== DataType.UNDEFINED) w.bytes(9, tensorPart(tensor));
  if (tensor.docString) w.string(12, tensor.docString);
  if (external) {
    w.message(13, (inner) => encodeEntry(inner, 'location', external.location));
    w.message(13, (inner) => encodeEntry(inner, 'offset', String(external.offset)));
    w.message(13, (inner) => encodeEntry(inner, 'length', String(external.length)));
    w.int64(14, 1);
  }
  for (const field of tensor.unknown ?? []) w.raw(field);
}

function encodeValueInfo(w: ProtoWriter, info: ValueInfo): void {
  w.string(1, info.name);
  const { type, rawType } = info;
  if (rawType && (type === null || sameType(readType(new ProtoReader(rawType)).type, type))) w.bytes(2, rawType);
  else if (type) w.message(2, (inner) => encodeType(inner, type));
  if (info.docString) w.string(3, info.docString);
  for (const field of info.unknown ?? []) w.raw(field);
}

function encodeType(w: ProtoWriter, type: TensorType): void {
  w.message(1, (tensor) => {
    tensor.int64(1, type.elemType);
    const { shape } = type;
    if (!shape) return;
    tensor.message(2, (dims) => {
      for (const dim of shape) {
        dims.message(1, (inner) => {
          if (typeof dim === 'number') inner.int64(1, dim);
          else if (dim !== null) inner.string(2, dim);
        });
      }
    });
  });
}

function sameType(a: TensorType | null, b: TensorType): boolean {
  if (!a || a.elemType !== b.elemType || a.shape?.length !== b.shape?.length) return false;
  return (a.shape ?? []).every((dim, i) => dim === b.shape?.[i]);
}
