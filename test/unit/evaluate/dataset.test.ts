import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import type { ElementType, TensorValue, ValueSignature } from '../../../src/domain/runner.ts';
import { describeDataset, openDataset } from '../../../src/evaluate/dataset.ts';
import { convert, convertible, ELEMENT_BYTES, floatToHalf, floatValues } from '../../../src/evaluate/elements.ts';
import { generateFeeds } from '../../../src/evaluate/generate.ts';
import { array, range, type TestArray, writeNpz } from './npz-writer.ts';

const dir = mkdtempSync(join(tmpdir(), 'halftone-dataset-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let count = 0;
const npz = (arrays: Record<string, TestArray>, deflate = false) => writeNpz(join(dir, `${count++}.npz`), arrays, { deflate });
const input = (name: string, dims: (number | string)[], type: ElementType = 'float32'): ValueSignature => ({ name, dims, type });
const numbers = (tensor: TensorValue | undefined) => [
  ...(tensor!.type === 'int64' ? Array.from(new BigInt64Array(tensor!.bytes.buffer), Number) : floatValues(tensor!)),
];
const refused = (code: string, words: RegExp) =>
  expect.objectContaining({ name: 'HalftoneError', code, detail: expect.stringMatching(words) });

const x = array('float32', [6, 2], range(12));

describe('describeDataset', () => {
  it('samples, arrays, kind of labels', async () => {
    const state = array('float64', [6, 1, 2], range(12));
    expect(await describeDataset(npz({ x, state, labels: array('int64', [6], range(6)) }))).toEqual({
      samples: 6,
      arrays: [
        { name: 'x', dtype: 'float32', shape: [6, 2] },
        { name: 'state', dtype: 'float64', shape: [6, 1, 2] },
      ],
      hasLabels: true,
      labelsKind: 'class',
      labelLength: 1,
    });
    expect(await describeDataset(npz({ x, labels: array('int32', [6, 3], range(18)) }))).toMatchObject({
      labelsKind: 'sequence',
      labelLength: 3,
    });
    expect(await describeDataset(npz({ x }))).toMatchObject({ hasLabels: false, labelsKind: null });
  });

  it.each<[string, Record<string, TestArray>, string, RegExp]>([
    ['no samples', { x: array('float32', [0, 2], []) }, 'dataset-empty', /'x'.*\[0, 2\]/],
    ['an axis of 0', { x: array('float32', [6, 0], []) }, 'dataset-empty', /'x'/],
    ['labels only', { labels: array('int64', [2], [0, 1]) }, 'dataset-empty', /labels/],
    ['a single value', { x: array('float32', [], [1]) }, 'dataset-shape', /'x'/],
    ['differing samples', { x, y: array('float32', [5, 2], range(10)) }, 'dataset-shape', /\[5, 2\].*\[6, 2\]/],
    ['labels of another length', { x, labels: array('int64', [5], range(5)) }, 'dataset-labels', /5 labels and 6 samples/],
    ['labels that are floats', { x, labels: array('float32', [6], range(6)) }, 'dataset-labels', /float32/],
    ['labels of rank 3', { x, labels: array('int64', [6, 1, 1], range(6)) }, 'dataset-labels', /\[6, 1, 1\]/],
    ['labels of length 0', { x, labels: array('int64', [6, 0], []) }, 'dataset-labels', /\[6, 0\]/],
    ['pickles', { x, y: { descr: '|O', shape: [6], data: Buffer.from('80049500', 'hex') } }, 'dataset-pickled', /'y'/],
    ['text', { x, y: { descr: '<U2', shape: [6], data: Buffer.alloc(48) } }, 'dataset-dtype', /'y'.*<U2/],
  ])('refuses %s', async (_, arrays, code, words) => {
    await expect(describeDataset(npz(arrays))).rejects.toEqual(refused(code, words));
    await expect(openDataset(npz(arrays), dir, [input('x', ['N', 2])])).rejects.toEqual(refused(code, words));
  });
});

describe('openDataset', () => {
  it('an array of the input’s rank gives slices that keep an axis of 1', async () => {
    for (const deflate of [false, true]) {
      const set = await openDataset(npz({ x, labels: array('int64', [6], range(6)) }, deflate), dir, [input('x', ['N', 2])]);
      expect([set.samples, set.batch, set.groups, set.leftOut]).toEqual([6, 1, 6, 0]);
      expect(set.feed(2)).toEqual({ x: { type: 'float32', dims: [1, 2], bytes: expect.anything() } });
      expect(numbers(set.feed(2).x)).toEqual([4, 5]);
      expect(set.labels).toEqual({ kind: 'class', values: Int32Array.from(range(6)) });
      await set.close();
    }
    expect(readdirSync(dir).filter((name) => name.startsWith('npz-'))).toEqual([]);
  });

  it('a fixed batch takes groups, and leaves out what does not fill one', async () => {
    const set = await openDataset(npz({ x }), dir, [input('x', [4, 2])]);
    expect([set.samples, set.batch, set.groups, set.leftOut]).toEqual([6, 4, 1, 2]);
    expect(set.feed(0).x!.dims).toEqual([4, 2]);
    expect(numbers(set.feed(0).x)).toEqual(range(8));
    expect(() => set.feed(1)).toThrow(RangeError);
    await set.close();
  });

  it('an array of a rank more gives the input as it is', async () => {
    const arrays = {
      frame: array('float32', [3, 1, 4], range(12)),
      state: array('float32', [3, 2, 1, 2], range(12)),
      sr: array('int64', [3], [8000, 8000, 16000]),
    };
    const set = await openDataset(npz(arrays), dir, [
      input('frame', ['batch', 'sequence']),
      input('sr', [], 'int64'),
      input('state', [2, 'batch', 2]),
    ]);
    const feed = set.feed(2);
    expect(feed.frame!.dims).toEqual([1, 4]);
    expect(feed.sr).toMatchObject({ dims: [], type: 'int64' });
    expect(numbers(feed.sr)).toEqual([16000]);
    expect(feed.state!.dims).toEqual([2, 1, 2]);
    expect(numbers(feed.state)).toEqual([8, 9, 10, 11]);
    await set.close();
  });

  it('converts where nothing is lost that matters', async () => {
    const arrays = {
      a: array('float64', [2, 2], [0.1, 1, 2, 3]),
      b: array('int32', [2, 2], [1, -2, 3, -4]),
      c: array('float32', [2, 2], [1, 0.5, 65504, 1e6]),
      d: array('bool', [2, 1], [1, 7]),
    };
    const set = await openDataset(npz(arrays), dir, [
      input('a', [-1, 2]),
      input('b', [-1, 2], 'int64'),
      input('c', [-1, 2], 'float16'),
      input('d', [-1, 1], 'bool'),
    ]);
    const [one, two] = [set.feed(0), set.feed(1)];
    expect(numbers(one.a)).toEqual([Math.fround(0.1), 1]);
    expect(numbers(one.b)).toEqual([1, -2]);
    expect(numbers(two.c)).toEqual([65504, Number.POSITIVE_INFINITY]);
    expect([...two.d!.bytes]).toEqual([1]);
    await set.close();
  });

  it.each<[string, Record<string, TestArray>, ValueSignature[], string, RegExp]>([
    ['an array that no input has', { x, y: x }, [input('x', ['N', 2])], 'dataset-array-refused', /'y'.*'x'/],
    ['a missing array', { x }, [input('x', ['N', 2]), input('mask', ['N', 7])], 'dataset-missing-input', /'mask' \[N, 7\]/],
    ['int64 for float', { x: array('int64', [6, 2], range(12)) }, [input('x', ['N', 2])], 'dataset-dtype', /int64.*float32/],
    ['int64 for int32', { x: array('int64', [6, 2], range(12)) }, [input('x', ['N', 2], 'int32')], 'dataset-dtype', /int64.*int32/],
    ['floats for integers', { x }, [input('x', ['N', 2], 'int64')], 'dataset-dtype', /float32.*int64/],
    ['another width', { x }, [input('x', ['N', 3])], 'dataset-shape', /\[6, 2\].*\[N, 3\]/],
    ['rank too low', { x }, [input('x', ['N', 2, 1, 1])], 'dataset-shape', /\[6, 2\].*\[N, 2, 1, 1\]/],
    ['rank too high', { x: array('float32', [6, 1, 1, 2], range(12)) }, [input('x', ['N', 2])], 'dataset-shape', /\[6, 1, 1, 2\]/],
    ['a state without its samples', { x }, [input('x', [6, 2]), input('x2', ['N'])], 'dataset-missing-input', /x2/],
    ['a second input of another batch', { x, y: x }, [input('x', ['N', 2]), input('y', [4, 2])], 'dataset-shape', /'y'/],
    ['fewer samples than the batch', { x }, [input('x', [8, 2])], 'dataset-empty', /fixed to 8.*6 samples/],
    [
      'a label below 0',
      { x, labels: array('int64', [6], [0, 1, -1, 0, 0, 0]) },
      [input('x', ['N', 2])],
      'dataset-labels',
      /sample 2 has the label -1/,
    ],
    [
      'a label beyond int32',
      { x, labels: array('int64', [6], [0, 1, 2 ** 40, 0, 0, 0]) },
      [input('x', ['N', 2])],
      'dataset-labels',
      /sample 2/,
    ],
    [
      'a label after the padding',
      { x, labels: array('int64', [6, 3], [1, 2, 3, 1, -1, 2, ...range(12)]) },
      [input('x', ['N', 2])],
      'dataset-labels',
      /sample 1 .*padding/,
    ],
  ])('refuses %s', async (_, arrays, inputs, code, words) => {
    await expect(openDataset(npz(arrays), dir, inputs)).rejects.toEqual(refused(code, words));
  });

  it('sequences lose their padding', async () => {
    const set = await openDataset(
      npz({ x: array('float32', [3, 2], range(6)), labels: array('int64', [3, 3], [1, 2, 3, 4, -1, -1, -1, -1, -1]) }),
      dir,
      [input('x', ['N', 2])],
    );
    expect(set.labels).toEqual({ kind: 'sequence', length: 3, rows: [Int32Array.of(1, 2, 3), Int32Array.of(4), new Int32Array(0)] });
    await set.close();
  });

  it('names the sample that has NaN or Inf', async () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const values = range(12);
      values[9] = value;
      const name = npz({ x: array('float32', [6, 2], values) });
      const set = await openDataset(name, dir, [input('x', ['N', 2])]);
      expect(() => set.feed(3)).not.toThrow();
      expect(() => set.feed(4)).toThrow(refused('dataset-not-finite', /'x'.*sample 4/) as unknown as Error);
      await set.close();
      const batched = await openDataset(name, dir, [input('x', [3, 2])]);
      expect(() => batched.feed(1)).toThrow(refused('dataset-not-finite', /sample 4/) as unknown as Error);
      await batched.close();
    }
    const half = await openDataset(npz({ x: array('float16', [3, 1], [0x3c00, 0x7c00, 0x3c00]) }, true), dir, [input('x', ['N', 1])]);
    expect(() => half.feed(1)).toThrow(refused('dataset-not-finite', /sample 1/) as unknown as Error);
    await half.close();
  });
});

