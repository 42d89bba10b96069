import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import { parseNpyHeader } from '../../../src/evaluate/npy.ts';
import { openNpz, readNpzHeaders } from '../../../src/evaluate/npz.ts';
import { array, npy, npyRaw, range, type TestArray, writeNpz, zip } from './npz-writer.ts';

const dir = mkdtempSync(join(tmpdir(), 'halftone-npz-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let count = 0;
const path = () => join(dir, `${count++}.npz`);
const file = (content: Buffer): string => {
  const name = path();
  writeFileSync(name, content);
  return name;
};

/** The code that a promise is refused with; anything but a HalftoneError fails the test. */
async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof HalftoneError) return error.code;
    throw error;
  }
  return 'taken';
}

const images = array('float32', [4, 2, 3], range(24, 0.5));
const labels = array('int64', [4], [3, 1, 0, 2]);

describe('an .npz in every form that writers choose', () => {
  for (const options of [{}, { deflate: true }, { zip64: true }, { descriptor: true }, { deflate: true, zip64: true, descriptor: true }]) {
    it(JSON.stringify(options), async () => {
      const name = writeNpz(path(), { 'input:0': images, labels }, options);
      const headers = await readNpzHeaders(name);
      expect(headers.map((h) => [h.name, h.dtype, h.shape])).toEqual([
        ['input:0', 'float32', [4, 2, 3]],
        ['labels', 'int64', [4]],
      ]);
      const npz = await openNpz(name, dir);
      const before = readdirSync(dir).filter((f) => f.startsWith('npz-')).length;
      expect(before).toBe(options.deflate ? 2 : 0);
      const x = npz.arrays.get('input:0')!;
      expect([...new Float32Array(x.rows(1, 2).buffer)]).toEqual(range(24, 0.5).slice(6, 18));
      expect([...new BigInt64Array(npz.arrays.get('labels')!.rows(0, 4).buffer)]).toEqual([3n, 1n, 0n, 2n]);
      await npz.close();
      expect(readdirSync(dir).filter((f) => f.startsWith('npz-'))).toEqual([]);
    });
  }

  it('reads big-endian values and Fortran order', async () => {
    const big = Buffer.from(images.data);
    big.swap32();
    const turned = new Float32Array(24);
    const values = range(24, 0.5);
    for (let i = 0; i < 4; i++)
      for (let j = 0; j < 2; j++) for (let k = 0; k < 3; k++) turned[i + 4 * (j + 2 * k)] = values[(i * 2 + j) * 3 + k]!;
    const name = writeNpz(path(), {
      big: { ...images, descr: '>f4', data: big },
      fortran: { ...images, data: new Uint8Array(turned.buffer), fortranOrder: true },
    });
    const npz = await openNpz(name, dir);
    for (const key of ['big', 'fortran']) expect([...new Float32Array(npz.arrays.get(key)!.rows(0, 4).buffer)], key).toEqual(values);
    await npz.close();
  });

  it('reads arrays beyond 4 GB (in a sparse file)', async () => {
    const rows = 5 * 2 ** 20;
    const header = npy({ descr: '|u1', shape: [rows, 1024], data: new Uint8Array(0) });
    const bytes = header.length + rows * 1024;
    // The small array comes after the large one, so its place needs 64 bits as well.
    const small = npy(labels);
    const name = path();
    const fd = openSync(name, 'w');
    const local = (file: string, size: number) => {
      const out = Buffer.alloc(30 + file.length + 20);
      out.writeUInt32LE(0x04034b50, 0);
      out.writeUInt32LE(0xffffffff, 18);
      out.writeUInt32LE(0xffffffff, 22);
      out.writeUInt16LE(file.length, 26);
      out.writeUInt16LE(20, 28);
      out.write(file, 30);
      out.writeUInt16LE(1, 30 + file.length);
      out.writeUInt16LE(16, 32 + file.length);
      out.writeBigUInt64LE(BigInt(size), 34 + file.length);
      out.writeBigUInt64LE(BigInt(size), 42 + file.length);
      return out;
    };
    const central = (file: string, size: number, at: number, crc: number) => {
      const out = Buffer.alloc(46 + file.length + 28);
      out.writeUInt32LE(0x02014b50, 0);
      out.writeUInt32LE(crc, 16);
      out.writeUInt32LE(0xffffffff, 20);
      out.writeUInt32LE(0xffffffff, 24);
      out.writeUInt16LE(file.length, 28);
      out.writeUInt16LE(28, 30);
      out.writeUInt32LE(0xffffffff, 42);
      out.write(file, 46);
      out.writeUInt16LE(1, 46 + file.length);
      out.writeUInt16LE(24, 48 + file.length);
      for (const [i, value] of [size, size, at].entries()) out.writeBigUInt64LE(BigInt(value), 50 + file.length + i * 8);
      return out;
    };
    const first = local('x.npy', bytes);
    const second = local('labels.npy', small.length);
    const secondAt = first.length + bytes;
    const directoryAt = secondAt + second.length + small.length;
    let crc = crc32(header);
    const zeros = Buffer.alloc(1 << 24);
    for (let left = bytes - header.length - 1; left > 0; left -= zeros.length)
      crc = crc32(zeros.subarray(0, Math.min(left, zeros.length)), crc);
    crc = crc32(Buffer.from([7]), crc);
    const directory = Buffer.concat([central('x.npy', bytes, 0, crc), central('labels.npy', small.length, secondAt, crc32(small))]);
    const end = zip({}, { zip64: true });
    end.writeBigUInt64LE(2n, 24);
    end.writeBigUInt64LE(2n, 32);
    end.writeBigUInt64LE(BigInt(directory.length), 40);
    end.writeBigUInt64LE(BigInt(directoryAt), 48);
    end.writeBigUInt64LE(BigInt(directoryAt + directory.length), 64);
    writeSync(fd, Buffer.concat([first, header]), 0, undefined, 0);
    writeSync(fd, Buffer.from([7]), 0, 1, secondAt - 1);
    writeSync(fd, Buffer.concat([second, small, directory, end]), 0, undefined, secondAt);
    closeSync(fd);
    const npz = await openNpz(name, dir);
    const last = npz.arrays.get('x')!.rows(rows - 1, 1);
    expect([last.length, last[0], last[1023]]).toEqual([1024, 0, 7]);
    expect([...new BigInt64Array(npz.arrays.get('labels')!.rows(0, 4).buffer)]).toEqual([3n, 1n, 0n, 2n]);
    await npz.close();
    unlinkSync(name);
    // Twice 5 GB of checksums, beside whatever else runs.
  }, 120_000);
});

