/** Oracle: ONNX Runtime’s own profile and clock, on small models. */
import { describe, expect, it } from 'vitest';
import { resolveRecipe } from '../../../../src/domain/recipe.ts';
import { type Attribute, intsAttr } from '../../../../src/onnx/graph.ts';
import type { Model } from '../../../../src/onnx/model.ts';
import { emit } from '../../../../src/quant/emit/emit.ts';
import { measure, originalName } from '../../../../src/quant/measure/measure.ts';
import { rangesBy } from '../../../../src/quant/observe/observe.ts';
import { quantizationFor } from '../../../../src/quant/plan/plan.ts';
import { type Feeds, inFolder, profile, profiled, quantize, randomFeeds } from '../emit/quantize.ts';
import { modelOf, node, runner, weight } from '../prepare/graphs.ts';

const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]) =>
  node(opType, inputs, [output], { name: `n_${output}`, attributes });
const C = 32;
const conv = (from: string, to: string) => op('Conv', [from, 'w', 'b'], to, intsAttr('pads', [1, 1, 1, 1]));
const convs = [weight('w', [C, C, 3, 3], { scale: 0.08 }), weight('b', [C])];
const cnn = modelOf(
  [
    conv('x', 'c'),
    op('Relu', ['c'], 'r'),
    conv('r', 'd'),
    op('Add', ['d', 'r'], 'a'),
    op('Sigmoid', ['a'], 's'),
    op('Mul', ['a', 's'], 'm'),
    op('MaxPool', ['m'], 'p', intsAttr('kernel_shape', [2, 2]), intsAttr('strides', [2, 2])),
    op('Tanh', ['p'], 't'),
    op('GlobalAveragePool', ['t'], 'g'),
    op('Flatten', ['g'], 'f'),
    op('Gemm', ['f', 'v', 'z'], 'h'),
    op('Relu', ['h'], 'y'),
  ],
  { x: [1, C, 20, 20] },
  ['y'],
  [...convs, weight('v', [C, 40]), weight('z', [40])],
);
const mlp = modelOf(
  [
    op('Gemm', ['x', 'w1', 'b1'], 'a'),
    op('Relu', ['a'], 'b'),
    op('MatMul', ['b', 'w2'], 'c'),
    op('Add', ['c', 'b2'], 'd'),
    op('Relu', ['d'], 'e'),
    op('Gemm', ['e', 'w3', 'b3'], 'y'),
  ],
  { x: [8, 256] },
  ['y'],
  [
    weight('w1', [256, 256]),
    weight('b1', [256]),
    weight('w2', [256, 256]),
    weight('b2', [256]),
    weight('w3', [256, 10]),
    weight('b3', [10]),
  ],
);

describe('originalName', () => {
  it.each([
    ['conv', 'conv'],
    ['conv_token_12', 'conv'],
    ['c_nchwc', 'c'],
    ['c_nhwc_token_3', 'c'],
    ['dq/duplicated', 'dq'],
    ['dq/duplicated_token_4/duplicated', 'dq'],
    ['mm/MatMulAddFusion', 'mm'],
    ['mm/MatMulAddFusion_token_9', 'mm'],
    ['mul/QuickGeluFusion/', 'mul'],
    ['/block/mul/LayerNormFusion/', '/block/mul'],
    ['q/MatMul/MatmulTransposeFusion/', 'q/MatMul'],
    ['fused dense_1', 'dense_1'],
    ['fused dense_1_token_2', 'dense_1'],
    ['token_12', 'token_12'],
    ['/duplicated/x', '/duplicated/x'],
  ])('%s → %s', (name, want) => {
    expect(originalName(name)).toBe(want);
    expect(originalName(originalName(name))).toBe(want);
  });
  it('stops at a name that the model has', () => {
    const known = new Set(['fused gemm', 'x_nchwc', 'y_token_1']);
    expect(originalName('fused gemm', known)).toBe('fused gemm');
    expect(originalName('fused fused gemm_token_2', known)).toBe('fused gemm');
    expect(originalName('x_nchwc_token_5', known)).toBe('x_nchwc');
    expect(originalName('y_token_1_nchwc', known)).toBe('y_token_1');
  });
  it.each([
    ['a convolutional network', cnn],
    ['a perceptron', mlp],
  ] as [string, Model][])('finds every operator of %s in the runtime’s profile, but layout changes and conversions', async (_, model) => {
    const feeds = randomFeeds(model, 1);
    const q = await quantize(model, { feeds });
    const known = new Set([...model.graph.nodes.map((n) => n.name), ...model.graph.nodes.flatMap((n) => n.outputs)]);
    for (const shown of [model, q.qdq, q.qoperator]) {
      const { nodes } = await profiled(shown, feeds);
      const lost = nodes.filter((n) => !known.has(originalName(n.name, known)));
      expect(
        lost.filter((n) => !/^(Reorder(In|Out)put|Transpose|QuantizeLinear|DequantizeLinear)$/.test(n.operator)).map((n) => n.name),
      ).toEqual([]);
    }
  });
});