describe('element conversions', () => {
  it('every half float goes to float32 and back unchanged', () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const wide = floatValues({ type: 'float16', dims: [65536], bytes: new Uint8Array(halves.buffer) });
    // JavaScript keeps no NaN's sign or payload; all others must come back bit by bit.
    const wrong = [...halves].filter((half) => {
      const nan = (half & 0x7c00) === 0x7c00 && (half & 0x3ff) !== 0;
      return nan ? (floatToHalf(wide[half]!) & 0x7e00) !== 0x7e00 : floatToHalf(wide[half]!) !== half;
    });
    expect(wrong).toEqual([]);
    // Between two halves the nearer one, ties to the even one.
    for (let i = 0; i < 0x7bff; i += 7) {
      const middle = (wide[i]! + wide[i + 1]!) / 2;
      expect(floatToHalf(middle)).toBe(i % 2 ? i + 1 : i);
      expect(floatToHalf(middle * (1 + 2e-7))).toBe(i + 1);
    }
    expect(floatToHalf(65519.99)).toBe(0x7bff);
    expect(floatToHalf(65520)).toBe(0x7c00);
    expect(floatToHalf(2 ** -25)).toBe(0);
    expect(floatToHalf(2 ** -25 * 1.0001)).toBe(1);
  });

  it('integers only into types that hold them all', () => {
    const types = Object.keys(ELEMENT_BYTES) as ElementType[];
    const allowed = types.flatMap((from) =>
      types.filter((to) => from !== to && !from.startsWith('float') && convertible(from, to)).map((to) => `${from}>${to}`),
    );
    expect(allowed.sort()).toEqual(
      [
        'int8>int16',
        'int8>int32',
        'int8>int64',
        'uint8>int16',
        'uint8>uint16',
        'uint8>int32',
        'uint8>uint32',
        'uint8>int64',
        'uint8>uint64',
      ]
        .concat([
          'int16>int32',
          'int16>int64',
          'uint16>int32',
          'uint16>uint32',
          'uint16>int64',
          'uint16>uint64',
          'int32>int64',
          'uint32>int64',
          'uint32>uint64',
        ])
        .sort(),
    );
    const wide = convert('int8', 'int64', new Uint8Array(Int8Array.of(-1, 5).buffer));
    expect([...new BigInt64Array(wide.buffer)]).toEqual([-1n, 5n]);
  });
});

