import { constants } from 'node:buffer';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cpuFeatures, lockFile, mapFile, setSimd, simd } from '../../../native/index.ts';

let folder: string;
let path: string;
const content = Buffer.from(Array.from({ length: 10_000 }, (_, i) => (i * 7) & 255));
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-native-'));
  path = join(folder, 'file');
  writeFileSync(path, content);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('mapFile', () => {
  it('maps any range of a file', () => {
    expect(Buffer.from(mapFile(path)).equals(content)).toBe(true);
    for (const [offset, length] of [
      [0, 10],
      [1, 1],
      [4095, 2],
      [4096, 4096],
      [5000, undefined],
      [10_000, undefined],
      [9999, 1],
    ] as const) {
      const view = mapFile(path, offset, length);
      expect(Buffer.from(view)).toEqual(content.subarray(offset, length === undefined ? undefined : offset + length));
    }
  });

  it('keeps the alignment of the file in byteOffset, so that typed views can be made where the file allows it', () => {
    const view = mapFile(path, 4100, 400);
    expect(new Float32Array(view.buffer, view.byteOffset, 100).length).toBe(100);
  });

  it('refuses ranges outside the file, folders, and what is not there', () => {
    expect(() => mapFile(path, 10_001)).toThrow(RangeError);
    expect(() => mapFile(path, 0, 10_001)).toThrow('outside');
    expect(() => mapFile(path, -1)).toThrow(RangeError);
    expect(() => mapFile(path, 0.5)).toThrow(RangeError);
    expect(() => mapFile(path, 9_000_000_000_000_000, 10)).toThrow(RangeError);
    expect(() => mapFile(folder)).toThrow('not a regular file');
    expect(() => mapFile(join(folder, 'none'))).toThrow(expect.objectContaining({ code: 'ENOENT', syscall: 'open' }));
  });

  it('says that a file is longer than an array can be', () => {
    const sparse = join(folder, 'sparse');
    const fd = openSync(sparse, 'w');
    ftruncateSync(fd, constants.MAX_LENGTH + 10_000);
    writeSync(fd, 'end', constants.MAX_LENGTH + 9000);
    closeSync(fd);
    expect(() => mapFile(sparse)).toThrow('map it in parts');
    expect(Buffer.from(mapFile(sparse, constants.MAX_LENGTH + 9000, 3)).toString()).toBe('end');
    expect(mapFile(sparse, 1, 2 ** 31)[2 ** 31 - 1]).toBe(0);
  });

  it.skipIf(process.platform !== 'linux')('gives mappings back when they are collected', async () => {
    // In a process of its own, for a collection must be forced; the addon itself is loaded, as TypeScript would need a build.
    const out = execFileSync(
      process.execPath,
      [
        '--expose-gc',
        '-e',
        `const { mapFile } = require(${JSON.stringify(new URL('../../../native/build/Release/halftone.node', import.meta.url).pathname)});
         const { readFileSync } = require('node:fs');
         const maps = () => readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => line.endsWith(${JSON.stringify(path)})).length;
         (async () => {
           let sum = 0;
           for (let i = 0; i < 100; i++) sum += mapFile(${JSON.stringify(path)}, i, 100, 2 ** 32)[0];
           const before = maps();
           for (let i = 0; i < 20 && maps() > 0; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }
           console.log(JSON.stringify({ before, after: maps(), sum }));
         })();`,
      ],
      { encoding: 'utf8' },
    );
    const { before, after } = JSON.parse(out) as { before: number; after: number };
    expect(before).toBe(100);
    expect(after).toBeLessThanOrEqual(1);
  });
});

describe('lockFile', () => {
  it('excludes another open of the file, and not its own', async () => {
    const [a, b] = [openSync(path, 'r'), openSync(path, 'r')];
    try {
      expect(await lockFile(a, 'exclusive', false)).toBe(true);
      expect(await lockFile(a, 'exclusive', false)).toBe(true);
      expect(await lockFile(b, 'shared', false)).toBe(false);
      const waiting = lockFile(b, 'exclusive', true);
      expect(await lockFile(a, 'unlock', false)).toBe(true);
      expect(await waiting).toBe(true);
      expect(await lockFile(b, 'shared', false)).toBe(true);
      expect(await lockFile(a, 'shared', false)).toBe(true);
      expect(await lockFile(a, 'exclusive', false)).toBe(false);
    } finally {
      closeSync(a);
      closeSync(b);
    }
    await expect(lockFile(a, 'exclusive', false)).rejects.toThrow(expect.objectContaining({ code: 'EBADF' }));
    await expect(lockFile(0, 'other' as 'shared', false)).rejects.toThrow(TypeError);
  });

  it('is dropped when its holder is killed', async () => {
    const addonPath = new URL('../../../native/build/Release/halftone.node', import.meta.url).pathname;
    const holder = spawn(process.execPath, [
      '-e',
      `require(${JSON.stringify(addonPath)}).tryLock(require('node:fs').openSync(${JSON.stringify(path)}), 'exclusive'); console.log('held'); setInterval(() => {}, 1000);`,
    ]);
    const fd = openSync(path, 'r');
    try {
      await once(holder.stdout, 'data');
      expect(await lockFile(fd, 'exclusive', false)).toBe(false);
      const waiting = lockFile(fd, 'exclusive', true);
      holder.kill('SIGKILL');
      expect(await waiting).toBe(true);
    } finally {
      holder.kill('SIGKILL');
      closeSync(fd);
    }
  });
});

describe('the processor', () => {
  it.skipIf(process.platform !== 'linux')('has the features that the kernel lists', () => {
    const line = readFileSync('/proc/cpuinfo', 'utf8').match(/^(?:flags|Features)\s*:(.*)$/m)?.[1];
    const kernel = new Set(line?.trim().split(' '));
    const ours = cpuFeatures();
    expect(ours.length).toBeGreaterThan(2);
    expect(ours.filter((feature) => !kernel.has(feature))).toEqual([]);
    for (const feature of ['avx2', 'fma', 'f16c', 'avx512f', 'avx512_vnni', 'avx_vnni', 'amx_int8', 'asimddp', 'i8mm'])
      expect(ours.includes(feature), feature).toBe(kernel.has(feature));
  });

  it('names the level its kernels use', () => {
    if (process.arch === 'x64') expect(simd).toBe(cpuFeatures().includes('avx2') && cpuFeatures().includes('fma') ? 'avx2' : 'scalar');
    if (process.arch === 'arm64') expect(simd).toBe('neon');
    expect(() => setSimd('sse' as 'scalar')).toThrow(TypeError);
  });
});
