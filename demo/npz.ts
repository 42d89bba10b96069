/**
 * Writes an .npz as numpy.savez does: a zip of stored (not compressed) .npy files. No zip64: arrays here are far under 4 GB.
 * Formats: NEP 1 (npy 1.0) and APPNOTE 6.3 (zip).
 */
import { crc32 } from 'node:zlib';

export interface NpyArray {
  data: Float32Array | Float64Array | Int32Array | BigInt64Array;
  shape: number[];
}

const descriptor = (data: NpyArray['data']): string =>
  data instanceof Float32Array ? '<f4' : data instanceof Float64Array ? '<f8' : data instanceof Int32Array ? '<i4' : '<i8';

/** An .npy file (format 1.0). */
export function npy({ data, shape }: NpyArray): Buffer {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  return npyFile(
    `{'descr': '${descriptor(data)}', 'fortran_order': False, 'shape': ${tuple}, }`,
    Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  );
}

/** An .npy file with a header of one's own. */
export function npyFile(text: string, content: Buffer): Buffer {
  // The data start at a multiple of 64 bytes; magic, version and length take 10, the newline 1.
  const header = Buffer.from(text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11, ' ').concat('\n'), 'latin1');
  const prefix = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  return Buffer.concat([prefix, header, content]);
}

/** The bytes of an .npz with these arrays. */
export function npz(arrays: Record<string, NpyArray>): Buffer {
  return zip(Object.fromEntries(Object.entries(arrays).map(([name, array]) => [`${name}.npy`, npy(array)])));
}

/** A zip of stored files. */
export function zip(files: Record<string, Buffer>): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [path, content] of Object.entries(files)) {
    const file = Buffer.from(path, 'utf8');
    // version, flags (UTF-8 names), method 0, time, date (1980-01-01), crc, sizes, name length, extra length
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(0x800, 2);
    common.writeUInt16LE(0x21, 8);
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(content.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(file.length, 22);
    const entry = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common, file]);
    const central = Buffer.alloc(14);
    central.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00', 'latin1'), common, central, file]));
    parts.push(entry, content);
    offset += entry.length + content.length;
  }
  const index = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 0, 'latin1');
  end.writeUInt16LE(directory.length, 8);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(index.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, index, end]);
}
