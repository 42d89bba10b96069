/** Writes .npz files for tests, as numpy does and in the forms that other writers choose (deflated, zip64, data descriptors). */
import { writeFileSync } from 'node:fs';
import { crc32, deflateRawSync } from 'node:zlib';
import type { ElementType } from '../../../src/domain/runner.ts';

export interface TestArray {
  /** numpy's dtype word, as '<f4'. */
  descr: string;
  shape: number[];
  data: Uint8Array;
  fortranOrder?: boolean;
}

export function npy({ descr, shape, data, fortranOrder = false }: TestArray, version: 1 | 2 | 3 = 1): Buffer {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  return npyRaw(`{'descr': '${descr}', 'fortran_order': ${fortranOrder ? 'True' : 'False'}, 'shape': ${tuple}, }`, data, version);
}

export function npyRaw(header: string, data: Uint8Array, version: 1 | 2 | 3 = 1): Buffer {
  const prefix = version === 1 ? 10 : 12;
  const length = Math.ceil((prefix + header.length + 1) / 64) * 64;
  const out = Buffer.alloc(length, ' ');
  out.write('\x93NUMPY', 'latin1');
  out[6] = version;
  out[7] = 0;
  if (version === 1) out.writeUInt16LE(length - prefix, 8);
  else out.writeUInt32LE(length - prefix, 8);
  out.write(header, prefix, 'latin1');
  out[length - 1] = 0x0a;
  return Buffer.concat([out, data]);
}

export interface ZipOptions {
  deflate?: boolean;
  /** Zip64 fields and end records although nothing needs them. */
  zip64?: boolean;
  /** Sizes and checksum after the data instead of before it. */
  descriptor?: boolean;
}

export function zip(files: Record<string, Buffer>, { deflate = false, zip64 = false, descriptor = false }: ZipOptions = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  const push = (part: Buffer) => {
    parts.push(part);
    at += part.length;
  };
  for (const [name, content] of Object.entries(files)) {
    const packed = deflate ? deflateRawSync(content) : content;
    const raw = Buffer.from(name);
    const headerAt = at;
    const crc = crc32(content);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(descriptor ? 8 : 0, 6);
    local.writeUInt16LE(deflate ? 8 : 0, 8);
    if (!descriptor) {
      local.writeUInt32LE(crc, 14);
      local.writeUInt32LE(zip64 ? 0xffffffff : packed.length, 18);
      local.writeUInt32LE(zip64 ? 0xffffffff : content.length, 22);
    }
    local.writeUInt16LE(raw.length, 26);
    const extra = zip64 ? extra64([content.length, packed.length]) : Buffer.alloc(0);
    local.writeUInt16LE(extra.length, 28);
    push(Buffer.concat([local, raw, extra, packed]));
    if (descriptor) {
      const after = Buffer.alloc(16);
      after.writeUInt32LE(0x08074b50, 0);
      after.writeUInt32LE(crc, 4);
      after.writeUInt32LE(packed.length, 8);
      after.writeUInt32LE(content.length, 12);
      push(after);
    }
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(descriptor ? 8 : 0, 8);
    entry.writeUInt16LE(deflate ? 8 : 0, 10);
    entry.writeUInt32LE(crc, 16);
    entry.writeUInt32LE(zip64 ? 0xffffffff : packed.length, 20);
    entry.writeUInt32LE(zip64 ? 0xffffffff : content.length, 24);
    entry.writeUInt16LE(raw.length, 28);
    const central = zip64 ? extra64([content.length, packed.length, headerAt]) : Buffer.alloc(0);
    entry.writeUInt16LE(central.length, 30);
    entry.writeUInt32LE(zip64 ? 0xffffffff : headerAt, 42);
    directory.push(Buffer.concat([entry, raw, central]));
  }
  const directoryAt = at;
  push(Buffer.concat(directory));
  const directoryBytes = at - directoryAt;
  const count = directory.length;
  if (zip64) {
    const recordAt = at;
    const record = Buffer.alloc(56 + 20);
    record.writeUInt32LE(0x06064b50, 0);
    record.writeBigUInt64LE(44n, 4);
    record.writeBigUInt64LE(BigInt(count), 24);
    record.writeBigUInt64LE(BigInt(count), 32);
    record.writeBigUInt64LE(BigInt(directoryBytes), 40);
    record.writeBigUInt64LE(BigInt(directoryAt), 48);
    record.writeUInt32LE(0x07064b50, 56);
    record.writeBigUInt64LE(BigInt(recordAt), 64);
    record.writeUInt32LE(1, 72);
    push(record);
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(zip64 ? 0xffff : count, 8);
  end.writeUInt16LE(zip64 ? 0xffff : count, 10);
  end.writeUInt32LE(zip64 ? 0xffffffff : directoryBytes, 12);
  end.writeUInt32LE(zip64 ? 0xffffffff : directoryAt, 16);
  push(end);
  return Buffer.concat(parts);
}

function extra64(values: number[]): Buffer {
  const out = Buffer.alloc(4 + values.length * 8);
  out.writeUInt16LE(1, 0);
  out.writeUInt16LE(values.length * 8, 2);
  values.forEach((value, i) => {
    out.writeBigUInt64LE(BigInt(value), 4 + i * 8);
  });
  return out;
}

const bytes = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const WORD: Partial<Record<ElementType, string>> = {
  float32: '<f4',
  float64: '<f8',
  float16: '<f2',
  int64: '<i8',
  int32: '<i4',
  int8: '|i1',
  uint8: '|u1',
  bool: '|b1',
};

/** An array of one of the everyday types from plain numbers. */
export function array(type: ElementType, shape: number[], values: ArrayLike<number>): TestArray {
  const list = Array.from(values);
  const data =
    type === 'float32'
      ? Float32Array.from(list)
      : type === 'float64'
        ? Float64Array.from(list)
        : type === 'int64'
          ? BigInt64Array.from(list.map(BigInt))
          : type === 'int32'
            ? Int32Array.from(list)
            : type === 'float16'
              ? Uint16Array.from(list)
              : Uint8Array.from(list);
  return { descr: WORD[type]!, shape, data: bytes(data) };
}

export const range = (n: number, step = 1): number[] => Array.from({ length: n }, (_, i) => i * step);

/** Writes an .npz of named arrays and returns its path. */
export function writeNpz(path: string, arrays: Record<string, TestArray>, options: ZipOptions = {}): string {
  writeFileSync(path, zip(Object.fromEntries(Object.entries(arrays).map(([name, value]) => [`${name}.npy`, npy(value)])), options));
  return path;
}