describe('generateFeeds', () => {
  it('first dimension 1, shapes by name, the same name the same size, the same seed the same values', () => {
    const inputs = [
      input('ids', ['N', 'T'], 'int64'),
      input('attention_mask', ['N', 'T'], 'int64'),
      input('image', [-1, 3, 'h', 'w']),
      input('state', [2, 'N', 8]),
      input('sr', [], 'int64'),
    ];
    const feeds = generateFeeds(inputs, { T: 12 }, 7);
    expect(Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, dims]))).toEqual({
      ids: [1, 12],
      attention_mask: [1, 12],
      image: [1, 3, 224, 224],
      state: [2, 1, 8],
      sr: [],
    });
    expect(new Set(numbers(feeds.attention_mask))).toEqual(new Set([1]));
    expect(new Set(numbers(feeds.ids))).toEqual(new Set([0, 1]));
    const pixels = numbers(feeds.image);
    const mean = pixels.reduce((a, b) => a + b, 0) / pixels.length;
    const variance = pixels.reduce((a, b) => a + b * b, 0) / pixels.length - mean * mean;
    expect(mean).toBeCloseTo(0, 1);
    expect(variance).toBeCloseTo(1, 1);
    expect(generateFeeds(inputs, { T: 12 }, 7)).toEqual(feeds);
    expect(generateFeeds(inputs, { T: 12 }, 8).image).not.toEqual(feeds.image);
    expect(generateFeeds([input('x', ['N', 4], 'float16')], { N: 3 }, 1).x).toMatchObject({ dims: [3, 4], type: 'float16' });
  });

  it('refuses what is no tensor of numbers, and what is too large to make up', () => {
    expect(() => generateFeeds([{ name: 's', type: 'other', dims: [1] }], {}, 1)).toThrow(/no tensor of numbers/);
    expect(() => generateFeeds([input('x', [1_000_000, 1_000_000])], {}, 1)).toThrow(/too much to make up/);
    expect(() => generateFeeds([{ name: 's', type: 'other', dims: [1] }], {}, 1)).toThrow(HalftoneError);
  });
});
