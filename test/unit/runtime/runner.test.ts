import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ElementType, Observer, TensorValue } from '../../../src/domain/runner.ts';
import { loadLibrary } from '../../../src/runtime/library.ts';
import { createRunner } from '../../../src/runtime/runner.ts';
import { constant, DataType, model, node, noise, numbers, tensor } from './models.ts';

const { FLOAT, INT64, STRING } = DataType;
const runner = createRunner();
const TYPES: [ElementType, DataType][] = [
  ['float32', DataType.FLOAT],
  ['float64', DataType.DOUBLE],
  ['float16', DataType.FLOAT16],
  ['int8', DataType.INT8],
  ['uint8', DataType.UINT8],
  ['int16', DataType.INT16],
  ['uint16', DataType.UINT16],
  ['int32', DataType.INT32],
  ['uint32', DataType.UINT32],
  ['int64', DataType.INT64],
  ['uint64', DataType.UINT64],
  ['bool', DataType.BOOL],
];

/** y = x · w + b over [N, 3] · [3, 2]. */
const affine = model(
  { x: [FLOAT, ['N', 3]] },
  { y: [FLOAT, ['N', 2]] },
  [node('MatMul', ['x', 'w'], ['m']), node('Add', ['m', 'b'], ['y'])],
  [constant('w', FLOAT, [3, 2], [1, 2, 3, 4, 5, 6]), constant('b', FLOAT, [2], [0.5, -0.5])],
);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-runner-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('library', () => {
  it('is the version of the package', () => {
    expect(runner.version).toBe(loadLibrary().version);
    expect(loadLibrary(loadLibrary().path)).toBe(loadLibrary());
    expect(runner.version).toMatch(/^\d+\.\d+\.\d+$/);
  });
  it('refuses a file that is not there, and a second library in one process', () => {
    expect(() => loadLibrary(join(folder, 'none.so'))).toThrow(/There is no ONNX Runtime/);
    const other = join(folder, 'other.so');
    writeFileSync(other, 'not a library');
    expect(() => loadLibrary(other)).toThrow(/loaded already/);
  });
});

