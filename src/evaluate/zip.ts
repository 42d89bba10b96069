/**
 * The table of contents of a .zip (APPNOTE.TXT 6.3.10): end record, its zip64 form, central directory and each entry's
 * local header. Strict, because the file comes from outside: one archive that fills the file, no disks, no encryption, no
 * entry that shares bytes with another (Fifield 2019, "A better zip bomb"), no size that deflate could not reach.
 */
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { createInflateRaw } from 'node:zlib';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';

export interface ZipEntry {
  name: string;
  compressed: boolean;
  crc32: number;
  compressedBytes: number;
  /** Bytes once inflated, as the directory says; `zipContent` refuses any other number. */
  bytes: number;
  /** Where the entry's bytes begin in the file. */
  dataOffset: number;
}

/** The end record may be followed by a comment of 65535 bytes at most. */
const END_RECORD = 22;
const COMMENT = 0xffff;
/** Names and extra fields of LIMITS.npzArrays entries fit many times; a larger directory is an attack on memory. */
const DIRECTORY_LIMIT = 16 * 1024 * 1024;
/** Deflate cannot pack denser than 1032 : 1 (zlib's technical note); what says so lies. */
const DEFLATE_RATIO = 1033;
const CHUNK = 256 * 1024;

const corrupt = (why: string, cause?: unknown) => new HalftoneError('dataset-corrupt', why, { cause });

/** Reads `length` bytes at `position`; a file that ends before them is damaged. */
async function readExactly(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw corrupt(`the file ends at byte ${position + done}, inside what it says is there`);
    done += bytesRead;
  }
  return bytes;
}

/**
 * Lists a .zip's entries; reads the end of the file and the local headers, nothing of the contents.
 * @throws not-npz where the file is no zip at all, dataset-corrupt where it is a damaged one
 */
