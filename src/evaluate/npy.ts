/**
 * The header of an .npy file (numpy/lib/format.py, versions 1.0, 2.0 and 3.0): which numbers lie behind it and in what
 * order. The header is the repr() of a Python dict; it is read by a literal parser that knows strings, numbers, True,
 * False, None, tuples, lists and dicts and nothing else, so nothing of it is ever evaluated.
 */
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import type { ElementType } from '../domain/runner.ts';

/** A header longer than this is an attack on memory: numpy itself refuses more than 10 000 characters unless told otherwise. */
const NPY_HEADER_LIMIT = 65_536;
/** Bytes that tell the header's whole length. */
export const NPY_PREAMBLE = 12;
/** Nesting of the header's literal; structured types nest, and are refused, but must not exhaust the stack. */
const LITERAL_DEPTH = 16;

/** What stands in an .npy's header. */
export interface NpyLayout {
  dtype: ElementType;
  /** numpy's own word for it, as '<f4'. */
  descr: string;
  bigEndian: boolean;
  fortranOrder: boolean;
  shape: number[];
  /** Bytes of one value. */
  itemSize: number;
  /** Bytes before the first value. */
  headerBytes: number;
  /** Bytes of all values: itemSize · Π shape. */
  dataBytes: number;
}

const DTYPES: Record<string, ElementType> = {
  b1: 'bool',
  i1: 'int8',
  i2: 'int16',
  i4: 'int32',
  i8: 'int64',
  u1: 'uint8',
  u2: 'uint16',
  u4: 'uint32',
  u8: 'uint64',
  f2: 'float16',
  f4: 'float32',
  f8: 'float64',
};

/**
 * The bytes from the file's start to the first value, from its first NPY_PREAMBLE bytes.
 * @throws dataset-pickled for a bare pickle, dataset-corrupt for anything else that is no .npy
 */
export function npyHeaderLength(preamble: Uint8Array, array: string): number {
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
  if (preamble.length < NPY_PREAMBLE || magic.some((byte, i) => preamble[i] !== byte)) {
    if (preamble[0] === 0x80)
      throw new HalftoneError('dataset-pickled', `array '${array}' is a bare pickle; save plain numeric arrays with numpy.savez`);
    throw new HalftoneError('dataset-corrupt', `array '${array}' does not begin as an .npy file does`);
  }
  const view = new DataView(preamble.buffer, preamble.byteOffset, preamble.byteLength);
  const major = preamble[6]!;
  const minor = preamble[7]!;
  if (major < 1 || major > 3 || minor !== 0) {
    throw new HalftoneError('dataset-corrupt', `array '${array}' has .npy version ${major}.${minor}; versions 1.0, 2.0 and 3.0 are known`);
  }
  const length = major === 1 ? 10 + view.getUint16(8, true) : 12 + view.getUint32(8, true);
  if (length > NPY_HEADER_LIMIT) {
    throw new HalftoneError('dataset-corrupt', `array '${array}' has a header of ${length} bytes; the limit is ${NPY_HEADER_LIMIT}`);
  }
  return length;
}

/**
 * Reads an .npy's header.
 * @param bytes the file's first bytes, at least `npyHeaderLength` of them
 * @param array the array's name, for messages
 * @throws dataset-pickled for object arrays, dataset-dtype for types that no model takes, dataset-corrupt otherwise
 */
export function parseNpyHeader(bytes: Uint8Array, array: string): NpyLayout {
  const headerBytes = npyHeaderLength(bytes, array);
  if (bytes.length < headerBytes) throw new HalftoneError('dataset-corrupt', `array '${array}' ends inside its header`);
  const major = bytes[6]!;
  const raw = bytes.subarray(major === 1 ? 10 : 12, headerBytes);
  const text = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).toString(major === 3 ? 'utf8' : 'latin1');
  const corrupt = (why: string) => new HalftoneError('dataset-corrupt', `array '${array}' has an .npy header that ${why}`);
  const header = parseLiteral(text, corrupt);
  if (!(header instanceof Map)) throw corrupt('is not a dict');
  for (const key of header.keys()) {
    if (key !== 'descr' && key !== 'fortran_order' && key !== 'shape')
      throw corrupt(`has an unknown key ${JSON.stringify(key).slice(0, 80)}`);
  }
  const descr = header.get('descr');
  const fortranOrder = header.get('fortran_order');
  const shapeLiteral = header.get('shape');
  if (descr === undefined || fortranOrder === undefined || shapeLiteral === undefined) throw corrupt('lacks descr, fortran_order or shape');
  if (typeof fortranOrder !== 'boolean') throw corrupt('has a fortran_order that is neither True nor False');
  if (!(shapeLiteral instanceof Tuple)) throw corrupt('has a shape that is not a tuple');
  if (shapeLiteral.items.length > LIMITS.tensorRank)
    throw corrupt(`has ${shapeLiteral.items.length} dimensions; the limit is ${LIMITS.tensorRank}`);
  const shape = shapeLiteral.items.map((dim) => {
    if (typeof dim !== 'number' || !Number.isSafeInteger(dim) || dim < 0) throw corrupt('has a dimension that is not a whole number');
    return dim;
  });
  if (typeof descr !== 'string') {
    if (holdsObjects(descr)) throw new HalftoneError('dataset-pickled', `array '${array}' is structured and holds Python objects`);
    throw new HalftoneError('dataset-dtype', `array '${array}' is structured; save each field as an array of its own`);
  }
  const order = descr[0] ?? '';
  const kind = descr.slice(1);
  if (kind === 'O' || descr === 'O')
    throw new HalftoneError('dataset-pickled', `array '${array}' has dtype object; give it a numeric dtype before saving`);
  const dtype = Object.hasOwn(DTYPES, kind) ? DTYPES[kind] : undefined;
  if (dtype === undefined || !'<>|='.includes(order) || order === '') {
    const hint = /^[US]/.test(kind)
      ? ' (text)'
      : /^c/.test(kind)
        ? ' (complex)'
        : /^[mM]/.test(kind)
          ? ' (dates)'
          : /^V/.test(kind)
            ? ' (raw bytes)'
            : '';
    throw new HalftoneError(
      'dataset-dtype',
      `array '${array}' has dtype '${descr.slice(0, 40)}'${hint}; bool, int8 to int64, uint8 to uint64, float16, float32 and float64 are taken`,
    );
  }
  const itemSize = Number(kind[1]);
  let dataBytes = itemSize;
  for (const dim of shape) dataBytes *= dim;
  if (!Number.isSafeInteger(dataBytes)) throw corrupt(`has the shape (${shape.join(', ')}), which no file can hold`);
  return { dtype, descr, bigEndian: order === '>' && itemSize > 1, fortranOrder, shape, itemSize, headerBytes, dataBytes };
}

