/**
 * ModelProto → Model. Written by hand over a mapped file, because the input is hostile until proven otherwise and may be many
 * gigabytes: tensors stay views of the file, unknown fields stay as they came, and whatever could make memory grow faster than the
 * file (limits.ts has the list, each with its reason) is counted before it is kept.
 *
 * Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
 */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import { fileBytes } from './bytes.ts';
import { ExternalFiles, normalLocation } from './external.ts';
import type { Attribute, Dim, Graph, Model, Node, RawField, Tensor, TensorData, TensorType, ValueInfo } from './model.ts';
import { DataType } from './model.ts';
import { corrupt, countVarints, eachVarint, ProtoReader, readInt64, WIRE } from './protobuf.ts';
import { byteLengthOf, elementCount, isDataType } from './tensor.ts';

/** Protobuf's libraries count bytes in int32. */
const PROTOBUF_LIMIT_BYTES = 2 ** 31;

export interface ReadOptions {
  /** Where the bytes came from; its folder holds the external data unless `externalDir` says otherwise. */
  path?: string;
  externalDir?: string;
}

/**
 * Reads a model file and finds its external data. The file is mapped: it must not be changed while the model is in use.
 * Errors: not-onnx, model-corrupt (with the byte), model-limit-exceeded, external-data-missing, -path, -range, graph-invalid.
 */
export async function readModel(path: string, options: { externalDir?: string } = {}): Promise<Model> {
  assertModelSize((await stat(path)).size);
  return parseModel(fileBytes(path), { path, ...options });
}

/** Refuses a model file (without its external data) that no runtime could read: model-limit-exceeded. */
export function assertModelSize(size: number): void {
  if (size < PROTOBUF_LIMIT_BYTES) return;
  throw new HalftoneError(
    'model-limit-exceeded',
    `The model file has ${size} bytes; protobuf, and with it every runtime, takes less than 2^31. Save the model with external data.`,
  );
}

/** Reads a model from memory; the model's tensors are views of `bytes`. Errors as `readModel`. */
export function parseModel(bytes: Uint8Array, options: ReadOptions = {}): Model {
  const dir = options.externalDir ?? (options.path === undefined ? undefined : dirname(options.path));
  const files = dir === undefined ? undefined : new ExternalFiles(dir);
  return new ModelReader(bytes, (location, offset, length, tensor, needed) => {
    if (!files)
      throw new HalftoneError(
        'external-data-missing',
        `Tensor '${tensor}' has its data in '${location}', and the model came without files.`,
      );
    const file = files.find(location, tensor);
    const size = length ?? file.size - offset;
    if (offset > file.size || size < 0 || size > file.size - offset) {
      throw new HalftoneError(
        'external-data-range',
        `Tensor '${tensor}' has its data at bytes ${offset} to ${offset + size} of '${location}', which has ${file.size} bytes.`,
      );
    }
    if (size !== needed) throw wrongLength(tensor, needed, size, location);
    return { kind: 'file', path: file.path, offset, length: size };
  }).model();
}

/** A model whose external data is not looked at: its tensors' `path` is the normalised relative location. For headers alone. */
export function parseModelHeaders(bytes: Uint8Array): { model: Model; externalFiles: string[] } {
  const locations = new Set<string>();
  const model = new ModelReader(bytes, (location, offset, length, tensor, needed) => {
    if (length !== undefined && length !== needed) throw wrongLength(tensor, needed, length, location);
    locations.add(location);
    return { kind: 'file', path: location, offset, length: needed };
  }).model();
  return { model, externalFiles: [...locations] };
}

function wrongLength(tensor: string, needed: number, length: number, location: string): HalftoneError {
  return new HalftoneError(
    'external-data-range',
    `Tensor '${tensor}' needs ${needed} bytes, and ${length} are set aside for it in '${location}'.`,
  );
}

type FindExternal = (location: string, offset: number, length: number | undefined, tensor: string, needed: number) => TensorData;

/** A top-level field: where it lies. */
interface Field {
  field: number;
  wire: number;
  at: number;
}

const LIMIT_WORDS = {
  graphNodes: 'nodes',
  initializers: 'tensors',
  valueInfos: 'typed values',
  attributeNumbers: 'numbers in attributes',
  strings: 'strings',
  unknownFields: 'fields that ONNX does not define here',
} as const;

class ModelReader {
  readonly #bytes: Uint8Array;
  readonly #findExternal: FindExternal;
  readonly #counts = { graphNodes: 0, initializers: 0, valueInfos: 0, attributeNumbers: 0, strings: 0, unknownFields: 0 };