export async function readZipDirectory(file: FileHandle): Promise<ZipEntry[]> {
  const { size } = await file.stat();
  const start = await readExactly(file, 0, Math.min(size, 6));
  const tail = await readExactly(file, Math.max(0, size - END_RECORD - COMMENT), Math.min(size, END_RECORD + COMMENT));
  const tailAt = size - tail.length;
  let end = tail.length - END_RECORD;
  while (end >= 0 && !(tail.readUInt32LE(end) === 0x06054b50 && end + END_RECORD + tail.readUInt16LE(end + 20) === tail.length)) end--;
  if (end < 0) {
    if (start.length >= 4 && start.readUInt32LE(0) === 0x04034b50) throw corrupt('the zip has no directory: the file was cut off');
    if (start.toString('latin1') === '\x93NUMPY')
      throw new HalftoneError('not-npz', 'the file is a single .npy; save it with numpy.savez, under the input’s name');
    if (start[0] === 0x80) throw new HalftoneError('not-npz', 'the file is a pickle; pickles are never read');
    throw new HalftoneError('not-npz', size === 0 ? 'the file is empty' : 'the file is not a zip');
  }
  const endAt = tailAt + end;
  let disk = tail.readUInt16LE(end + 4) | tail.readUInt16LE(end + 6);
  let onDisk = tail.readUInt16LE(end + 8);
  let count = tail.readUInt16LE(end + 10);
  let directoryBytes = tail.readUInt32LE(end + 12);
  let directoryAt = tail.readUInt32LE(end + 16);
  let directoryEnd = endAt;
  // Zip64 wherever its locator stands before the end record: writers may use it though every field would fit.
  const locator = endAt >= 20 ? await readExactly(file, endAt - 20, 20) : null;
  if (locator !== null && locator.readUInt32LE(0) === 0x07064b50) {
    const recordAt = uint64(locator, 8);
    if (recordAt + 56 > endAt - 20) throw corrupt('the zip64 end record lies outside the file');
    const record = await readExactly(file, recordAt, 56);
    if (record.readUInt32LE(0) !== 0x06064b50) throw corrupt('the zip64 end record is not where its locator says');
    disk = record.readUInt32LE(16) | record.readUInt32LE(20);
    onDisk = uint64(record, 24);
    count = uint64(record, 32);
    directoryBytes = uint64(record, 40);
    directoryAt = uint64(record, 48);
    directoryEnd = recordAt;
  }
  if (disk !== 0 || onDisk !== count) throw corrupt('the zip is spread over several files');
  if (count > LIMITS.npzArrays) throw corrupt(`the zip has ${count} entries; the limit is ${LIMITS.npzArrays}`);
  if (directoryBytes > DIRECTORY_LIMIT) throw corrupt(`the zip’s directory has ${directoryBytes} bytes; the limit is ${DIRECTORY_LIMIT}`);
  if (directoryAt + directoryBytes !== directoryEnd) throw corrupt('the zip’s directory is not where its end record says');

  const directory = await readExactly(file, directoryAt, directoryBytes);
  const entries: { entry: ZipEntry; headerAt: number }[] = [];
  const names = new Set<string>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > directory.length || directory.readUInt32LE(at) !== 0x02014b50)
      throw corrupt(`entry ${i} of the zip’s directory is damaged`);
    const flags = directory.readUInt16LE(at + 8);
    const method = directory.readUInt16LE(at + 10);
    const crc32 = directory.readUInt32LE(at + 16);
    const nameLength = directory.readUInt16LE(at + 28);
    const extraLength = directory.readUInt16LE(at + 30);
    const commentLength = directory.readUInt16LE(at + 32);
    const nameAt = at + 46;
    const next = nameAt + nameLength + extraLength + commentLength;
    if (next > directory.length) throw corrupt(`entry ${i} of the zip’s directory is cut off`);
    const rawName = directory.subarray(nameAt, nameAt + nameLength);
    const name = decodeName(rawName);
    const shown = JSON.stringify(name.slice(0, 200));
    if (names.has(name)) throw corrupt(`the zip has two entries named ${shown}`);
    names.add(name);
    const fields = {
      bytes: directory.readUInt32LE(at + 24),
      compressedBytes: directory.readUInt32LE(at + 20),
      headerAt: directory.readUInt32LE(at + 42),
    };
    widen(fields, directory.subarray(nameAt + nameLength, nameAt + nameLength + extraLength), shown);
    if ((flags & 0x2041) !== 0) throw corrupt(`entry ${shown} is encrypted`);
    if (method !== 0 && method !== 8) throw corrupt(`entry ${shown} is packed with method ${method}; stored and deflated are read`);
    if (method === 0 && fields.bytes !== fields.compressedBytes) throw corrupt(`entry ${shown} is stored, but its two sizes differ`);
    if (fields.bytes > fields.compressedBytes * DEFLATE_RATIO + 64)
      throw corrupt(`entry ${shown} claims ${fields.bytes} bytes out of ${fields.compressedBytes}, more than deflate can do`);
    if (fields.headerAt + 30 > directoryAt) throw corrupt(`entry ${shown} begins outside the file`);
    const local = await readExactly(file, fields.headerAt, 30);
    const dataOffset = fields.headerAt + 30 + local.readUInt16LE(26) + local.readUInt16LE(28);
    if (local.readUInt32LE(0) !== 0x04034b50 || local.readUInt16LE(8) !== method || local.readUInt16LE(26) !== nameLength)
      throw corrupt(`entry ${shown} has another header than the directory says`);
    if (dataOffset + fields.compressedBytes > directoryAt)
      throw corrupt(`entry ${shown} says it has ${fields.compressedBytes} bytes, more than the file holds`);
    if (!(await readExactly(file, fields.headerAt + 30, nameLength)).equals(rawName))
      throw corrupt(`entry ${shown} has another name in its header`);
    entries.push({
      entry: { name, compressed: method === 8, crc32, compressedBytes: fields.compressedBytes, bytes: fields.bytes, dataOffset },
      headerAt: fields.headerAt,
    });
    at = next;
  }
  if (at !== directory.length) throw corrupt('the zip’s directory is longer than its entries');
  const byPlace = [...entries].sort((a, b) => a.headerAt - b.headerAt);
  for (let i = 1; i < byPlace.length; i++) {
    const before = byPlace[i - 1]!.entry;
    if (before.dataOffset + before.compressedBytes > byPlace[i]!.headerAt)
      throw corrupt(
        `entries ${JSON.stringify(before.name.slice(0, 200))} and ${JSON.stringify(byPlace[i]!.entry.name.slice(0, 200))} share bytes`,
      );
  }
  return entries.map(({ entry }) => entry);
}

