/**
 * An artifact of several files as one .tar (POSIX ustar, pax headers where a name or size needs them), laid out without
 * reading a byte of the files: its size and any range of it follow from names and sizes alone, and the same files always
 * give the same bytes. Fixed owner, mode 0644, time 0.
 */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { ByteRange } from '../../domain/objects.ts';

export interface TarEntry {
  path: string;
  sizeBytes: number;
  sha256: string;
}

type Piece = { offset: number; size: number } & ({ bytes: Buffer } | { entry: TarEntry });

/** Size of the .tar in bytes. */
export function tarSize(entries: TarEntry[]): number {
  const pieces = layout(entries);
  const last = pieces[pieces.length - 1]!;
  return last.offset + last.size;
}

/** The .tar, or a range of it. `open` gives (a range of) an entry's bytes. */
export function tarStream(
  entries: TarEntry[],
  open: (entry: TarEntry, range: ByteRange) => Promise<Readable>,
  range?: ByteRange,
): Readable {
  const start = range?.start ?? 0;
  const end = range?.end ?? Number.POSITIVE_INFINITY;
  async function* generate(): AsyncGenerator<Uint8Array> {
    for (const piece of layout(entries)) {
      const from = Math.max(start, piece.offset) - piece.offset;
      const to = Math.min(end, piece.offset + piece.size - 1) - piece.offset;
      if (from > to) continue;
      if ('bytes' in piece) yield piece.bytes.subarray(from, to + 1);
      else yield* (await open(piece.entry, { start: from, end: to })) as AsyncIterable<Uint8Array>;
    }
  }
  return Readable.from(generate(), { objectMode: false });
}

/** SHA-256 (hex) of the whole .tar. */
export async function tarSha256(entries: TarEntry[], open: (entry: TarEntry, range: ByteRange) => Promise<Readable>): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of tarStream(entries, open)) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}

function layout(entries: TarEntry[]): Piece[] {
  const pieces: Piece[] = [];
  let offset = 0;
  const push = (size: number, piece: { bytes: Buffer } | { entry: TarEntry }) => {
    if (size === 0) return;
    pieces.push({ offset, size, ...piece });
    offset += size;
  };
  for (const entry of entries) {
    const head = headers(entry);
    push(head.byteLength, { bytes: head });
    push(entry.sizeBytes, { entry });
    const padding = (512 - (entry.sizeBytes % 512)) % 512;
    push(padding, { bytes: Buffer.alloc(padding) });
  }
  push(1024, { bytes: Buffer.alloc(1024) });
  return pieces;
}

/** Largest size that ustar's eleven octal digits hold. */
const USTAR_MAX_SIZE = 8 ** 11 - 1;

function headers(entry: TarEntry): Buffer {
  const records: [string, string][] = [];
  const nameFits = Buffer.byteLength(entry.path) <= 100 && /^[ -~]*$/.test(entry.path);
  if (!nameFits) records.push(['path', entry.path]);
  if (entry.sizeBytes > USTAR_MAX_SIZE) records.push(['size', String(entry.sizeBytes)]);
  const name = nameFits ? entry.path : entry.path.replace(/[^ -~]/g, '_').slice(-100);
  const own = header(name, entry.sizeBytes > USTAR_MAX_SIZE ? 0 : entry.sizeBytes, '0');
  if (records.length === 0) return own;
  const body = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  return Buffer.concat([header('pax_header', body.byteLength, 'x'), body, Buffer.alloc((512 - (body.byteLength % 512)) % 512), own]);
}

/** `length key=value\n`, where the length counts itself. */
function paxRecord(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + 1;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

function header(name: string, size: number, type: string): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, '0');
  block.write(name, 0, 100, 'latin1');
  block.write(`${octal(0o644, 7)}\0`, 100, 'latin1');
  block.write(`${octal(0, 7)}\0`, 108, 'latin1');
  block.write(`${octal(0, 7)}\0`, 116, 'latin1');
  block.write(`${octal(size, 11)}\0`, 124, 'latin1');
  block.write(`${octal(0, 11)}\0`, 136, 'latin1');
  block.write('        ', 148, 'latin1');
  block.write(type, 156, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)}\0 `, 148, 'latin1');
  return block;
}