describe('run', () => {
  it('computes what the graph says, for any batch', async () => {
    const session = await runner.open(affine, { threads: 1 });
    expect(session.inputs).toEqual([{ name: 'x', type: 'float32', dims: ['N', 3] }]);
    expect(session.outputs).toEqual([{ name: 'y', type: 'float32', dims: ['N', 2] }]);
    expect(session.loadMs).toBeGreaterThan(0);
    const one = await session.run({ x: tensor('float32', [1, 3], [1, 1, 1]) });
    expect(one).toEqual({ y: tensor('float32', [1, 2], [9.5, 11.5]) });
    const two = await session.run({ x: tensor('float32', [2, 3], [1, 0, 0, 0, 0, 2]) });
    expect(two.y!.dims).toEqual([2, 2]);
    expect(numbers(two.y)).toEqual([1.5, 1.5, 10.5, 11.5]);
    const none = await session.run({ x: tensor('float32', [0, 3], []) });
    expect(none).toEqual({ y: tensor('float32', [0, 2], []) });
    session.close();
  });

  it('opens a path as it opens bytes, with external data beside it', async () => {
    const path = join(folder, 'affine.onnx');
    writeFileSync(path, affine);
    const session = await runner.open(path, { threads: 1, optimization: 'disable' });
    expect(numbers((await session.run({ x: tensor('float32', [1, 3], [1, 1, 1]) })).y)).toEqual([9.5, 11.5]);
    session.close();
  });

  it.each(TYPES)('takes and gives %s unchanged', async (type, code) => {
    const session = await runner.open(model({ x: [code, [5]] }, { y: [code, [5]] }, [node('Identity', ['x'], ['y'])]), { threads: 1 });
    expect(session.inputs[0]!.type).toBe(type);
    const x = tensor(type, [5], type === 'bool' ? [0, 1, 1, 0, 1] : [0, 1, 2, 100, 127]);
    const { y } = await session.run({ x });
    expect(y).toEqual(x);
    expect(y!.bytes.buffer).not.toBe(x.bytes.buffer);
    session.close();
  });

  it('takes bytes wherever they lie', async () => {
    const session = await runner.open(affine, { threads: 1 });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 0, max: 6 }), async (offset, batch) => {
        const x = noise(batch * 3, 1, offset + 1);
        const buffer = new Uint8Array(offset + x.byteLength + 3);
        buffer.set(new Uint8Array(x.buffer), offset);
        const shifted: TensorValue = { type: 'float32', dims: [batch, 3], bytes: buffer.subarray(offset, offset + x.byteLength) };
        expect(await session.run({ x: shifted })).toEqual(await session.run({ x: tensor('float32', [batch, 3], x) }));
      }),
      { numRuns: 60 },
    );
    session.close();
  });

  it('fetches what is asked for, once each', async () => {
    const session = await runner.open(
      model({ x: [FLOAT, []] }, { a: [FLOAT, []], b: [FLOAT, []] }, [node('Neg', ['x'], ['a']), node('Abs', ['a'], ['b'])]),
      { threads: 1 },
    );
    const x = tensor('float32', [], [3]);
    expect(await session.run({ x })).toEqual({ a: tensor('float32', [], [-3]), b: tensor('float32', [], [3]) });
    expect(await session.run({ x }, ['b'])).toEqual({ b: tensor('float32', [], [3]) });
    expect(await session.run({ x }, ['b', 'b'])).toEqual({ b: tensor('float32', [], [3]) });
    await expect(session.run({ x }, ['c'])).rejects.toThrow("the model has no output 'c'; its outputs are a, b");
    await expect(session.run({ x }, [])).rejects.toThrow(/at least one output/);
    session.close();
  });

  it('overlaps runs, and ends those in flight when it is closed', async () => {
    const session = await runner.open(affine, { threads: 2 });
    const runs = Array.from({ length: 64 }, (_, i) => session.run({ x: tensor('float32', [1, 3], [i, 0, 0]) }));
    session.close();
    session.close();
    const results = await Promise.all(runs);
    expect(results.map(({ y }) => numbers(y)[0])).toEqual(results.map((_, i) => i + 0.5));
    await expect(session.run({ x: tensor('float32', [1, 3], [0, 0, 0]) })).rejects.toThrow('the session is closed');
  });

  const wrong: [string, Record<string, TensorValue>, RegExp][] = [
    ['no feed', {}, /input 'x' is missing/],
    ['an unknown name', { x: tensor('float32', [1, 3], [1, 2, 3]), z: tensor('float32', [], [1]) }, /no input 'z'; its inputs are x/],
    ['another type', { x: tensor('float64', [1, 3], [1, 2, 3]) }, /input 'x' wants float32, got float64/],
    ['another rank', { x: tensor('float32', [3], [1, 2, 3]) }, /wants the shape \[N, 3\], got \[3\]/],
    ['another fixed dimension', { x: tensor('float32', [1, 2], [1, 2]) }, /wants the shape \[N, 3\], got \[1, 2\]/],
    ['too few bytes', { x: { type: 'float32', dims: [2, 3], bytes: new Uint8Array(12) } }, /takes 24 bytes, got 12/],
    ['a negative dimension', { x: { type: 'float32', dims: [-1, 3], bytes: new Uint8Array(12) } }, /not a shape/],
    [
      'a huge dimension',
      { x: { type: 'float32', dims: [2 ** 53 - 1, 3], bytes: new Uint8Array(12) } },
      /takes 108086391056891890 bytes, got 12/,
    ],
    ['a type of ours only', { x: { type: 'toString' as ElementType, dims: [1, 3], bytes: new Uint8Array(12) } }, /wants float32/],
  ];
  it.each(wrong)('refuses %s before it reaches the runtime', async (_, feeds, message) => {
    const session = await runner.open(affine, { threads: 1 });
    await expect(session.run(feeds)).rejects.toThrow(message);
    expect(numbers((await session.run({ x: tensor('float32', [1, 3], [1, 1, 1]) })).y)).toEqual([9.5, 11.5]);
    session.close();
  });

  it('refuses strings, in and out, by name', async () => {
    const out = await runner.open(model({ x: [INT64, [2]] }, { s: [STRING, [2]] }, [node('Cast', ['x'], ['s'], { to: STRING })]), {
      threads: 1,
    });
    expect(out.outputs[0]!.type).toBe('other');
    await expect(out.run({ x: tensor('int64', [2], [1, 2]) })).rejects.toThrow("output 's' is not a tensor of numbers");
    out.close();
    const into = await runner.open(model({ s: [STRING, [2]] }, { x: [INT64, [2]] }, [node('Cast', ['s'], ['x'], { to: INT64 })]), {
      threads: 1,
    });
    await expect(into.run({ s: tensor('uint8', [2], [1, 2]) })).rejects.toThrow("input 's' is not a tensor of numbers");
    into.close();
  });

  it('passes on what the runtime says when a node fails', async () => {
    const session = await runner.open(
      model({ i: [INT64, ['n']] }, { y: [FLOAT, ['n']] }, [node('Gather', ['t', 'i'], ['y'])], [constant('t', FLOAT, [3], [1, 2, 3])]),
      { threads: 1 },
    );
    await expect(session.run({ i: tensor('int64', [1], [7]) })).rejects.toMatchObject({
      name: 'OrtError',
      ortMessage: expect.stringMatching(/Gather_y.*out of data bounds/s),
    });
    expect(numbers((await session.run({ i: tensor('int64', [2], [2, -3]) })).y)).toEqual([3, 1]);
    session.close();
  });
});

