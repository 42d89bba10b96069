/**
 * The protobuf wire format (https://protobuf.dev/programming-guides/encoding/), as far as ONNX uses it: varints, fixed32, fixed64
 * and length-delimited fields. Groups do not occur in ONNX and are refused. Nothing here allocates by a declared size: every length
 * is checked against the bytes that are really left first.
 */
import { isUtf8 } from 'node:buffer';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import type { RawField } from './model.ts';

export const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** The error of a file that does not add up; `at` is the byte position in the file. */
export function corrupt(what: string, at: number): HalftoneError {
  return new HalftoneError('model-corrupt', `${what} (at byte ${at})`);
}

/**
 * A cursor over one message. Positions are absolute in `bytes`, so that an error in a deeply nested message names the byte of
 * the file. After `next()` the tag is in `field` and `wire`; for wire type 2 the payload is [start, end) and already skipped.
 */
export class ProtoReader {
  readonly bytes: Uint8Array;
  readonly depth: number;
  readonly limit: number;
  pos: number;
  field = 0;
  wire = 0;
  /** The current field's payload. For varints and fixed fields too, so that any field can be kept raw. */
  start = 0;
  end = 0;
  #text: Buffer;

  constructor(bytes: Uint8Array, pos = 0, limit = bytes.length, depth = 0, text?: Buffer) {
    if (depth > LIMITS.protobufDepth) {
      throw new HalftoneError(
        'model-limit-exceeded',
        `Messages are nested deeper than ${LIMITS.protobufDepth} at byte ${pos}; real models stay under 20, and deeper ones would exhaust the stack.`,
      );
    }
    this.bytes = bytes;
    this.pos = pos;
    this.limit = limit;
    this.depth = depth;
    this.#text = text ?? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Moves to the next field and over its payload; false at the message's end. */
  next(): boolean {
    if (this.pos >= this.limit) return false;
    const at = this.pos;
    const tag = this.#varint();
    this.field = Math.floor(tag / 8);
    this.wire = tag % 8;
    if (this.field < 1 || this.field > 0x1fffffff) throw corrupt(`There is no field number ${this.field} in protobuf`, at);
    switch (this.wire) {
      case WIRE.varint:
        this.start = this.pos;
        this.#varint();
        break;
      case WIRE.fixed64:
        this.#take(8, at);
        break;
      case WIRE.bytes: {
        const length = this.#varint();
        if (length > this.limit - this.pos) {
          throw corrupt(`Field ${this.field} declares ${length} bytes where ${this.limit - this.pos} are left`, at);
        }
        this.start = this.pos;
        this.pos += length;
        break;
      }
      case WIRE.fixed32:
        this.#take(4, at);
        break;
      default:
        throw corrupt(`Wire type ${this.wire} of field ${this.field} is none that ONNX uses`, at);
    }
    this.end = this.pos;
    return true;
  }

  #take(size: number, at: number): void {
    if (size > this.limit - this.pos) throw corrupt(`Field ${this.field} ends after the message does`, at);
    this.start = this.pos;
    this.pos += size;
  }

  /** A varint as a number; exact up to 2^53, enough to refuse whatever is larger. */
  #varint(): number {
    const { bytes, limit } = this;
    const at = this.pos;
    let value = 0;
    let factor = 1;
    for (let i = 0; i < 10; i++) {
      if (this.pos >= limit) throw corrupt('A varint is cut off', at);
      const byte = bytes[this.pos++]!;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
    throw corrupt('A varint is longer than 10 bytes', at);
  }

  expect(wire: number, what: string): void {
    if (this.wire !== wire) throw corrupt(`${what} has wire type ${this.wire} instead of ${wire}`, this.start);
  }

  /** The current varint as int64. */
  int64(what: string): bigint {
    this.expect(WIRE.varint, what);
    return readInt64(this.bytes, this.start, this.end);
  }

  /** The current varint as int64 in a number; refuses what a number can't hold. */
  int(what: string): number {
    const value = this.int64(what);
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
      throw corrupt(`${what} is ${value}, which no model needs`, this.start);
    }
    return Number(value);
  }

  float(what: string): number {
    this.expect(WIRE.fixed32, what);
    return this.#text.readFloatLE(this.start);
  }

  /** The payload, without a copy. */
  view(what: string): Uint8Array {
    this.expect(WIRE.bytes, what);
    return this.bytes.subarray(this.start, this.end);
  }

  /** Text that names something: must be UTF-8 (two names must not become one by replacement characters) and of sane length. */
  name(what: string): string {
    this.expect(WIRE.bytes, what);
    if (this.end - this.start > LIMITS.nameBytes) {
      throw new HalftoneError(
        'model-limit-exceeded',
        `${what} at byte ${this.start} is ${this.end - this.start} bytes long; names go into maps, logs and reports, and may have ${LIMITS.nameBytes}.`,
      );
    }
    // The runtime's C API and the database both end or refuse a text there.
    if (this.bytes.subarray(this.start, this.end).includes(0)) throw corrupt(`${what} holds a NUL`, this.start);
    if (this.#isAscii()) return this.#text.toString('latin1', this.start, this.end);
    if (!isUtf8(this.bytes.subarray(this.start, this.end))) throw corrupt(`${what} is not UTF-8`, this.start);
    return this.#text.toString('utf8', this.start, this.end);
  }

  /** Text for people; what is not UTF-8 in it is replaced. */
  text(what: string): string {
    this.expect(WIRE.bytes, what);
    return this.#text.toString('utf8', this.start, this.end);
  }

  #isAscii(): boolean {
    const { bytes, end } = this;
    for (let i = this.start; i < end; i++) if (bytes[i]! >= 0x80) return false;
    return true;
  }

  /** A cursor over the payload as a message. */
  message(what: string): ProtoReader {
    this.expect(WIRE.bytes, what);
    return new ProtoReader(this.bytes, this.start, this.end, this.depth + 1, this.#text);
  }

  /** The current field as it stands, its length prefix not among the bytes. */
  raw(): RawField {
    return { field: this.field, wire: this.wire, bytes: this.bytes.subarray(this.start, this.end) };
  }
}