  constructor(bytes: Uint8Array, findExternal: FindExternal) {
    // A Buffer's slice() is a view where a Uint8Array's is a copy: only plain arrays go on from here.
    this.#bytes = bytes.constructor === Uint8Array ? bytes : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#findExternal = findExternal;
  }

  #count(what: keyof typeof LIMIT_WORDS, by: number, at: number): void {
    this.#counts[what] += by;
    if (this.#counts[what] > LIMITS[what]) {
      throw new HalftoneError(
        'model-limit-exceeded',
        `The model has more than ${LIMITS[what]} ${LIMIT_WORDS[what]} (at byte ${at}); the limit keeps a small file from filling the memory.`,
      );
    }
  }

  #unknown(r: ProtoReader, holder: { unknown?: RawField[] }): void {
    this.#count('unknownFields', 1, r.start);
    holder.unknown ??= [];
    holder.unknown.push(r.raw());
  }

  /**
   * Tells the three cases apart: a file of another kind (not-onnx), an ONNX file that is damaged (model-corrupt), and one whose
   * outermost fields at least add up. An ONNX file begins with its IR version, as every serializer writes fields in order.
   */
  #checkOutermost(): void {
    const bytes = this.#bytes;
    if (bytes.length === 0) throw new HalftoneError('not-onnx', 'The file is empty.');
    const seen: Field[] = [];
    const r = new ProtoReader(bytes);
    const plausible = () =>
      seen.some(({ field, wire }) => field === 1 && wire === WIRE.varint) ||
      seen.some(({ field, wire }) => field === 8 && wire === WIRE.bytes);
    try {
      while (r.next()) {
        // A few fields decide, and metadata may be many: only the first of each number is kept.
        if (!seen.some(({ field, wire }) => field === r.field && wire === r.wire) && seen.length < 64)
          seen.push({ field: r.field, wire: r.wire, at: r.start });
      }
    } catch (error) {
      if (plausible()) throw error;
      throw new HalftoneError('not-onnx', 'The file is not a protobuf message, which an ONNX file is.', { cause: error });
    }
    if (!plausible() || !seen.some(({ field, wire }) => field === 7 && wire === WIRE.bytes)) {
      throw new HalftoneError(
        'not-onnx',
        'The file is no ONNX model: it has no IR version, operator set or graph where an ONNX model has them.',
      );
    }
  }

  model(): Model {
    this.#checkOutermost();
    const model: Model = {
      irVersion: 0,
      producerName: '',
      producerVersion: '',
      domain: '',
      modelVersion: 0n,
      docString: '',
      opsets: new Map(),
      metadata: new Map(),
      graph: emptyGraph(),
    };
    const r = new ProtoReader(this.#bytes);
    let graphs = 0;
    while (r.next()) {
      switch (r.field) {
        case 1:
          model.irVersion = r.int('The IR version');
          break;
        case 2:
          model.producerName = r.text('The producer’s name');
          break;
        case 3:
          model.producerVersion = r.text('The producer’s version');
          break;
        case 4:
          model.domain = r.text('The model’s domain');
          break;
        case 5:
          model.modelVersion = r.int64('The model’s version');
          break;
        case 6:
          model.docString = r.text('The model’s doc string');
          break;
        case 7:
          if (++graphs > 1) throw corrupt('The model has a second graph', r.start);
          model.graph = this.#graph(r.message('The graph'));
          break;
        case 8: {
          const opset = r.message('An operator set');
          let domain = '';
          let version = 0;
          while (opset.next()) {
            if (opset.field === 1) domain = opset.name('An operator set’s domain');
            else if (opset.field === 2) version = opset.int('An operator set’s version');
          }
          model.opsets.set(normalDomain(domain), version);
          break;
        }
        case 14: {
          const [key, value] = this.#entry(r.message('A metadata entry'));
          this.#count('strings', 2, r.start);
          model.metadata.set(key, value);
          break;
        }
        default:
          this.#unknown(r, model);
      }
    }
    return model;
  }

  /** StringStringEntryProto. */
  #entry(r: ProtoReader): [string, string] {
    let key = '';
    let value = '';
    while (r.next()) {
      if (r.field === 1) key = r.text('A key');
      else if (r.field === 2) value = r.text('A value');
    }
    return [key, value];
  }

  #graph(r: ProtoReader): Graph {
    const graph = emptyGraph();
    while (r.next()) {
      switch (r.field) {
        case 1:
          graph.nodes.push(this.#node(r.message('A node')));
          break;
        case 2:
          graph.name = r.name('The graph’s name');
          break;
        case 5: {
          const at = r.start;
          const tensor = this.#tensor(r.message('An initializer'), '');
          if (tensor.name === '') throw new HalftoneError('graph-invalid', `The initializer at byte ${at} has no name.`);
          if (graph.initializers.has(tensor.name))
            throw new HalftoneError('graph-invalid', `There are two initializers of the name '${tensor.name}'.`);
          graph.initializers.set(tensor.name, tensor);
          break;
        }
        case 10:
          graph.docString = r.text('The graph’s doc string');
          break;
        case 11:
          graph.inputs.push(named(this.#valueInfo(r.message('A graph input')), r.start));
          break;
        case 12:
          graph.outputs.push(named(this.#valueInfo(r.message('A graph output')), r.start));
          break;
        case 13: {
          const info = this.#valueInfo(r.message('A value’s type'));
          if (info.name !== '') graph.valueInfo.set(info.name, info);
          break;
        }
        default:
          this.#unknown(r, graph);
      }
    }
    return graph;
  }

  #node(r: ProtoReader): Node {
    const at = r.pos;
    this.#count('graphNodes', 1, at);
    const node: Node = { name: '', opType: '', domain: '', inputs: [], outputs: [], attributes: new Map() };
    while (r.next()) {
      switch (r.field) {
        case 1:
          node.inputs.push(r.name('A node’s input'));
          break;
        case 2:
          node.outputs.push(r.name('A node’s output'));
          break;
        case 3:
          node.name = r.name('A node’s name');
          break;
        case 4:
          node.opType = r.name('A node’s operator');
          break;
        case 5: {
          const attribute = this.#attribute(r.message('An attribute'), node);
          if (node.attributes.has(attribute.name))
            throw new HalftoneError('graph-invalid', `${describe(node)} has the attribute '${attribute.name}' twice.`);
          node.attributes.set(attribute.name, attribute);
          break;
        }
        case 6:
          node.docString = r.text('A node’s doc string');
          break;
        case 7:
          node.domain = normalDomain(r.name('A node’s domain'));
          break;
        default:
          this.#unknown(r, node);
      }
    }
    if (node.opType === '') throw corrupt(`The node '${node.name}' has no operator`, at);
    if (node.outputs.length === 0) throw new HalftoneError('graph-invalid', `${describe(node)} at byte ${at} has no outputs.`);
    return node;
  }

  #attribute(r: ProtoReader, node: Node): Attribute {
    const whole = r.bytes.subarray(r.pos, r.limit);
    const at = r.pos;
    const common: { name: string; docString?: string; refAttrName?: string; unknown?: RawField[] } = { name: '' };
    let type = 0;
    let inferred = 0;
    let float = 0;
    let int = 0n;
    let bytes: Uint8Array = new Uint8Array(0);
    let tensor: Tensor | undefined;
    let graph: Graph | undefined;
    const floats: number[] = [];
    const ints: bigint[] = [];
    const strings: Uint8Array[] = [];
    const tensors: Tensor[] = [];
    const graphs: Graph[] = [];
    let others = false;
    while (r.next()) {
      const what = `Attribute '${common.name}' of ${describe(node)}`;
      switch (r.field) {
        case 1:
          common.name = r.name('An attribute’s name');
          break;
        case 2:
          float = r.float(what);
          inferred ||= 1;
          break;
        case 3:
          int = r.int64(what);
          inferred ||= 2;
          break;
        case 4:
          bytes = r.view(what);
          inferred ||= 3;
          break;
        case 5:
          tensor = this.#tensor(r.message(what), common.name);
          inferred ||= 4;
          break;
        case 6:
          graph = this.#graph(r.message(what));
          inferred ||= 5;
          break;
        case 7:
          if (r.wire === WIRE.bytes) {
            if ((r.end - r.start) % 4 !== 0) throw corrupt(`${what} ends within a number`, r.start);
            this.#count('attributeNumbers', (r.end - r.start) / 4, r.start);
            const view = new DataView(r.bytes.buffer, r.bytes.byteOffset);
            for (let i = r.start; i < r.end; i += 4) floats.push(view.getFloat32(i, true));
          } else {
            this.#count('attributeNumbers', 1, r.start);
            floats.push(r.float(what));
          }
          inferred ||= 6;
          break;
        case 8:
          if (r.wire === WIRE.bytes) {
            this.#count('attributeNumbers', countVarints(r.bytes, r.start, r.end), r.start);
            eachVarint(r.bytes, r.start, r.end, (from, to) => ints.push(readInt64(r.bytes, from, to)));
          } else {
            this.#count('attributeNumbers', 1, r.start);
            ints.push(r.int64(what));
          }
          inferred ||= 7;
          break;
        case 9:
          this.#count('strings', 1, r.start);
          strings.push(r.view(what));
          inferred ||= 8;
          break;
        case 10:
          tensors.push(this.#tensor(r.message(what), common.name));
          inferred ||= 9;
          break;
        case 11:
          graphs.push(this.#graph(r.message(what)));
          inferred ||= 10;
          break;
        case 13:
          common.docString = r.text(what);
          break;
        case 20:
          type = r.int(what);
          break;
        case 21:
          common.refAttrName = r.name(what);
          others = true;
          break;
        case 14:
        case 15:
        case 22:
        case 23:
          others = true;
          break;
        default:
          this.#unknown(r, common);
      }
    }
    if (common.name === '') throw corrupt(`An attribute of ${describe(node)} has no name`, at);
    if (others) return { name: common.name, refAttrName: common.refAttrName, kind: 'raw', value: whole };
    // Files older than IR version 2 leave the type out: the field that is there tells it.
    switch (type || inferred) {
      case 1:
        return { ...common, kind: 'float', value: float };
      case 2:
        return { ...common, kind: 'int', value: int };
      case 3:
        return { ...common, kind: 'string', value: bytes };
      case 4:
        if (!tensor) throw corrupt(`Attribute '${common.name}' of ${describe(node)} has no tensor`, at);
        return { ...common, kind: 'tensor', value: tensor };
      case 5:
        if (!graph) throw corrupt(`Attribute '${common.name}' of ${describe(node)} has no graph`, at);
        return { ...common, kind: 'graph', value: graph };
      case 6:
        return { ...common, kind: 'floats', value: floats };
      case 7:
        return { ...common, kind: 'ints', value: ints };
      case 8:
        return { ...common, kind: 'strings', value: strings };
      case 9:
        return { ...common, kind: 'tensors', value: tensors };
      case 10:
        return { ...common, kind: 'graphs', value: graphs };
      default:
        return { name: common.name, kind: 'raw', value: whole };
    }
  }

  #valueInfo(r: ProtoReader): ValueInfo {
    this.#count('valueInfos', 1, r.pos);
    const info: ValueInfo = { name: '', type: null };
    while (r.next()) {
      switch (r.field) {
        case 1:
          info.name = r.name('A value’s name');
          break;
        case 2: {
          const { type, exact } = readType(r.message('A value’s type'));
          info.type = type;
          if (exact) delete info.rawType;
          else info.rawType = r.bytes.subarray(r.start, r.end);
          break;
        }
        case 3:
          info.docString = r.text('A value’s doc string');
          break;
        default:
          this.#unknown(r, info);
      }
    }
    return info;
  }

  #tensor(r: ProtoReader, fallbackName: string): Tensor {
    const at = r.pos;
    this.#count('initializers', 1, at);
    const { bytes } = r;
    const tensor: Tensor = { name: '', dataType: DataType.UNDEFINED, dims: [], data: { kind: 'bytes', bytes: bytes.subarray(at, at) } };
    let dataType = 0;
    let raw: Uint8Array | undefined;
    const typed = new TypedData();
    let strings: Uint8Array[] | undefined;
    let external = false;
    const externalEntries = new Map<string, string>();
    const addDim = (value: bigint, where: number) => {
      if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) throw corrupt(`A tensor’s dimension is ${value}`, where);
      if (tensor.dims.length >= LIMITS.tensorRank) {
        throw new HalftoneError(
          'model-limit-exceeded',
          `The tensor at byte ${at} has more than ${LIMITS.tensorRank} dimensions; no operator takes as many.`,
        );
      }
      tensor.dims.push(Number(value));
    };
    while (r.next()) {
      switch (r.field) {
        case 1:
          if (r.wire === WIRE.bytes) eachVarint(bytes, r.start, r.end, (from, to) => addDim(readInt64(bytes, from, to), from));
          else addDim(r.int64('A tensor’s dimension'), r.start);
          break;
        case 2:
          dataType = r.int('A tensor’s type');
          break;
        case 3:
          throw corrupt('A tensor comes in segments, which no runtime reads', r.start);
        case 4:
        case 5:
        case 7:
        case 10:
        case 11:
          typed.add(r);
          break;
        case 6:
          this.#count('strings', 1, r.start);
          strings ??= [];
          strings.push(r.view('A tensor’s string'));
          break;
        case 8:
          tensor.name = r.name('A tensor’s name');
          break;
        case 9:
          raw = r.view('A tensor’s data');
          break;
        case 12:
          tensor.docString = r.text('A tensor’s doc string');
          break;
        case 13: {
          const [key, value] = this.#entry(r.message('A tensor’s external data'));
          if (externalEntries.size < 16) externalEntries.set(key, value);
          break;
        }
        case 14:
          external = r.int('A tensor’s data location') === 1;
          break;
        default:
          this.#unknown(r, tensor);
      }
    }
    const label = tensor.name || fallbackName || `at byte ${at}`;
    if (!isDataType(dataType)) throw corrupt(`Tensor '${label}' has the type ${dataType}, which is none that this reader knows`, at);
    tensor.dataType = dataType;
    const count = elementCount(tensor.dims);
    if (!Number.isSafeInteger(count))
      throw corrupt(`Tensor '${label}' has the dimensions [${tensor.dims.join(', ')}], more elements than there can be`, at);
    if (dataType === DataType.STRING) {
      tensor.strings = strings ?? [];
      if (external || raw?.length) throw corrupt(`Tensor '${label}' holds strings in a place for numbers`, at);
      if (tensor.strings.length !== count)
        throw corrupt(
          `Tensor '${label}' has ${tensor.strings.length} strings where its dimensions [${tensor.dims.join(', ')}] need ${count}`,
          at,
        );
      return tensor;
    }
    const needed = byteLengthOf(dataType, count);
    if (external) {
      tensor.data = this.#external(externalEntries, label, needed);
      return tensor;
    }
    if (dataType === DataType.UNDEFINED) {
      if (raw?.length || typed.field !== 0) throw corrupt(`Tensor '${label}' has data but no type`, at);
      return tensor;
    }
    const data = raw?.length ? raw : (typed.normalise(dataType, count, label, at) ?? raw ?? bytes.subarray(at, at));
    if (data.length !== needed) {
      throw corrupt(`Tensor '${label}' has ${data.length} bytes where its dimensions [${tensor.dims.join(', ')}] need ${needed}`, at);
    }
    tensor.data = { kind: 'bytes', bytes: data };
    return tensor;
  }

  #external(entries: Map<string, string>, label: string, needed: number): TensorData {
    const number = (key: string) => {
      const text = entries.get(key);
      if (text === undefined) return undefined;
      const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
      if (!Number.isSafeInteger(value))
        throw new HalftoneError(
          'external-data-range',
          `Tensor '${label}' has the ${key} '${text.slice(0, 100)}', which is not a number of bytes.`,
        );
      return value;
    };
    const location = normalLocation(entries.get('location') ?? '', label);
    return this.#findExternal(location, number('offset') ?? 0, number('length'), label, needed);
  }
}

