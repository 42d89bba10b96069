/** .npz files as numpy.savez writes them: a zip of stored .npy files. */
import { crc32 } from 'node:zlib';

export type NpzArray = { dtype: '<f4' | '<i8' | '|O'; shape: number[]; data: Buffer };

export const floats = (shape: number[], fill: (index: number) => number = (i) => (i % 17) / 17): NpzArray => {
  const count = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: count }, (_, i) => fill(i));
  return { dtype: '<f4', shape, data: Buffer.from(values.buffer) };
};
export const integers = (shape: number[], fill: (index: number) => number = (i) => i % 6): NpzArray => {
  const count = shape.reduce((a, b) => a * b, 1);
  const values = BigInt64Array.from({ length: count }, (_, i) => BigInt(fill(i)));
  return { dtype: '<i8', shape, data: Buffer.from(values.buffer) };
};

function npy({ dtype, shape, data }: NpzArray): Buffer {
  const text = `{'descr': '${dtype}', 'fortran_order': False, 'shape': (${shape.join(', ')}${shape.length === 1 ? ',' : ''}), }`;
  const header = `${text}${' '.repeat(63 - ((10 + text.length) % 64))}\n`;
  const preamble = Buffer.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  return Buffer.concat([preamble, Buffer.from(header, 'latin1'), data]);
}

export function npz(arrays: Record<string, NpzArray>): Buffer {
  const locals: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, array] of Object.entries(arrays)) {
    const file = Buffer.from(`${name}.npy`);
    const body = npy(array);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(body), 10);
    common.writeUInt32LE(body.length, 14);
    common.writeUInt32LE(body.length, 18);
    common.writeUInt16LE(file.length, 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common, file, body]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    central.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00', 'latin1'), common, tail, file]));
    locals.push(local);
    offset += local.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(central.length, 4);
  end.writeUInt16LE(central.length, 6);
  end.writeUInt32LE(directory.length, 8);
  end.writeUInt32LE(offset, 12);
  return Buffer.concat([...locals, directory, Buffer.from('PK\x05\x06', 'latin1'), end]);
}