/** Replaces the fields that are all ones by those of the zip64 extra field, in the order that the standard gives. */
function widen(fields: { bytes: number; compressedBytes: number; headerAt: number }, extra: Buffer, shown: string): void {
  const wide = (['bytes', 'compressedBytes', 'headerAt'] as const).filter((key) => fields[key] === 0xffffffff);
  if (wide.length === 0) return;
  for (let at = 0; at + 4 <= extra.length; ) {
    const id = extra.readUInt16LE(at);
    const length = extra.readUInt16LE(at + 2);
    if (at + 4 + length > extra.length) break;
    if (id === 1) {
      if (length < wide.length * 8) break;
      wide.forEach((key, i) => {
        fields[key] = uint64(extra, at + 4 + i * 8);
      });
      return;
    }
    at += 4 + length;
  }
  throw corrupt(`entry ${shown} lacks its zip64 sizes`);
}

/** Numbers beyond 2^53 come out as a number larger than any file, so every check against the file's size refuses them. */
function uint64(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
}

/** Names are UTF-8 (flag 11) or code page 437; numpy writes UTF-8, and plain ASCII is both. Anything else is refused rather than guessed. */
function decodeName(raw: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(raw);
  } catch (cause) {
    throw corrupt('an entry’s name is not UTF-8', cause);
  }
}

/**
 * An entry's bytes, inflated where they are packed, in chunks; constant memory. Stopping early is allowed.
 * @throws dataset-corrupt where they do not come to the number that the directory says
 */
export async function* zipContent(file: FileHandle, entry: ZipEntry): AsyncGenerator<Buffer> {
  let seen = 0;
  try {
    for await (const chunk of entry.compressed ? inflated(file, entry) : stored(file, entry)) {
      seen += chunk.length;
      if (seen > entry.bytes) break;
      yield chunk;
    }
  } catch (error) {
    if (error instanceof HalftoneError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!code.startsWith('Z_')) throw error;
    throw corrupt(`entry ${JSON.stringify(entry.name.slice(0, 200))} cannot be inflated (${(error as Error).message})`, error);
  }
  if (seen !== entry.bytes)
    throw corrupt(
      `entry ${JSON.stringify(entry.name.slice(0, 200))} inflates to ${seen > entry.bytes ? 'more' : 'fewer'} than the ${entry.bytes} bytes that the zip says`,
    );
}

async function* stored(file: FileHandle, entry: ZipEntry): AsyncGenerator<Buffer> {
  for (let at = 0; at < entry.compressedBytes; at += CHUNK)
    yield readExactly(file, entry.dataOffset + at, Math.min(CHUNK, entry.compressedBytes - at));
}

async function* inflated(file: FileHandle, entry: ZipEntry): AsyncGenerator<Buffer> {
  const source = Readable.from(stored(file, entry));
  const inflate = createInflateRaw({ chunkSize: CHUNK });
  source.on('error', (error) => inflate.destroy(error));
  source.pipe(inflate);
  try {
    for await (const chunk of inflate) yield chunk as Buffer;
  } finally {
    source.destroy();
    inflate.destroy();
  }
}
