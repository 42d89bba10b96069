import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Session, TensorValue } from '../../../src/domain/runner.ts';
import { evaluate } from '../../../src/evaluate/compare.ts';
import { openDataset } from '../../../src/evaluate/dataset.ts';
import { openNpz } from '../../../src/evaluate/npz.ts';

// The project's own outside judge, ../shared/check/check.py: its feeds and its figures on the same arrays must be ours.
const python = '../.venv-check/bin/python';
const here = existsSync(python) && existsSync('../shared/check/check.py');
const dir = mkdtempSync(join(tmpdir(), 'halftone-judge-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const SCRIPT = `
import sys, json, hashlib; sys.path.insert(0, '../shared/check')
import numpy as np, check
out = sys.argv[1]; r = np.random.default_rng(0); R = {}
class Input:
    def __init__(s, name, shape): s.name, s.shape = name, shape
class Session:
    def __init__(s, ins): s.ins = ins
    def get_inputs(s): return s.ins
def softmax(x): e = np.exp(x - x.max(-1, keepdims=True)); return e / e.sum(-1, keepdims=True)
def case(name, arrays, shapes, ref, got, labels=None):
    ins = [Input(k, s) for k, s in shapes.items()]; F = list(check.feeds(Session(ins), arrays))
    ref, got = [x.astype(np.float32) for x in ref], [x.astype(np.float32) for x in got]
    np.savez(f'{out}/{name}.npz', **arrays, **({} if labels is None else {'labels': labels}))
    np.savez(f'{out}/{name}.out.npz', **{f'r{i:04}': x for i, x in enumerate(ref)}, **{f'g{i:04}': x for i, x in enumerate(got)})
    q = check.quality(ref, got, labels, {v.shape[1:] for v in arrays.values()})
    R[name] = {'shapes': {k: list(s) for k, s in shapes.items()}, 'quality': [v if v is None or isinstance(v, str) else float(v) for v in q],
      'feeds': [{k: [list(np.shape(v)), hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()] for k, v in f.items()} for f in F]}
n = 40; x = r.normal(size=(n, 3, 4, 4)).astype(np.float32)
def pair(*shape, noise=.5):
    a = [r.normal(size=shape) for _ in range(n)]; return a, [v + noise * r.normal(size=shape) for v in a]
y10 = r.integers(0, 10, n); a, b = pair(1, 10)
case('classes', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b, y10)
case('unlabelled', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b)
a, b = pair(1, 10, 1, 1); case('trailing', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b, y10.astype(np.int32))
a, b = pair(1, 1); case('probability', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b, r.integers(0, 2, n))
case('column', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b)
a, b = pair(1, 512, 1); case('wide', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b)
a, b = pair(1, 3, 4, 4); case('picture', {'x': x}, {'x': ['N', 3, 4, 4]}, a, b)
f = r.normal(size=(n, 64)).astype(np.float32); a, b = pair(1, 64); case('autoencoder', {'x': f}, {'x': ['N', 64]}, a, b)
case('autoencoder_labelled', {'x': f}, {'x': ['N', 64]}, a, b, r.integers(0, 64, n))
m = n // 4; a, b = [np.concatenate(r.normal(size=(4, 1, 10))) for _ in range(m)], [r.normal(size=(4, 10)) for _ in range(m)]
case('batch', {'x': x}, {'x': [4, 3, 4, 4]}, a, b, y10)
m = n // 16; a, b = [r.normal(size=(16, 10)) for _ in range(m)], [r.normal(size=(16, 10)) for _ in range(m)]
case('rest', {'x': x}, {'x': [16, 3, 4, 4]}, a, b, y10)
a, b = pair(1, 12, 6, noise=.3); Y = np.full((n, 12), -1, np.int64)
for i, v in enumerate(a):
    t = check.ctc(v)[0] if i % 3 else list(r.integers(1, 6, 4)); Y[i, :len(t)] = t
case('text', {'x': x}, {'x': ['N', 3, 4, 4]}, [softmax(v) for v in a], [softmax(v) for v in b], Y)
a, b = pair(1, 1); case('states', {'input': r.normal(size=(n, 1, 8)).astype(np.float32), 'sr': np.full(n, 8000), 'state': r.normal(size=(n, 2, 1, 5)).astype(np.float32)}, {'input': ['b', 's'], 'sr': [], 'state': [2, 'b', 5]}, a, b)
json.dump(R, open(out + '/judge.json', 'w'))
`;

interface Verdict {
  shapes: Record<string, (number | string)[]>;
  quality: [string | null, number | null, number | null, number | null, number];
  feeds: Record<string, [number[], string]>[];
}

describe('the outside judge', () => {
  it.skipIf(!here)('has the same feeds and the same figures', { timeout: 60_000 }, async () => {
    execFileSync(python, ['-c', SCRIPT, dir]);
    const verdicts = JSON.parse(readFileSync(join(dir, 'judge.json'), 'utf8')) as Record<string, Verdict>;
    expect(Object.keys(verdicts)).toHaveLength(13);
    for (const [name, verdict] of Object.entries(verdicts)) {
      const outputs = await openNpz(join(dir, `${name}.out.npz`), dir);
      const session = (prefix: string): Session => {
        let run = 0;
        return {
          inputs: Object.entries(verdict.shapes).map(([input, dims]) => ({
            name: input,
            dims,
            type: input === 'sr' ? 'int64' : 'float32',
          })),
          outputs: [{ name: 'out', type: 'float32', dims: [] }],
          loadMs: 0,
          async run(feeds): Promise<Record<string, TensorValue>> {
            const expected = verdict.feeds[run]!;
            const seen = Object.fromEntries(
              Object.entries(feeds).map(([key, value]) => [key, [value.dims, createHash('sha256').update(value.bytes).digest('hex')]]),
            );
            expect(seen, `${name}, run ${run}`).toEqual(expected);
            const array = outputs.arrays.get(`${prefix}${String(run++).padStart(4, '0')}`)!;
            return { out: { type: 'float32', dims: [...array.shape], bytes: array.rows(0, array.shape[0]!) } };
          },
          observe: () => Promise.reject(new Error('not here')),
          endProfile: () => Promise.reject(new Error('not here')),
          close: () => undefined,
        };
      };
      const float = session('r');
      const dataset = await openDataset(join(dir, `${name}.npz`), dir, float.inputs);
      expect(dataset.groups).toBe(verdict.feeds.length);
      const { baseline, variants } = await evaluate({ float, variants: [session('g')], dataset, metric: null, seed: 1 });
      const [metric, floatValue, value, agreement, sqnr] = verdict.quality;
      const ours = variants[0]!.evaluation!;
      if (metric !== null) {
        expect(ours.metric, name).toBe(metric);
        expect(baseline.value, name).toBeCloseTo(floatValue!, 9);
        expect(ours.value, name).toBeCloseTo(value!, 9);
        expect(ours.drop, name).toBeCloseTo(floatValue! - value!, 9);
      } else expect(ours.metric, name).toBe(agreement === null ? 'sqnr' : 'agreement');
      if (agreement === null) expect(ours.agreement, name).toBeNull();
      else expect(ours.agreement, name).toBeCloseTo(agreement, 9);
      expect(ours.sqnrDb, name).toBeCloseTo(Math.min(sqnr, 60), 6);
      await dataset.close();
      await outputs.close();
    }
  });

  it.skipIf(here)('is not here: ../shared/check and its virtual environment are needed', () => undefined);
});