describe('.npy headers', () => {
  it('versions 1, 2 and 3, and the forms of Python 2', () => {
    for (const version of [1, 2, 3] as const)
      expect(parseNpyHeader(npy(images, version), 'x')).toMatchObject({ dtype: 'float32', shape: [4, 2, 3], dataBytes: 96 });
    expect(parseNpyHeader(npyRaw('{"shape": (3L, 2L), "fortran_order": True, "descr": "|u1"}', Buffer.alloc(0)), 'x')).toMatchObject({
      shape: [3, 2],
      fortranOrder: true,
      dtype: 'uint8',
    });
    expect(parseNpyHeader(npyRaw("{'descr': '>i8', 'fortran_order': False, 'shape': ()}", Buffer.alloc(0)), 'x')).toMatchObject({
      shape: [],
      bigEndian: true,
      dataBytes: 8,
    });
  });

  const header = (text: string) => () => parseNpyHeader(npyRaw(text, Buffer.alloc(0)), 'x');
  const descr = (word: string) => header(`{'descr': ${word}, 'fortran_order': False, 'shape': (3,), }`);
  it.each([
    ["'|O'", 'dataset-pickled'],
    ["[('a', '<f4'), ('b', '|O')]", 'dataset-pickled'],
    ["[('a', '<f4'), ('b', [('c', '<i4', (2, 3))])]", 'dataset-dtype'],
    ["'<U7'", 'dataset-dtype'],
    ["'|S7'", 'dataset-dtype'],
    ["'<c8'", 'dataset-dtype'],
    ["'<M8[ns]'", 'dataset-dtype'],
    ["'|V2'", 'dataset-dtype'],
    ["'<f16'", 'dataset-dtype'],
    ["'f4'", 'dataset-dtype'],
    ["'<constructor'", 'dataset-dtype'],
    ["''", 'dataset-dtype'],
  ])('descr %s: %s', (word, code) => {
    expect(descr(word)).toThrow(expect.objectContaining({ code }));
  });
  it.each([
    "{'descr': '<f4', 'fortran_order': False}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9007199254740993,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'shape': (4,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
    "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} 1",
    `${'('.repeat(5000)}`,
    '',
    '{',
    `{'descr': '<f4', 'fortran_order': False, 'shape': (${'1, '.repeat(40)})}`,
  ])('refuses %s', (text) => {
    expect(header(text)).toThrow(expect.objectContaining({ code: 'dataset-corrupt' }));
  });

  it('property: whatever a header says, it is read or refused', () => {
    const good = npy(images);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.nat(good.length),
        (changes, length) => {
          const bytes = Buffer.from(good.subarray(0, length));
          for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
          try {
            const layout = parseNpyHeader(bytes, 'x');
            expect(layout.dataBytes).toBe(layout.shape.reduce((a, b) => a * b, layout.itemSize));
          } catch (error) {
            expect(error).toBeInstanceOf(HalftoneError);
          }
        },
      ),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...`{}()[]'",: -0123456789LTrueFalsNdescrfortran_ordershape<f4\\`.split('')), maxLength: 80 }),
        (text) => {
          expect(header(text)).toThrow(HalftoneError);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('hostile zips', () => {
  const whole = (options = {}) => zip({ 'x.npy': npy(images), 'labels.npy': npy(labels) }, options);
  const entryAt = (bytes: Buffer, nth = 0) => {
    let at = bytes.indexOf(Buffer.from([0x50, 0x4b, 1, 2]));
    for (let i = 0; i < nth; i++) at = bytes.indexOf(Buffer.from([0x50, 0x4b, 1, 2]), at + 4);
    return at;
  };

  it('not a zip at all', async () => {
    expect(await refusal(readNpzHeaders(file(Buffer.alloc(0))))).toBe('not-npz');
    expect(await refusal(readNpzHeaders(file(Buffer.from('hello'))))).toBe('not-npz');
    expect(await refusal(readNpzHeaders(file(npy(images))))).toBe('not-npz');
    expect(await refusal(readNpzHeaders(file(Buffer.from('80049503', 'hex'))))).toBe('not-npz');
    expect(await refusal(readNpzHeaders(file(zip({ 'a.txt': Buffer.from('hello') }))))).toBe('not-npz');
    expect(await refusal(readNpzHeaders(file(zip({}))))).toBe('dataset-empty');
  });

  it('a zip cut off at any byte', async () => {
    const bytes = whole();
    for (let length = 5; length < bytes.length; length += 7)
      expect(await refusal(readNpzHeaders(file(bytes.subarray(0, length))))).toBe('dataset-corrupt');
  });

  it('an entry that is no array', async () => {
    expect(await refusal(readNpzHeaders(file(zip({ 'x.npy': npy(images), 'evil.py': Buffer.from('x') }))))).toBe('dataset-array-refused');
    expect(await refusal(readNpzHeaders(file(zip({ 'x.npy': Buffer.from('80049503000000000000000000', 'hex') }))))).toBe('dataset-pickled');
    expect(await refusal(readNpzHeaders(file(zip({ 'x.npy': Buffer.from('not an array at all') }))))).toBe('dataset-corrupt');
    expect(await refusal(readNpzHeaders(file(zip({ 'x.npy': Buffer.alloc(0) }))))).toBe('dataset-corrupt');
  });

  it('a shape that the bytes do not fill', async () => {
    const short: TestArray = { ...images, data: images.data.subarray(0, 90) };
    for (const deflate of [false, true])
      expect(await refusal(readNpzHeaders(writeNpz(path(), { x: short }, { deflate })))).toBe('dataset-corrupt');
  });

  it('entries that share bytes', async () => {
    const bytes = whole();
    const a = entryAt(bytes);
    // The first entry reaches into the second one's header.
    for (const field of [20, 24]) bytes.writeUInt32LE(bytes.readUInt32LE(a + field) + 50, a + field);
    expect(await refusal(readNpzHeaders(file(bytes)))).toBe('dataset-corrupt');
    // The second entry is the first one again, under another name.
    const same = zip({ 'x.npy': npy(images), 'y.npy': npy(images) });
    same.writeUInt32LE(0, entryAt(same, 1) + 42);
    expect(await refusal(readNpzHeaders(file(same)))).toBe('dataset-corrupt');
  });

  it('two entries of one name', async () => {
    const bytes = zip({ 'x.npy': npy(images), 'y.npy': npy(images) });
    const text = bytes.toString('latin1').replaceAll('y.npy', 'x.npy');
    expect(await refusal(readNpzHeaders(file(Buffer.from(text, 'latin1'))))).toBe('dataset-corrupt');
  });

  it('sizes that lie, and bombs', async () => {
    const claim = (bytes: number, deflate: boolean) => {
      const out = whole({ deflate });
      out.writeUInt32LE(bytes, entryAt(out) + 24);
      return file(out);
    };
    expect(await refusal(readNpzHeaders(claim(4_000_000_000, true)))).toBe('dataset-corrupt');
    expect(await refusal(readNpzHeaders(claim(4_000_000_000, false)))).toBe('dataset-corrupt');
    // Inflates to a million times what the array's header says: refused when the data are read, not believed before.
    const bomb = zip({ 'x.npy': Buffer.concat([npy(images), Buffer.alloc(50_000_000)]) }, { deflate: true });
    bomb.writeUInt32LE(npy(images).length, entryAt(bomb) + 24);
    expect(await refusal(openNpz(file(bomb), dir))).toBe('dataset-corrupt');
    expect(readdirSync(dir).filter((f) => f.startsWith('npz-'))).toEqual([]);
    const large = writeNpz(path(), { x: array('uint8', [1000, 1000], new Uint8Array(1_000_000)) }, { deflate: true });
    expect(await refusal(readNpzHeaders(large, { inflatedBytes: 999_999 }))).toBe('payload-too-large');
    expect(await refusal(readNpzHeaders(large, { inflatedBytes: 1_100_000 }))).toBe('taken');
  });

  it('damaged deflate data and wrong checksums', async () => {
    const bytes = whole({ deflate: true });
    bytes.fill(0xff, 40, 60);
    expect(await refusal(openNpz(file(bytes), dir))).toBe('dataset-corrupt');
    const wrong = whole({ deflate: true });
    wrong.writeUInt32LE(1, entryAt(wrong) + 16);
    expect(await refusal(openNpz(file(wrong), dir))).toBe('dataset-corrupt');
    const stored = whole();
    stored[200] = stored[200]! ^ 1;
    expect(await refusal(openNpz(file(stored), dir))).toBe('dataset-corrupt');
  });

  it('encryption, other packers, several disks, too many entries', async () => {
    const change = (edit: (bytes: Buffer, entry: number) => void) => {
      const bytes = whole();
      edit(bytes, entryAt(bytes));
      return refusal(readNpzHeaders(file(bytes)));
    };
    expect(await change((bytes, at) => bytes.writeUInt16LE(1, at + 8))).toBe('dataset-corrupt');
    expect(await change((bytes, at) => bytes.writeUInt16LE(93, at + 10))).toBe('dataset-corrupt');
    expect(await change((bytes) => bytes.writeUInt16LE(1, bytes.length - 18))).toBe('dataset-corrupt');
    expect(await change((bytes) => bytes.writeUInt32LE(0x7fffffff, bytes.length - 6))).toBe('dataset-corrupt');
    const many = zip(Object.fromEntries(range(1100).map((i) => [`${i}.npy`, npy(labels)])));
    expect(await refusal(readNpzHeaders(file(many)))).toBe('dataset-corrupt');
  });

  it('a file cut off after it was opened', async () => {
    const name = writeNpz(path(), { x: array('float32', [1000, 100], new Float32Array(100_000)) });
    const npz = await openNpz(name, dir);
    truncateSync(name, 1000);
    expect(() => npz.arrays.get('x')!.rows(500, 1)).toThrow(expect.objectContaining({ code: 'dataset-corrupt' }));
    await npz.close();
  });

  it('property: a mutated .npz is read or refused, never anything else', async () => {
    const seeds = [whole(), whole({ deflate: true }), whole({ zip64: true, descriptor: true })];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...seeds),
        fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), fc.nat(255)), { minLength: 1, maxLength: 5 }),
        fc.boolean(),
        async (seed, changes, ends) => {
          const bytes = Buffer.from(seed);
          // Half of the time in the directory, where most of the parser's decisions are.
          const from = ends ? entryAt(seed) : 0;
          for (const [place, value] of changes) bytes[from + Math.floor(place * (bytes.length - from))] = value;
          const name = join(dir, 'mutated.npz');
          writeFileSync(name, bytes);
          const code = await refusal(openNpz(name, dir).then((npz) => npz.close()));
          expect(code).toMatch(/^(taken|not-npz|payload-too-large|dataset-[a-z-]+)$/);
        },
      ),
      { numRuns: 400 },
    );
  });
});

