/**
 * Feeds on disk: how the first samples of a data set reach a benchmark's process. A file is the magic, the header's length
 * (uint32, little-endian), the header (JSON: for each sample, each input's type, dims, offset and length), then the values, each
 * at a multiple of 64 bytes from the start of the file so that it can be fed from where it lies.
 */
import { readFile, writeFile } from 'node:fs/promises';
import type { ElementType, TensorValue } from '../domain/runner.ts';

/** One sample: input name → value. */
export type Feeds = Record<string, TensorValue>;

const MAGIC = Buffer.from('HTFEEDS1');
const ALIGN = 64;

interface Entry {
  type: ElementType;
  dims: number[];
  offset: number;
  length: number;
}
const aligned = (offset: number) => Math.ceil(offset / ALIGN) * ALIGN;

/** Writes samples' feeds (input name → value) to `path`. */
export async function writeFeeds(path: string, samples: Feeds[]): Promise<void> {
  // Offsets are of the part after the header, which starts at a multiple of ALIGN itself: else they would depend on their own digits.
  let end = 0;
  const values: { offset: number; bytes: Uint8Array }[] = [];
  const entries = samples.map((sample) =>
    Object.entries(sample).map(([name, { type, dims, bytes }]): [string, Entry] => {
      const offset = aligned(end);
      end = offset + bytes.byteLength;
      values.push({ offset, bytes });
      return [name, { type, dims, offset, length: bytes.byteLength }];
    }),
  );
  const header = Buffer.from(JSON.stringify(entries));
  const start = aligned(MAGIC.length + 4 + header.length);
  const file = Buffer.alloc(start + end);
  MAGIC.copy(file);
  file.writeUInt32LE(header.length, MAGIC.length);
  header.copy(file, MAGIC.length + 4);
  for (const { offset, bytes } of values) file.set(bytes, start + offset);
  await writeFile(path, file);
}

/** Reads what `writeFeeds` wrote; the values are views of one buffer. Throws an Error on a file that is not one, or is cut off. */
export async function readFeeds(path: string): Promise<Feeds[]> {
  const file = await readFile(path);
  const body = MAGIC.length + 4;
  if (file.length < body || !file.subarray(0, MAGIC.length).equals(MAGIC)) throw new Error(`${path} is not a feeds file`);
  const headerLength = file.readUInt32LE(MAGIC.length);
  const start = aligned(body + headerLength);
  if (headerLength > file.length - body) throw new Error(`${path} is cut off in its header`);
  const entries = JSON.parse(file.toString('utf8', body, body + headerLength)) as [string, Entry][][];
  return entries.map((sample) =>
    Object.fromEntries(
      sample.map(([name, { type, dims, offset, length }]): [string, TensorValue] => {
        if (start + offset + length > file.length) throw new Error(`${path} is cut off in the value of '${name}'`);
        return [name, { type, dims, bytes: new Uint8Array(file.buffer, file.byteOffset + start + offset, length) }];
      }),
    ),
  );
}
