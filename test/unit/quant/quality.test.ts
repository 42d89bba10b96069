import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { TensorValue } from '../../../src/domain/runner.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { decibels, noiseOf } from '../../../src/quant/quality.ts';
import { floats, modelOf, node, run, runner, scalar, sqnr } from './prepare/graphs.ts';

const OPSET = { opset: 17 };
/** Two outputs: y = x + a, z = 2x + b. */
const model = (a: number, b: number) =>
  modelOf(
    [node('Add', ['x', 'a'], ['y']), node('Add', ['x', 'x'], ['d']), node('Add', ['d', 'b'], ['z'])],
    { x: [4] },
    ['y', 'z'],
    [scalar('a', a), scalar('b', b)],
    OPSET,
  );
const feeds = (...rows: number[][]) => rows.map((row) => ({ x: floats(row, [row.length]) }));

async function noise(
  of: ReturnType<typeof model>,
  reference: ReturnType<typeof model>,
  runs: Record<string, TensorValue>[],
  primary: string | null,
  atATime = 1,
) {
  const session = await runner.open(serializeModel(of), { threads: 1 });
  try {
    const expected = [];
    for (const feed of runs) expected.push(await run(reference, feed));
    return await noiseOf(session, runs, expected, primary, atATime);
  } finally {
    session.close();
  }
}

describe('noiseOf', () => {
  const runs = feeds([1, 2, 3, 4], [-1, 0, 5, 2], [3, 3, 3, 3]);
  it('is Σ error² ÷ Σ reference² of the compared output over all samples', async () => {
    const y = runs.flatMap(({ x }) => [...new Float32Array(x.bytes.slice().buffer)]);
    const want = (y.length * 0.25) / y.reduce((a, v) => a + v * v, 0);
    expect(await noise(model(0.5, 0), model(0, 0), runs, 'y')).toBeCloseTo(want, 9);
    expect(await noise(model(0.5, 0), model(0, 0), runs, null)).toBeCloseTo(want, 9);
    const reference = Float32Array.from(y);
    expect(decibels(want)).toBeCloseTo(
      sqnr(
        reference,
        reference.map((v) => v + 0.5),
      ),
      6,
    );
  });
  it('another output counts a tenth', async () => {
    const own = await noise(model(0, 1), model(0, 0), runs, 'z');
    expect(await noise(model(0, 1), model(0, 0), runs, 'y')).toBeCloseTo(own / 10, 9);
    expect(await noise(model(0, 0), model(0, 0), runs, 'y')).toBe(0);
  });
  it('is the same however many runs at once', async () => {
    const many = feeds(...Array.from({ length: 13 }, (_, i) => [i, i / 3, -i, 1 / (i + 1)]));
    const alone = await noise(model(0.1, 0.2), model(0, 0), many, 'y');
    for (const atATime of [2, 4, 20]) expect(await noise(model(0.1, 0.2), model(0, 0), many, 'y', atATime)).toBe(alone);
  });
  it('what is not finite is infinite noise, unless the float model says the same', async () => {
    const log = modelOf([node('Log', ['x'], ['y'])], { x: [4] }, ['y']);
    const identity = modelOf([node('Abs', ['x'], ['y'])], { x: [4] }, ['y']);
    const strange = feeds([0, -1, 2, 3]);
    expect(await noise(log, identity, strange, 'y')).toBe(Infinity);
    expect(await noise(identity, log, strange, 'y')).toBe(Infinity);
    expect(await noise(log, log, strange, 'y')).toBe(0);
  });
  it('a run that fails fails it, and leaves nothing running', async () => {
    await expect(noise(model(0, 0), model(0, 0), [...runs, { x: floats([1, 2], [2]) }], 'y', 3)).rejects.toThrow();
  });
});

describe('decibels', () => {
  it('are shown up to 60, and fall as noise grows', () => {
    expect([decibels(0), decibels(1e-9), decibels(0.01), decibels(1), decibels(100), decibels(Infinity)]).toEqual([
      60,
      60,
      20,
      -0,
      -20,
      -Infinity,
    ]);
    fc.assert(
      fc.property(fc.double({ min: 0, noNaN: true }), fc.double({ min: 0, noNaN: true }), (a, b) => {
        if (a < b) expect(decibels(a)).toBeGreaterThanOrEqual(decibels(b));
      }),
    );
  });
});

describe('noiseOf sequences of probabilities', () => {
  /** Softmax of the logits [1, steps, classes], each times `gain` and with `shift` added to the first class. */
  const recogniser = (gain: number, shift: number, steps: number, classes: number) =>
    modelOf(
      [node('Mul', ['x', 'gain'], ['scaled']), node('Add', ['scaled', 'shift'], ['logits']), node('Softmax', ['logits'], ['p'])],
      { x: [1, steps, classes] },
      ['p'],
      [scalar('gain', gain), { ...scalar('shift', 0), dims: [classes], data: floatsOf([shift, ...new Array(classes - 1).fill(0)]) }],
      OPSET,
    );
  const floatsOf = (values: number[]) => ({ kind: 'bytes' as const, bytes: new Uint8Array(Float32Array.from(values).buffer) });
  const logits = [
    [9, 0, -3, 1],
    [0, 8, 2, -1],
    [0.3, 0.1, 0, 0.2],
  ];
  const feed = { x: floats(logits.flat(), [1, 3, 4]) };
  const softmax = (row: number[]) => {
    const e = row.map((v) => Math.exp(v - Math.max(...row)));
    const sum = e.reduce((a, b) => a + b, 0);
    return e.map((v) => v / sum);
  };

  it('is that of their logarithms above 1/512', async () => {
    const evidence = (p: number) => Math.max(0, Math.log(512 * p));
    let [power, wrong] = [0, 0];
    for (const row of logits) {
      const p = softmax(row);
      const q = softmax(row.map((v, i) => 0.8 * v + (i === 0 ? 0.5 : 0)));
      p.forEach((v, i) => {
        power += evidence(v) ** 2;
        wrong += (evidence(v) - evidence(q[i]!)) ** 2;
      });
    }
    expect(await noise(recogniser(0.8, 0.5, 3, 4), recogniser(1, 0, 3, 4), [feed], null)).toBeCloseTo(wrong / power, 5);
  });
  it('is nothing for what an integer Softmax cannot tell from nothing', async () => {
    const spikes = { x: floats([20, 0, 1, 2], [1, 1, 4]) };
    expect(await noise(recogniser(1.5, 0, 1, 4), recogniser(1, 0, 1, 4), [spikes], null)).toBeLessThan(1e-9);
  });
  it('values that are no distributions are compared as they are', async () => {
    const plain = modelOf([node('Add', ['x', 'a'], ['y'])], { x: [1, 1, 4] }, ['y'], [scalar('a', 0.1)], OPSET);
    const reference = modelOf([node('Add', ['x', 'a'], ['y'])], { x: [1, 1, 4] }, ['y'], [scalar('a', 0)], OPSET);
    const values = { x: floats([0.5, 0.25, 0.5, 0.25], [1, 1, 4]) };
    expect(await noise(plain, reference, [values], null)).toBeCloseTo(0.04 / 0.625, 5);
  });
});