class Tuple {
  readonly items: Literal[];
  constructor(items: Literal[]) {
    this.items = items;
  }
}
type Literal = string | number | boolean | null | Tuple | Literal[] | Map<string, Literal>;

function holdsObjects(literal: Literal): boolean {
  if (typeof literal === 'string') return /^[<>|=]?O/.test(literal);
  const inner =
    literal instanceof Tuple ? literal.items : Array.isArray(literal) ? literal : literal instanceof Map ? [...literal.values()] : [];
  return inner.some(holdsObjects);
}

/** Reads one Python literal that fills the text but for white space. Strings have no escapes but of quote and backslash: repr() of a dtype needs no others. */
function parseLiteral(text: string, corrupt: (why: string) => HalftoneError): Literal {
  let at = 0;
  const skip = () => {
    while (at < text.length && ' \t\r\n'.includes(text[at]!)) at++;
  };
  const string = (): string => {
    const quote = text[at++]!;
    let out = '';
    for (;;) {
      const c = text[at++];
      if (c === undefined || c === '\n') throw corrupt('has an unfinished string');
      if (c === quote) return out;
      if (c !== '\\') out += c;
      else {
        const escaped = text[at++];
        if (escaped !== '\\' && escaped !== "'" && escaped !== '"') throw corrupt('has an escape that is not taken');
        out += escaped;
      }
    }
  };
  const sequence = (close: string, depth: number): { items: Literal[]; comma: boolean } => {
    at++;
    const items: Literal[] = [];
    let comma = false;
    for (;;) {
      skip();
      if (text[at] === close) {
        at++;
        return { items, comma };
      }
      if (items.length > 0 && !comma) throw corrupt('lacks a comma');
      items.push(value(depth + 1));
      skip();
      comma = text[at] === ',';
      if (comma) at++;
    }
  };
  const value = (depth: number): Literal => {
    if (depth > LITERAL_DEPTH) throw corrupt(`nests deeper than ${LITERAL_DEPTH}`);
    skip();
    const c = text[at];
    if (c === undefined) throw corrupt('ends too early');
    if (c === "'" || c === '"') return string();
    if (c === '[') return sequence(']', depth).items;
    if (c === '(') {
      const { items, comma } = sequence(')', depth);
      return items.length === 1 && !comma ? items[0]! : new Tuple(items);
    }
    if (c === '{') {
      at++;
      const map = new Map<string, Literal>();
      for (;;) {
        skip();
        if (text[at] === '}') {
          at++;
          return map;
        }
        const key = value(depth + 1);
        skip();
        if (typeof key !== 'string' || text[at++] !== ':') throw corrupt('has a key that is not a string');
        if (map.has(key)) throw corrupt(`names ${JSON.stringify(key).slice(0, 80)} twice`);
        map.set(key, value(depth + 1));
        skip();
        if (text[at] === ',') at++;
        else if (text[at] !== '}') throw corrupt('lacks a comma');
      }
    }
    // Python 2 wrote long integers as 3L.
    const word = /^(?:True|False|None|-?\d{1,20}L?)(?![\w.])/.exec(text.slice(at, at + 24))?.[0];
    if (word === undefined) throw corrupt(`has something unexpected at character ${at}`);
    at += word.length;
    if (word === 'True' || word === 'False') return word === 'True';
    return word === 'None' ? null : Number(word.replace('L', ''));
  };
  const result = value(0);
  skip();
  if (at < text.length) throw corrupt(`goes on after its end at character ${at}`);
  return result;
}
