import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ElementType } from '../../../src/domain/runner.ts';
import { readFeeds, writeFeeds } from '../../../src/runtime/feeds.ts';

let folder: string;
let path: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-feeds-'));
  path = join(folder, 'feeds.bin');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sizes: Partial<Record<ElementType, number>> = { float32: 4, uint8: 1, int64: 8, float16: 2 };
const value = fc
  .tuple(fc.constantFrom<ElementType>('float32', 'uint8', 'int64', 'float16'), fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }))
  .chain(([type, dims]) => {
    const length = dims.reduce((a, b) => a * b, sizes[type]!);
    return fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => ({ type, dims, bytes }));
  });

it('gives back what was written, each value at a multiple of 64 bytes of the file', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.dictionary(fc.string({ maxLength: 8 }), value, { maxKeys: 4 }), { maxLength: 4 }), async (samples) => {
      await writeFeeds(path, samples);
      const read = await readFeeds(path);
      expect(read.map((sample) => ({ ...sample }))).toEqual(samples.map((sample) => ({ ...sample })));
    }),
    { numRuns: 60 },
  );
});

it('refuses what is not one, and what is cut off', async () => {
  await writeFeeds(path, [{ x: { type: 'float32', dims: [2], bytes: new Uint8Array(8).fill(7) } }]);
  const whole = readFileSync(path);
  for (let length = 0; length < whole.length; length++) {
    writeFileSync(path, whole.subarray(0, length));
    await expect(readFeeds(path), `cut to ${length}`).rejects.toThrow();
  }
  writeFileSync(path, Buffer.concat([Buffer.from('PK'), whole.subarray(2)]));
  await expect(readFeeds(path)).rejects.toThrow(/not a feeds file/);
  const huge = Buffer.from(whole);
  huge.writeUInt32LE(0xffffffff, 8);
  writeFileSync(path, huge);
  await expect(readFeeds(path)).rejects.toThrow(/cut off in its header/);
});
