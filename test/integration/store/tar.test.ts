/** The .tar that we lay out, read by programs that we did not write: GNU tar and tar-stream. */
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { extract } from 'tar-stream';
import { afterAll, expect, it } from 'vitest';
import { type TarEntry, tarSha256, tarSize, tarStream } from '../../../src/store/objects/tar.ts';
import { temporaryFolder } from './support.ts';

const folder = temporaryFolder();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Files = { path: string; bytes: Buffer }[];
const entriesOf = (files: Files): TarEntry[] =>
  files.map(({ path: name, bytes }) => ({ path: name, sizeBytes: bytes.length, sha256: createHash('sha256').update(name).digest('hex') }));
const opener = (files: Files) => {
  const byHash = new Map(entriesOf(files).map((entry, i) => [entry.sha256, files[i]!.bytes]));
  return async (entry: TarEntry, range: { start: number; end: number }) =>
    Readable.from([byHash.get(entry.sha256)!.subarray(range.start, range.end + 1)]);
};
async function whole(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
async function read(tar: Buffer): Promise<Files> {
  const files: Files = [];
  const reader = extract();
  Readable.from([tar]).pipe(reader);
  for await (const entry of reader) files.push({ path: entry.header.name, bytes: await whole(entry as unknown as Readable) });
  return files;
}

it('is what GNU tar unpacks', async () => {
  const files = [
    { path: 'model.onnx', bytes: randomBytes(1000) },
    {
      path: 'weights/a very long name, longer than the hundred characters that the oldest headers of the format can hold at most.bin',
      bytes: randomBytes(512),
    },
    { path: 'weights/ümläut.data', bytes: Buffer.alloc(0) },
  ];
  const out = path.join(folder, 'out');
  mkdirSync(out);
  writeFileSync(path.join(folder, 'artifact.tar'), await whole(tarStream(entriesOf(files), opener(files))));
  const unpacked = spawnSync('tar', ['-xf', path.join(folder, 'artifact.tar'), '-C', out], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
  });
  expect([unpacked.status, unpacked.stderr]).toEqual([0, '']);
  for (const file of files) expect(readFileSync(path.join(out, file.path))).toEqual(file.bytes);
});

const names = fc
  .stringMatching(/^[a-zA-Z0-9_é][a-zA-Z0-9_.é/-]{0,150}[a-zA-Z0-9_]$/)
  .filter((name) => !name.includes('//') && !name.split('/').includes('..') && !name.split('/').includes('.'));
const someFiles = fc.uniqueArray(fc.record({ path: names, bytes: fc.uint8Array({ maxLength: 2000 }).map((bytes) => Buffer.from(bytes)) }), {
  selector: (file) => file.path,
  minLength: 1,
  maxLength: 5,
});

it('holds every file under its name, has the size that was foretold, and any range is a part of the whole', () =>
  fc.assert(
    fc.asyncProperty(
      someFiles,
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      async (files, a, b) => {
        const entries = entriesOf(files);
        const tar = await whole(tarStream(entries, opener(files)));
        expect(tar.length).toBe(tarSize(entries));
        expect(await tarSha256(entries, opener(files))).toBe(createHash('sha256').update(tar).digest('hex'));
        expect(await read(tar)).toEqual(files);
        const [start, end] = [a, b].map((at) => Math.floor(at * (tar.length - 1))).sort((x, y) => x - y) as [number, number];
        expect((await whole(tarStream(entries, opener(files), { start, end }))).equals(tar.subarray(start, end + 1))).toBe(true);
      },
    ),
    { numRuns: 60 },
  ));

it('foretells the size of what nobody holds in memory', () => {
  const sizeBytes = 20e9;
  // Header, pax header and its body, the file padded to 512, two empty blocks.
  expect(tarSize([{ path: 'weights.bin', sizeBytes, sha256: 'x' }])).toBe(3 * 512 + Math.ceil(sizeBytes / 512) * 512 + 1024);
});
