/**
 * Arrays of an .npz (a zip of .npy files, as numpy.savez and savez_compressed write it), read in constant memory whatever its size.
 *
 * Rows are read (pread), not mapped: numpy places arrays at odd offsets inside the zip, where no typed array can lie on
 * them, so mapped rows would be copied all the same; pages of a mapping count into the process' resident memory, which
 * would grow with the number of samples; and a mapped file that is cut off kills the process with SIGBUS.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import type { ElementType } from '../domain/runner.ts';
import { NPY_PREAMBLE, type NpyLayout, npyHeaderLength, parseNpyHeader } from './npy.ts';
import { readZipDirectory, type ZipEntry, zipContent } from './zip.ts';

/** One array of an .npz, from its header alone. */
export interface NpyHeader extends NpyLayout {
  name: string;
  /** Deflated in the file (numpy.savez_compressed). */
  compressed: boolean;
}

export interface NpzLimits {
  /** Bytes of all arrays once inflated. */
  inflatedBytes: number;
}
const DEFAULT_LIMITS: NpzLimits = { inflatedBytes: LIMITS.datasetBytes };
/** Rows of a Fortran-order array that are turned at a time. */
const TURN_BYTES = 64 * 1024 * 1024;

/**
 * The arrays of an .npz; reads the zip's directory and each array's header, nothing else.
 * @throws not-npz, dataset-corrupt, dataset-pickled, dataset-dtype, dataset-array-refused
 */
export async function readNpzHeaders(path: string, limits: NpzLimits = DEFAULT_LIMITS): Promise<NpyHeader[]> {
  const file = await open(path, 'r');
  try {
    return (await readHeaders(file, limits)).map(({ header }) => header);
  } finally {
    await file.close();
  }
}

async function readHeaders(file: FileHandle, limits: NpzLimits): Promise<{ header: NpyHeader; entry: ZipEntry }[]> {
  const entries = await readZipDirectory(file);
  if (entries.length === 0) throw new HalftoneError('dataset-empty', 'the .npz has no arrays');
  if (!entries.some((entry) => entry.name.endsWith('.npy'))) throw new HalftoneError('not-npz', 'the zip has no .npy in it');
  let total = 0;
  for (const entry of entries) {
    total += entry.bytes;
    if (total > limits.inflatedBytes) {
      throw new HalftoneError('payload-too-large', `the arrays of the .npz come to more than ${limits.inflatedBytes} bytes once inflated`);
    }
  }
  const out: { header: NpyHeader; entry: ZipEntry }[] = [];
  for (const entry of entries) {
    if (!entry.name.endsWith('.npy')) {
      throw new HalftoneError('dataset-array-refused', `the zip has ${JSON.stringify(entry.name.slice(0, 200))}, which is no .npy`);
    }
    const name = entry.name.slice(0, -4);
    const chunks: Buffer[] = [];
    let have = 0;
    let need = NPY_PREAMBLE;
    let known = false;
    for await (const chunk of zipContent(file, entry)) {
      chunks.push(chunk);
      have += chunk.length;
      if (have >= NPY_PREAMBLE && !known) {
        need = npyHeaderLength(Buffer.concat(chunks), name);
        known = true;
      }
      if (have >= need) break;
    }
    const layout = parseNpyHeader(Buffer.concat(chunks), name);
    if (layout.headerBytes + layout.dataBytes !== entry.bytes) {
      throw new HalftoneError(
        'dataset-corrupt',
        `array '${name}' of shape (${layout.shape.join(', ')}) and type ${layout.dtype} takes ${layout.dataBytes} bytes, but the file has ${entry.bytes - layout.headerBytes}`,
      );
    }
    out.push({ header: { ...layout, name, compressed: entry.compressed }, entry });
  }
  return out;
}

/** An array whose rows (entries along the first axis) can be read in any order. */
export class NpzArray {
  readonly name: string;
  readonly dtype: ElementType;
  readonly shape: readonly number[];
  /** Bytes of one row. */
  readonly rowBytes: number;
  readonly #fd: number;
  readonly #offset: number;
  readonly #swap: number;

  constructor(header: NpyHeader, fd: number, offset: number) {
    this.name = header.name;
    this.dtype = header.dtype;
    this.shape = header.shape;
    this.rowBytes = header.shape.length === 0 ? header.dataBytes : header.itemSize * header.shape.slice(1).reduce((a, b) => a * b, 1);
    this.#fd = fd;
    this.#offset = offset;
    this.#swap = header.bigEndian ? header.itemSize : 1;
  }