describe('open', () => {
  const garbage: [string, string | Uint8Array, RegExp][] = [
    ['no bytes', new Uint8Array(0), /./],
    ['bytes that are no model', new TextEncoder().encode('<html>'), /protobuf parsing failed/],
    ['a path that is not there', '/nowhere/model.onnx', /^(?!.*nowhere).*model\.onnx/s],
    [
      'an operator that nobody has',
      model({ x: [FLOAT, [1]] }, { y: [FLOAT, [1]] }, [node('Sprocket', ['x'], ['y'], {}, 'com.example')]),
      /Sprocket/,
    ],
    ['types that do not fit', model({ x: [INT64, [1]] }, { y: [FLOAT, [1]] }, [node('Relu', ['x'], ['y'])]), /Relu|[Tt]ype/],
  ];
  it.each(garbage)('refuses %s with the runtime’s words', async (_, bytes, message) => {
    await expect(runner.open(bytes, { threads: 1 })).rejects.toMatchObject({
      name: 'OrtError',
      ortMessage: expect.stringMatching(message),
    });
  });
  it('refuses threads that are no count', async () => {
    for (const threads of [-1, 1.5, Number.NaN, 1e9]) await expect(runner.open(affine, { threads })).rejects.toThrow(/threads must be/);
  });
  it('survives mutated models', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(affine.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }), async (edits) => {
        const bytes = affine.slice();
        for (const [at, value] of edits) bytes[at] = value;
        try {
          const session = await runner.open(bytes, { threads: 1 });
          await session.run({ x: tensor('float32', [1, 3], [1, 1, 1]) }).catch((error) => expect(error.name).toBe('OrtError'));
          session.close();
        } catch (error) {
          expect((error as Error).name).toBe('OrtError');
        }
      }),
      { numRuns: 150, seed: 20260730 }, // fixed: what crashes in the runtime itself is found once, not now and then,
    );
  });
  it('does not keep memory of sessions that were closed', async () => {
    const weights = noise(256 * 1024);
    const bytes = model(
      { x: [FLOAT, [1, 512]] },
      { y: [FLOAT, [1, 512]] },
      [node('MatMul', ['x', 'w'], ['y'])],
      [constant('w', FLOAT, [512, 512], weights)],
    );
    const cycle = async () => {
      const session = await runner.open(bytes, { threads: 1 });
      await session.run({ x: tensor('float32', [1, 512], noise(512)) });
      session.close();
    };
    for (let i = 0; i < 40; i++) await cycle();
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 200; i++) await cycle();
    // 200 leaked models would be 200 MB or more.
    expect(process.memoryUsage.rss() - before).toBeLessThan(30e6);
  });
});

