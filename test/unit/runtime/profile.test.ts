import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseProfile } from '../../../src/runtime/profile.ts';
import { createRunner } from '../../../src/runtime/runner.ts';
import { DataType, model, node, tensor } from './models.ts';

const run = { cat: 'Session', name: 'model_run', dur: 100 };
const kernel = (name: string, operator: string, index: string, dur: number) => ({
  cat: 'Node',
  name: `${name}_kernel_time`,
  dur,
  args: { op_name: operator, node_index: index },
});

it('takes the median of a node that runs once a run', () => {
  const nodes = parseProfile(
    JSON.stringify([
      run,
      kernel('a', 'Conv', '0', 90),
      kernel('a_kernel_time', 'Relu', '1', 5),
      run,
      kernel('a', 'Conv', '0', 30),
      kernel('a_kernel_time', 'Relu', '1', 7),
      run,
      kernel('a', 'Conv', '0', 20),
      kernel('a_kernel_time', 'Relu', '1', 6),
      { cat: 'Node', name: 'a_fence_before', dur: 1000 },
      { cat: 'Session', name: 'session_initialization', dur: 5000 },
    ]),
  );
  expect(nodes).toEqual([
    { name: 'a', operator: 'Conv', us: 30 },
    { name: 'a_kernel_time', operator: 'Relu', us: 6 },
  ]);
});

it('charges a run for all that a Loop’s body took, and a part of what a branch took', () => {
  const nodes = parseProfile(
    JSON.stringify([
      run,
      kernel('b', 'Add', '0', 2),
      kernel('b', 'Add', '0', 4),
      kernel('c', 'Mul', '0', 8),
      run,
      kernel('b', 'Add', '0', 6),
    ]),
  );
  expect(nodes).toEqual([
    { name: 'b', operator: 'Add', us: 6 },
    { name: 'c', operator: 'Mul', us: 4 },
  ]);
});

it('keeps nodes of one name apart', () => {
  const nodes = parseProfile(JSON.stringify([run, kernel('', 'Add', '3', 2), kernel('', 'Add', '4', 3)]));
  expect(nodes.map(({ us }) => us)).toEqual([2, 3]);
});

it('throws on a profile that is cut off', () => {
  expect(() => parseProfile('[{"cat": "Node"')).toThrow(SyntaxError);
});

// The runtime writes names into its JSON as they are.
it('reads what the runtime writes of names that break JSON', async () => {
  const names = ['quo"te', 'back\\slash', 'line\nend', 'tab\t\u0001', '"}},\n', '<b>名</b>'];
  const nodes = names.map((name, i) => ({
    ...node(i % 2 ? 'Erf' : 'Sin', [i ? `v${i - 1}` : 'x'], [i === names.length - 1 ? 'y' : `v${i}`]),
    name,
  }));
  const bytes = model({ x: [DataType.FLOAT, [4]] }, { y: [DataType.FLOAT, [4]] }, nodes);
  const folder = mkdtempSync(join(tmpdir(), 'halftone-profile-'));
  try {
    const session = await createRunner().open(bytes, { threads: 1, optimization: 'disable', profilePrefix: join(folder, 'p') });
    for (let i = 0; i < 3; i++) await session.run({ x: tensor('float32', [4], [1, 2, 3, 4]) });
    const profile = await session.endProfile();
    session.close();
    expect(profile.map(({ name, operator }) => [name, operator])).toEqual(nodes.map(({ name, opType }) => [name, opType]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
