import { expect, it } from 'vitest';
import { parseProfile } from '../../../src/runtime/profile.ts';

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
