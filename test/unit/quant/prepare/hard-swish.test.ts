import { describe, expect, it } from 'vitest';
import { cloneModel, floatAttr } from '../../../../src/onnx/graph.ts';
import { decomposeHardSwish } from '../../../../src/quant/prepare/hard-swish.ts';
import { ensureSound } from '../../../../src/quant/prepare/pass.ts';
import { Rewriter } from '../../../../src/quant/prepare/rewriter.ts';
import { agreement, floats, modelOf, node, normals, operators } from './graphs.ts';

describe('HardSwish and HardSigmoid in integer operators', () => {
  const make = () =>
    modelOf(
      [
        { ...node('HardSwish', ['x'], ['a']), name: 'swish' },
        { ...node('HardSigmoid', ['a'], ['y'], { attributes: [floatAttr('alpha', 0.3), floatAttr('beta', 0.4)] }), name: 'sigmoid' },
      ],
      { x: [100] },
      ['y'],
    );
  const feeds = { x: floats(normals(100, 1, 4), [100]) };
  it('is the same function', async () => {
    const model = make();
    const before = cloneModel(model);
    const rewriter = new Rewriter(model);
    expect(decomposeHardSwish(rewriter)).toBe(2);
    rewriter.commit();
    ensureSound(model, 'decompose');
    expect(operators(model)).toEqual(['Add', 'Clip', 'Mul', 'Mul', 'Add', 'Clip', 'Mul']);
    expect(await agreement(before, model, feeds)).toBeGreaterThan(120);
    expect(new Set(rewriter.origin.values())).toEqual(new Set(['swish', 'sigmoid']));
  });
  it('only of the nodes chosen', () => {
    const model = make();
    const rewriter = new Rewriter(model);
    expect(decomposeHardSwish(rewriter, new Set(['sigmoid']))).toBe(1);
    rewriter.commit();
    expect(operators(model)).toEqual(['HardSwish', 'Add', 'Clip', 'Mul']);
  });
});