describe('observe', () => {
  const net = model(
    { x: [FLOAT, [1, 4, 'H', 'W']] },
    { r: [FLOAT, [1, 4, 'H', 'W']], i: [DataType.INT32, [1, 4, 'H', 'W']], h: [DataType.FLOAT16, [1, 4, 'H', 'W']] },
    [node('Relu', ['x'], ['r']), node('Cast', ['x'], ['i'], { to: DataType.INT32 }), node('Cast', ['x'], ['h'], { to: DataType.FLOAT16 })],
  );

  it('gives observers what run would have given, and returns what is fetched', async () => {
    const session = await runner.open(net, { threads: 2 });
    const observers: Record<string, Observer> = Object.fromEntries(
      ['r', 'i', 'h'].map((name) => [name, runner.observer({ bins: 256, channelAxis: 1 })]),
    );
    const all: number[] = [];
    for (let k = 0; k < 3; k++) {
      const x = tensor('float32', [1, 4, 64, 40 + k], noise(4 * 64 * (40 + k), 50, k + 1));
      const fetched = await session.observe({ x }, observers, ['r']);
      expect(fetched).toEqual(await session.run({ x }, ['r']));
      all.push(...numbers(x));
    }
    const relu = all.map((value) => Math.max(0, value));
    const r = observers.r!.result();
    expect(r).toMatchObject({ count: all.length, nans: 0, infs: 0, min: 0, max: Math.max(...relu) });
    expect(r.sum).toBeCloseTo(
      relu.reduce((sum, value) => sum + value, 0),
      3,
    );
    expect(r.histogram!.counts.reduce((sum, value) => sum + value, 0)).toBe(all.length);
    expect(r.channels!.max).toHaveLength(4);
    const whole = all.map(Math.trunc);
    expect(observers.i!.result()).toMatchObject({
      min: Math.min(...whole),
      max: Math.max(...whole),
      sum: whole.reduce((a, b) => a + b, 0),
    });
    const half = observers.h!.result();
    expect(Math.abs(half.max - Math.max(...all))).toBeLessThan(0.05);
    expect(Math.abs(half.min - Math.min(...all))).toBeLessThan(0.05);
    session.close();
  });

  it('counts what is not finite, of float16 too', async () => {
    const session = await runner.open(net, { threads: 1 });
    const observers = { r: runner.observer({ bins: 0 }), h: runner.observer({ bins: 0 }) };
    await session.observe({ x: tensor('float32', [1, 4, 1, 1], [Number.NaN, Number.POSITIVE_INFINITY, 1e6, 1e-7]) }, observers);
    expect(observers.h.result()).toMatchObject({ count: 4, nans: 1, infs: 2 });
    expect(observers.h.result().max).toBe(2 ** -23); // 1e-7 as a subnormal of float16: 2 · 2^-24
    expect(observers.r.result()).toMatchObject({ count: 4, infs: 1, max: 1e6 });
    session.close();
  });

  it('refuses a foreign observer, an unknown output and a channel count that changes', async () => {
    const session = await runner.open(model({ x: [FLOAT, ['a', 'b']] }, { y: [FLOAT, ['a', 'b']] }, [node('Relu', ['x'], ['y'])]), {
      threads: 1,
    });
    const x = tensor('float32', [2, 3], noise(6));
    const ours = () => runner.observer({ bins: 16, channelAxis: 1 });
    await expect(session.observe({ x }, { z: ours() })).rejects.toThrow("no output 'z'");
    await expect(session.observe({ x }, { y: { merge: () => {}, result: () => ours().result() } })).rejects.toThrow(
      /not made by this runner/,
    );
    const observer = ours();
    await session.observe({ x }, { y: observer });
    await expect(session.observe({ x: tensor('float32', [3, 2], noise(6)) }, { y: observer })).rejects.toThrow(/output 'y'/);
    expect(observer.result().count).toBe(6);
    session.close();
  });
});

describe('profile', () => {
  it('names the kernels that ran and removes its file', async () => {
    const session = await runner.open(affine, { threads: 1, profilePrefix: join(folder, 'profile') });
    for (let i = 0; i < 5; i++) await session.run({ x: tensor('float32', [1, 3], [1, 1, 1]) });
    const nodes = await session.endProfile();
    expect(nodes.map(({ operator }) => operator)).toEqual(['Gemm']);
    expect(nodes[0]!.name).not.toMatch(/_kernel_time/);
    expect(nodes[0]!.us).toBeGreaterThanOrEqual(0);
    await expect(session.endProfile()).rejects.toThrow(/profilePrefix/);
    session.close();
    const left = await runner.open(affine, { threads: 1, profilePrefix: join(folder, 'profile') });
    left.close();
    await expect.poll(() => readdirSync(folder).filter((name) => name.startsWith('profile'))).toEqual([]);
  });
  it('writes the optimized model where it is asked to', async () => {
    const path = join(folder, 'optimized.onnx');
    const session = await runner.open(affine, { threads: 1, optimizedModelPath: path, optimization: 'extended' });
    session.close();
    expect(readFileSync(path).includes('Gemm')).toBe(true);
  });
});

describe('interleave', () => {
  it('gives the times of each session by block, in step', async () => {
    const sessions = [await runner.open(affine, { threads: 1 }), await runner.open(affine, { threads: 1 })];
    const feeds = [1, 2, 3].map((n) => ({ x: tensor('float32', [n, 3], noise(3 * n)) }));
    const times = await runner.interleave(sessions, feeds, { blocks: 4, seconds: 0.1 });
    expect(times).toHaveLength(2);
    expect(times[0]!.map((block) => block.length)).toEqual(times[1]!.map((block) => block.length));
    for (const block of times.flat()) {
      expect(block.length).toBeGreaterThan(0);
      expect(block.every((ms) => ms > 0 && ms < 1000)).toBe(true);
    }
    await expect(runner.interleave(sessions, [{}], { blocks: 1, seconds: 0.01 })).rejects.toThrow(/input 'x' is missing/);
    await expect(runner.interleave([], feeds, { blocks: 1, seconds: 0.01 })).rejects.toThrow(/a session/);
    for (const session of sessions) session.close();
  });
});