  /** Rows `start` to `start + count`, little-endian and row-major, in memory of their own that is aligned for any type. Blocks for the read: microseconds from the page cache. */
  rows(start: number, count: number): Uint8Array {
    const bytes = Buffer.allocUnsafeSlow(this.rowBytes * count);
    const from = this.#offset + start * this.rowBytes;
    for (let done = 0; done < bytes.length; ) {
      const read = readSync(this.#fd, bytes, done, Math.min(bytes.length - done, 1 << 30), from + done);
      if (read === 0) throw new HalftoneError('dataset-corrupt', `the file of array '${this.name}' was cut off while it was read`);
      done += read;
    }
    if (this.#swap === 2) bytes.swap16();
    else if (this.#swap === 4) bytes.swap32();
    else if (this.#swap === 8) bytes.swap64();
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
}

/** An open .npz. `close` gives its files back and removes what was inflated. */
export interface Npz {
  arrays: Map<string, NpzArray>;
  close(): Promise<void>;
}

/**
 * Opens an .npz for reading rows. Arrays that are stored in C order are read where they lie; deflated ones and those in
 * Fortran order are written once, streamed, into a file in `workDir`.
 * @throws as readNpzHeaders; dataset-corrupt where a checksum does not match; storage-full where `workDir` has no room
 */
export async function openNpz(path: string, workDir: string, limits: NpzLimits = DEFAULT_LIMITS): Promise<Npz> {
  const file = await open(path, 'r');
  const fds: number[] = [];
  const staged: string[] = [];
  const close = async () => {
    for (const fd of fds.splice(0)) closeSync(fd);
    for (const name of staged.splice(0)) await unlink(name).catch(() => undefined);
  };
  try {
    const arrays = new Map<string, NpzArray>();
    const plain = openSync(path, 'r');
    fds.push(plain);
    const stage = async (suffix: string, write: (out: FileHandle) => Promise<void>): Promise<number> => {
      const name = join(workDir, `npz-${randomBytes(8).toString('hex')}.${suffix}`);
      staged.push(name);
      const out = await open(name, 'wx');
      try {
        await write(out);
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'ENOSPC')
          throw new HalftoneError('storage-full', 'no room is left to inflate the data set', { cause });
        throw cause;
      } finally {
        await out.close();
      }
      const fd = openSync(name, 'r');
      fds.push(fd);
      return fd;
    };
    for (const { header, entry } of await readHeaders(file, limits)) {
      let fd = plain;
      let offset = entry.dataOffset + header.headerBytes;
      if (!header.compressed) await checkStored(file, entry);
      else {
        fd = await stage('inflated', (out) => inflate(file, entry, out));
        offset = header.headerBytes;
      }
      // One dimension reads the same both ways.
      if (header.fortranOrder && header.shape.length > 1 && header.dataBytes > 0) {
        const from = { fd, offset };
        fd = await stage('turned', (out) => turn(header, from, out));
        offset = 0;
      }
      arrays.set(header.name, new NpzArray(header, fd, offset));
    }
    return { arrays, close };
  } catch (error) {
    await close();
    throw error;
  } finally {
    await file.close();
  }
}

const checksumWrong = (entry: ZipEntry) =>
  new HalftoneError('dataset-corrupt', `the checksum of ${JSON.stringify(entry.name.slice(0, 200))} does not match`);

/**
 * Checks the CRC of an entry that is read where it lies: one more read of the file, some 0.3 s a gigabyte. Without it a
 * flipped bit on the way here calibrates the model, and nobody learns of it.
 */
async function checkStored(file: FileHandle, entry: ZipEntry): Promise<void> {
  let crc = 0;
  for await (const chunk of zipContent(file, entry)) crc = crc32(chunk, crc);
  if (crc !== entry.crc32) throw checksumWrong(entry);
}

/** Streams an entry into a file and checks its CRC on the way. */
async function inflate(file: FileHandle, entry: ZipEntry, out: FileHandle): Promise<void> {
  let crc = 0;
  for await (const chunk of zipContent(file, entry)) {
    crc = crc32(chunk, crc);
    for (let done = 0; done < chunk.length; ) done += (await out.write(chunk, done)).bytesWritten;
  }
  if (crc !== entry.crc32) throw checksumWrong(entry);
}

/**
 * Writes a column-major array row-major. In column-major order the rows' values at one inner position lie side by side, so a
 * block of rows is gathered with one read for each inner position.
 */
async function turn(header: NpyHeader, from: { fd: number; offset: number }, out: FileHandle): Promise<void> {
  const size = header.itemSize;
  const [n, ...inner] = header.shape as [number, ...number[]];
  const rowItems = inner.reduce((a, b) => a * b, 1);
  const block = Math.max(1, Math.min(n, Math.floor(TURN_BYTES / (rowItems * size))));
  // Column-major step of each inner axis, in inner positions.
  const rank = inner.length;
  for (let start = 0; start < n; start += block) {
    const rows = Math.min(block, n - start);
    const turned = Buffer.allocUnsafe(rows * rowItems * size);
    const column = Buffer.allocUnsafe(rows * size);
    const index = new Array<number>(rank).fill(0);
    for (let position = 0; position < rowItems; position++) {
      // `position` counts column-major (first inner axis fastest); `target` is the same place row-major.
      let target = 0;
      for (let axis = 0; axis < rank; axis++) target = target * inner[axis]! + index[axis]!;
      for (let axis = 0; axis < rank && ++index[axis]! === inner[axis]; axis++) index[axis] = 0;
      for (let done = 0; done < column.length; ) {
        const read = readSync(from.fd, column, done, column.length - done, from.offset + (position * n + start) * size + done);
        if (read === 0) throw new HalftoneError('dataset-corrupt', `the file of array '${header.name}' was cut off while it was read`);
        done += read;
      }
      for (let row = 0; row < rows; row++) column.copy(turned, (row * rowItems + target) * size, row * size, row * size + size);
    }
    for (let done = 0; done < turned.length; ) done += (await out.write(turned, done)).bytesWritten;
  }
}