async function costsOf(model: Model, feeds: Feeds[], allow: (name: string) => boolean = () => true, signal?: AbortSignal) {
  const q = await quantize(model, { feeds });
  const allowed = new Set([...q.quantization.quantized].filter((id) => allow(q.units[id]!.name)));
  const emitted: number[][] = [];
  const costs = await inFolder((workDir) =>
    measure({
      runner,
      prepared: model,
      units: q.units,
      allowed,
      types: q.types,
      emit: (quantized) => {
        emitted.push([...quantized]);
        const ranges = rangesBy('minmax', q.observations);
        const recipe = resolveRecipe({ method: 'static' });
        return emit(
          model,
          quantizationFor({ units: q.units, quantized, ranges, recipe, profile, constant: (n) => model.graph.initializers.get(n) }),
          'qdq',
        );
      },
      feeds,
      threads: 1,
      workDir,
      ...(signal && { signal }),
    }),
  );
  return { q, allowed, costs, emitted };
}

describe('measure', () => {
  it('gives every layer its cost in float, and in integers where it may be', async () => {
    const { q, allowed, costs, emitted } = await costsOf(cnn, randomFeeds(cnn, 1), (name) => name !== 'n_p');
    expect(Object.keys(costs.units)).toEqual(q.units.map((u) => u.name));
    for (const unit of q.units) {
      const cost = costs.units[unit.name]!;
      if (allowed.has(unit.id)) expect(cost.integerUs).toBeGreaterThanOrEqual(0);
      else expect(cost.integerUs).toBeNull();
    }
    // What takes time has a cost: none is lost under a fused name.
    for (const name of ['n_c', 'n_d', 'n_h']) {
      expect(costs.units[name]!.floatUs, name).toBeGreaterThan(0);
      expect(costs.units[name]!.integerUs, name).toBeGreaterThan(0);
    }
    expect(costs.units.n_m!.floatUs + costs.units.n_s!.floatUs).toBeGreaterThan(0);
    // Every plan keeps to what is allowed, the fullest is among them, the fastest comes first.
    expect(emitted.every((plan) => plan.every((id) => allowed.has(id)))).toBe(true);
    expect(costs.candidates.map((c) => c.integer.length)).toContain(allowed.size);
    const speeds = costs.candidates.map((c) => c.speedup);
    expect(speeds).toEqual([...speeds].sort((a, b) => b - a));
    expect(speeds.every((s) => s > 0.02 && s < 50)).toBe(true);
    expect(new Set(costs.candidates.map((c) => c.integer.join())).size).toBe(costs.candidates.length);
    expect(JSON.parse(JSON.stringify(costs))).toEqual(costs);
  });
  it('products with a folded activation have both costs, and plans with them are raced', async () => {
    const { costs } = await costsOf(mlp, randomFeeds(mlp, 1));
    expect(costs.candidates.some((c) => c.integer.includes('n_a'))).toBe(true);
    for (const name of ['n_a', 'n_c']) {
      expect(costs.units[name]!.floatUs, name).toBeGreaterThan(0);
      expect(costs.units[name]!.integerUs, name).toBeGreaterThan(0);
    }
  });
  it('ends when told to', async () => {
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    await expect(costsOf(mlp, randomFeeds(mlp, 1), () => true, controller.signal)).rejects.toThrow('enough');
  });
});