/** The typed data fields of a tensor, as stretches of the file, brought into raw_data's layout. */
class TypedData {
  /** 0 = none of them was there. */
  field = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #stretches: number[] = [];

  add(r: ProtoReader): void {
    if (r.start === r.end) return;
    if (this.field !== 0 && this.field !== r.field) throw corrupt('A tensor has its data in two fields', r.start);
    this.field = r.field;
    this.#bytes = r.bytes;
    const unpacked = r.field === 4 ? WIRE.fixed32 : r.field === 10 ? WIRE.fixed64 : WIRE.varint;
    if (r.wire !== unpacked && r.wire !== WIRE.bytes) throw corrupt('A tensor’s data has the wrong wire type', r.start);
    this.#stretches.push(r.start, r.end);
  }

  /** Undefined where none of the fields was there. */
  normalise(dataType: DataType, count: number, label: string, at: number): Uint8Array | undefined {
    if (this.field === 0) return undefined;
    if (this.field !== typedField(dataType)) throw corrupt(`Tensor '${label}' of type ${dataType} has its data in field ${this.field}`, at);
    const bytes = this.#bytes;
    const stretches = this.#stretches;
    if (this.field === 4 || this.field === 10) {
      if (stretches.length === 2) return bytes.subarray(stretches[0], stretches[1]);
      let total = 0;
      for (let i = 0; i < stretches.length; i += 2) total += stretches[i + 1]! - stretches[i]!;
      const out = new Uint8Array(total);
      for (let i = 0, to = 0; i < stretches.length; i += 2) {
        out.set(bytes.subarray(stretches[i], stretches[i + 1]), to);
        to += stretches[i + 1]! - stretches[i]!;
      }
      return out;
    }
    let values = 0;
    for (let i = 0; i < stretches.length; i += 2) values += countVarints(bytes, stretches[i]!, stretches[i + 1]!);
    const needed = byteLengthOf(dataType, count);
    // Each int32 of a packed 4-bit type holds one byte, two elements.
    const width = Math.max(1, byteLengthOf(dataType, 1));
    if (values * width !== needed) throw corrupt(`Tensor '${label}' has ${values} values where its dimensions need ${needed / width}`, at);
    const out = new Uint8Array(needed);
    let to = 0;
    for (let i = 0; i < stretches.length; i += 2) {
      eachVarint(bytes, stretches[i]!, stretches[i + 1]!, (from, end) => {
        if (end - from <= 4) {
          let value = 0;
          for (let k = end - 1; k >= from; k--) value = (value << 7) | (bytes[k]! & 0x7f);
          for (let k = 0; k < width; k++) out[to++] = k < 4 ? (value >>> (8 * k)) & 0xff : 0;
        } else {
          let value = BigInt.asUintN(64, readInt64(bytes, from, end));
          for (let k = 0; k < width; k++) {
            out[to++] = Number(value & 0xffn);
            value >>= 8n;
          }
        }
      });
    }
    return out;
  }
}