/** A varint known to lie in [start, end) as two's-complement int64. */
export function readInt64(bytes: Uint8Array, start: number, end: number): bigint {
  let low = 0;
  let high = 0;
  const length = end - start;
  for (let i = 0; i < length && i < 4; i++) low += (bytes[start + i]! & 0x7f) * 2 ** (7 * i);
  if (length <= 4) return BigInt(low);
  for (let i = 4; i < length && i < 8; i++) high += (bytes[start + i]! & 0x7f) * 2 ** (7 * (i - 4));
  let value = BigInt(low) + (BigInt(high) << 28n);
  for (let i = 8; i < length; i++) value += BigInt(bytes[start + i]! & 0x7f) << BigInt(7 * i);
  return BigInt.asIntN(64, value);
}

/** How many varints lie in [start, end): one for each byte without the continuation bit. */
export function countVarints(bytes: Uint8Array, start: number, end: number): number {
  let count = 0;
  for (let i = start; i < end; i++) if (bytes[i]! < 0x80) count++;
  return count;
}

/** Calls `take` with each varint of a packed field as [start, end). */
export function eachVarint(bytes: Uint8Array, start: number, end: number, take: (from: number, to: number) => void): void {
  let from = start;
  for (let i = start; i < end; i++) {
    if (bytes[i]! >= 0x80) {
      if (i - from >= 9) throw corrupt('A varint is longer than 10 bytes', from);
      continue;
    }
    take(from, i + 1);
    from = i + 1;
  }
  if (from !== end) throw corrupt('A packed field ends within a varint', from);
}

/** Bytes that go out later: in memory, or a stretch of a file. */
export type Part = Uint8Array | { path: string; offset: number; length: number };

/** Payloads from this size on are referred to, not copied. */
const REFERENCE_BYTES = 4096;

/**
 * Builds a message as a list of parts: small fields are gathered in buffers, large payloads stay where they are (a mapped file,
 * a stretch of another file), so the whole message is never in memory.
 */
export class ProtoWriter {
  #buffer = Buffer.allocUnsafe(256);
  #pos = 0;
  #from = 0;
  #parts: Part[] = [];
  /** Bytes written so far. */
  length = 0;

  #room(size: number): void {
    if (this.#buffer.length - this.#pos >= size) return;
    this.#flush();
    this.#buffer = Buffer.allocUnsafe(Math.min(1 << 20, Math.max(this.#buffer.length * 2, size * 2)));
    if (this.#buffer.length < size) this.#buffer = Buffer.allocUnsafe(size);
    this.#pos = 0;
    this.#from = 0;
  }

  #flush(): void {
    if (this.#pos > this.#from) this.#parts.push(this.#buffer.subarray(this.#from, this.#pos));
    this.#from = this.#pos;
  }

  #varint(value: number): void {
    this.#room(10);
    const before = this.#pos;
    let rest = value;
    while (rest >= 0x80) {
      this.#buffer[this.#pos++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#pos++] = rest;
    this.length += this.#pos - before;
  }

  #tag(field: number, wire: number): void {
    this.#varint(field * 8 + wire);
  }

  int64(field: number, value: bigint | number): this {
    this.#tag(field, WIRE.varint);
    this.varint(value);
    return this;
  }

  /** A bare varint, for packed fields. */
  varint(value: bigint | number): this {
    if (typeof value === 'number' && value >= 0 && Number.isSafeInteger(value)) {
      this.#varint(value);
      return this;
    }
    this.#room(10);
    const before = this.#pos;
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest >= 0x80n) {
      this.#buffer[this.#pos++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    this.#buffer[this.#pos++] = Number(rest);
    this.length += this.#pos - before;
    return this;
  }

  float(field: number, value: number): this {
    this.#tag(field, WIRE.fixed32);
    this.#room(4);
    this.#pos = this.#buffer.writeFloatLE(value, this.#pos);
    this.length += 4;
    return this;
  }

  string(field: number, value: string): this {
    const size = Buffer.byteLength(value);
    this.#tag(field, WIRE.bytes);
    this.#varint(size);
    this.#room(size);
    this.#pos += this.#buffer.write(value, this.#pos);
    this.length += size;
    return this;
  }

  bytes(field: number, value: Part): this {
    this.#tag(field, WIRE.bytes);
    this.#varint(value.length);
    this.append(value);
    return this;
  }

  message(field: number, write: (inner: ProtoWriter) => void): this {
    const inner = new ProtoWriter();
    write(inner);
    this.#tag(field, WIRE.bytes);
    this.#varint(inner.length);
    for (const part of inner.parts()) this.append(part);
    return this;
  }

  /** A field kept raw. */
  raw(field: RawField): this {
    this.#tag(field.field, field.wire);
    if (field.wire === WIRE.bytes) this.#varint(field.bytes.length);
    this.append(field.bytes);
    return this;
  }

  /** Bytes without tag and length. */
  append(part: Part): this {
    if (part.length === 0) return this;
    if (part instanceof Uint8Array && part.length < REFERENCE_BYTES) {
      this.#room(part.length);
      this.#buffer.set(part, this.#pos);
      this.#pos += part.length;
    } else {
      this.#flush();
      this.#parts.push(part);
    }
    this.length += part.length;
    return this;
  }

  /** All that was written, in order. */
  parts(): Part[] {
    this.#flush();
    return this.#parts;
  }
}