// numpy itself as the other side, where there is one.
const python = ['../.venv-check/bin/python', '/usr/bin/python3'].find((candidate) => {
  try {
    execFileSync(candidate, ['-c', 'import numpy'], { stdio: 'ignore' });
    return existsSync(candidate);
  } catch {
    return false;
  }
});

describe('files that numpy wrote', () => {
  it.skipIf(python === undefined)('savez and savez_compressed, every type, both orders', async () => {
    const script = `
import numpy as np, sys
r = np.random.default_rng(0)
d = {}
for t in ('?', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', '>f4', '>i2', '>f8'):
    d['a' + t] = (r.normal(0, 50, (5, 3, 4)) ** 2 % 100).astype(t)
    d['f' + t] = np.asfortranarray(d['a' + t])
d['s'] = np.arange(5)
np.savez(sys.argv[1] + '/plain.npz', **d); np.savez_compressed(sys.argv[1] + '/packed.npz', **d)
for k, v in d.items():
    with open(sys.argv[1] + '/' + k.replace('?', 'b').replace('>', 'B') + '.bin', 'wb') as f: f.write(np.ascontiguousarray(v).astype(v.dtype.newbyteorder('<')).tobytes())
`;
    execFileSync(python!, ['-c', script, dir]);
    for (const name of ['plain', 'packed']) {
      const npz = await openNpz(join(dir, `${name}.npz`), dir);
      expect(npz.arrays.size).toBe(31);
      for (const [key, value] of npz.arrays) {
        const expected = readFileSync(join(dir, `${key.replace('?', 'b').replace('>', 'B')}.bin`));
        expect(Buffer.from(value.rows(0, 5)).equals(expected), `${name} ${key}`).toBe(true);
      }
      await npz.close();
    }
  });
});