/** The typed field that onnx.proto3 sets aside for a type. */
function typedField(dataType: DataType): number {
  switch (dataType) {
    case DataType.FLOAT:
    case DataType.COMPLEX64:
      return 4;
    case DataType.DOUBLE:
    case DataType.COMPLEX128:
      return 10;
    case DataType.INT64:
      return 7;
    case DataType.UINT32:
    case DataType.UINT64:
      return 11;
    default:
      return 5;
  }
}

/**
 * TypeProto. `exact` = the type says all that the bytes say, so they need not be kept. Element types that this version does not know
 * and types that are no dense tensors give null.
 */
export function readType(r: ProtoReader): { type: TensorType | null; exact: boolean } {
  let type: TensorType | null = null;
  let exact = true;
  while (r.next()) {
    if (r.field !== 1) {
      exact = false;
      continue;
    }
    const tensor = r.message('A tensor type');
    let elemType = 0;
    let shape: Dim[] | undefined;
    while (tensor.next()) {
      if (tensor.field === 1) elemType = tensor.int('An element type');
      else if (tensor.field === 2) {
        const dims = tensor.message('A shape');
        shape = [];
        while (dims.next()) {
          if (dims.field !== 1) {
            exact = false;
            continue;
          }
          if (shape.length >= LIMITS.tensorRank) {
            throw new HalftoneError(
              'model-limit-exceeded',
              `The shape at byte ${dims.start} has more than ${LIMITS.tensorRank} dimensions; no operator takes as many.`,
            );
          }
          const dim = dims.message('A dimension');
          let value: Dim = null;
          while (dim.next()) {
            if (dim.field === 1) {
              const size = dim.int('A dimension');
              // Some exporters write −1 for a free dimension.
              value = size < 0 ? null : size;
            } else if (dim.field === 2) value = dim.name('A dimension’s name') || null;
            else exact = false;
          }
          shape.push(value);
        }
      } else exact = false;
    }
    if (isDataType(elemType)) type = shape ? { elemType, shape } : { elemType };
    else exact = false;
  }
  return { type, exact: exact && type !== null };
}

function emptyGraph(): Graph {
  return { name: '', nodes: [], initializers: new Map(), inputs: [], outputs: [], valueInfo: new Map() };
}

function named(info: ValueInfo, at: number): ValueInfo {
  if (info.name === '') throw new HalftoneError('graph-invalid', `The graph’s input or output at byte ${at} has no name.`);
  return info;
}

/** 'ai.onnx' is another spelling of the default domain. */
const normalDomain = (domain: string): string => (domain === 'ai.onnx' ? '' : domain);

/** A node in words, for messages. */
function describe(node: Node): string {
  return node.name ? `node '${node.name}' (${node.opType})` : `an unnamed ${node.opType || 'node'}`;
}
