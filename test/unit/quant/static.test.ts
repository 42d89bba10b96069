/** The static line end to end on models made here: prepare, observe, measure, plan, transform, emit; ONNX Runtime judges. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Recipe, resolveRecipe } from '../../../src/domain/recipe.ts';
import type { TensorValue } from '../../../src/domain/runner.ts';
import { type Attribute, floatAttr, intsAttr } from '../../../src/onnx/graph.ts';
import type { Model, Node, Tensor } from '../../../src/onnx/model.ts';
import { inferShapes } from '../../../src/onnx/shapes.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { gate } from '../../../src/quant/gate/gate.ts';
import { integerUnits, selfQuantized } from '../../../src/quant/gate/kernels.ts';
import type { LayerCosts } from '../../../src/quant/measure/costs.ts';
import { prepare } from '../../../src/quant/prepare/index.ts';
import { observeModel, quantizeStatic, type StaticContext, type StaticResult } from '../../../src/quant/static.ts';
import { inFolder, profile, randomFeeds } from './emit/quantize.ts';
import { asFloats, ints, modelOf, node, runner, scalar, sqnr, weight } from './prepare/graphs.ts';

const op = (opType: string, inputs: string[], output: string, ...attributes: Attribute[]): Node =>
  node(opType, inputs, [output], { name: `n_${output}`, attributes });
const pads = intsAttr('pads', [1, 1, 1, 1]);
let seed = 50;
const w = (name: string, dims: number[]) => {
  const fan = dims.length === 2 ? dims[0]! : dims.slice(1).reduce((a, b) => a * b, 1);
  return weight(name, dims, { scale: 1.4 / Math.sqrt(fan), seed: seed++ });
};
const b = (name: string, n: number) => weight(name, [n], { scale: 0.1, seed: seed++ });

const cnnConstants: Tensor[] = [
  w('w1', [16, 3, 3, 3]),
  b('b1', 16),
  w('w2', [16, 16, 3, 3]),
  b('b2', 16),
  w('w3', [16, 1, 3, 3]),
  b('b3', 16),
  w('w4', [32, 16, 1, 1]),
  weight('scale', [32], { positive: true, seed: 7 }),
  b('shift', 32),
  b('mean', 32),
  weight('variance', [32], { positive: true, seed: 8 }),
  w('w5', [32, 10]),
  b('b5', 10),
  scalar('six', 6),
  scalar('zero', 0),
];
const cnn = modelOf(
  [
    op('Conv', ['x', 'w1', 'b1'], 'c1', pads),
    op('Relu', ['c1'], 'r1'),
    op('Conv', ['r1', 'w2', 'b2'], 'c2', pads),
    op('Add', ['c2', 'r1'], 'a2'),
    op('Relu', ['a2'], 'r2'),
    op('MaxPool', ['r2'], 'p2', intsAttr('kernel_shape', [2, 2]), intsAttr('strides', [2, 2])),
    op('Conv', ['p2', 'w3', 'b3'], 'c3', pads, { name: 'group', kind: 'int', value: 16n }),
    op('Clip', ['c3', 'zero', 'six'], 'r3'),
    op('Conv', ['r3', 'w4'], 'c4'),
    op('BatchNormalization', ['c4', 'scale', 'shift', 'mean', 'variance'], 'n4', floatAttr('epsilon', 1e-5)),
    op('Relu', ['n4'], 'r4'),
    op('GlobalAveragePool', ['r4'], 'g'),
    op('Flatten', ['g'], 'f'),
    op('Gemm', ['f', 'w5', 'b5'], 'y'),
  ],
  { x: ['N', 3, 16, 16] },
  { y: ['N', 10] },
  cnnConstants,
);
const mlp = modelOf(
  [
    op('MatMul', ['x', 'w1'], 'm1'),
    op('Add', ['m1', 'b1'], 'a1'),
    op('Relu', ['a1'], 'r1'),
    op('Gemm', ['r1', 'w2', 'b2'], 'g2'),
    op('Relu', ['g2'], 'r2'),
    op('Gemm', ['r2', 'w3', 'b3'], 'y'),
  ],
  { x: ['batch', 64] },
  { y: ['batch', 10] },
  [w('w1', [64, 128]), b('b1', 128), w('w2', [128, 128]), b('b2', 128), w('w3', [128, 10]), b('b3', 10)],
);
/** One layer of self-attention, two heads, with a residual, and of the usual feed-forward. */
const attention = modelOf(
  [
    ...['q', 'k', 'v'].flatMap((h) => [
      op('MatMul', ['x', `w_${h}`], `m_${h}`),
      op('Add', [`m_${h}`, `b_${h}`], `a_${h}`),
      op('Reshape', [`a_${h}`, 'heads'], `s_${h}`),
      op('Transpose', [`s_${h}`], `t_${h}`, intsAttr('perm', h === 'k' ? [0, 2, 3, 1] : [0, 2, 1, 3])),
    ]),
    op('MatMul', ['t_q', 't_k'], 'scores'),
    op('Mul', ['scores', 'root'], 'scaled'),
    op('Softmax', ['scaled'], 'soft'),
    op('MatMul', ['soft', 't_v'], 'mix'),
    op('Transpose', ['mix'], 'back', intsAttr('perm', [0, 2, 1, 3])),
    op('Reshape', ['back', 'flat'], 'joined'),
    op('MatMul', ['joined', 'w_o'], 'm_o'),
    op('Add', ['m_o', 'b_o'], 'out'),
    op('Add', ['out', 'x'], 'residual'),
    op('MatMul', ['residual', 'w_f'], 'm_f'),
    op('Add', ['m_f', 'b_f'], 'a_f'),
    op('Relu', ['a_f'], 'r_f'),
    op('MatMul', ['r_f', 'w_p'], 'y'),
  ],
  { x: ['N', 'S', 32] },
  { y: ['N', 'S', 32] },
  [
    ...['q', 'k', 'v', 'o'].flatMap((h) => [w(`w_${h}`, [32, 32]), b(`b_${h}`, 32)]),
    w('w_f', [32, 64]),
    b('b_f', 64),
    w('w_p', [64, 32]),
    scalar('root', 0.25),
    ints('heads', [0, 0, 2, 16]),
    ints('flat', [0, 0, 32]),
  ],
);
const MODELS: [string, Model, (runs: number, seed?: number) => Record<string, TensorValue>[]][] = [
  [
    'a convolutional network',
    cnn,
    (runs, s) => randomFeeds(modelOf(cnn.graph.nodes, { x: [1, 3, 16, 16] }, ['y']), runs, { seed: s ?? 300 }),
  ],
  ['a perceptron', mlp, (runs, s) => randomFeeds(modelOf(mlp.graph.nodes, { x: [2, 64] }, ['y']), runs, { seed: s ?? 300 })],
  [
    'an attention layer',
    attention,
    (runs, s) => randomFeeds(modelOf(attention.graph.nodes, { x: [1, 12, 32] }, ['y']), runs, { seed: s ?? 300 }),
  ],
];

interface Line {
  result: StaticResult;
  prepared: Model;
  stages: string[];
  costs: LayerCosts;
  asked: number[];
}

async function quantize(
  model: Model,
  feeds: Record<string, TensorValue>[],
  options: {
    recipe?: Recipe;
    costs?: LayerCosts;
    targetDb?: number;
    context?: Partial<StaticContext>;
    plan?: (costs: LayerCosts) => LayerCosts;
  } = {},
): Promise<Line> {
  return inFolder(async (workDir) => {
    const prepared = (await prepare(model, { runner, equalize: true })).model;
    const types = inferShapes(prepared, new Map(Object.entries(feeds[0]!).map(([name, value]) => [name, value.dims])));
    const stages: string[] = [];
    const asked: number[] = [];
    let stored: LayerCosts | undefined;
    const context: StaticContext = {
      runner,
      profile,
      threads: 1,
      profileThreads: 1,
      workDir,
      targetDb: options.targetDb ?? 20,
      repair: false,
      primaryOutput: null,
      cachedCosts: () => options.costs,
      storeCosts: (_, costs) => {
        stored = costs;
      },
      stage: async (name, work) => {
        stages.push(name);
        return work();
      },
      progress: () => {},
      ...options.context,
    };
    const data = {
      runs: feeds.length,
      feed: (run: number) => {
        asked.push(run);
        return feeds[run]!;
      },
    };
    const basis = await observeModel(prepared, types, data, context);
    const result = await quantizeStatic(basis, resolveRecipe(options.recipe ?? { method: 'static' }), context);
    return { result, prepared, stages, costs: stored ?? options.costs!, asked };
  });
}

/** Measured once a model: most of a line's time is that. */
const measured = new Map<Model, Promise<LayerCosts>>();
const costsOf = (model: Model): Promise<LayerCosts> => {
  let costs = measured.get(model);
  if (!costs) {
    costs = quantize(model, MODELS.find((m) => m[1] === model)![2](8)).then((line) => line.costs);
    measured.set(model, costs);
  }
  return costs;
};

/** The costs with one plan as the only candidate: every layer that may be in integers is. */
const everything = (costs: LayerCosts): LayerCosts => ({
  ...costs,
  candidates: [{ integer: Object.keys(costs.units).filter((n) => costs.units[n]!.integerUs !== null), speedup: 2 }],
});

async function judge(model: Model, line: Line, feeds: Record<string, TensorValue>[]) {
  return inFolder(async (workDir) => {
    const path = join(workDir, 'model.onnx');
    await writeFile(path, serializeModel(line.result.model));
    const float = await runner.open(serializeModel(model), { threads: 1 });
    try {
      const { nodes, outputs } = await gate(runner, path, float, feeds, { threads: 1, workDir });
      const reference: TensorValue[] = [];
      for (const feed of feeds) reference.push((await float.run(feed)).y!);
      const all = (values: TensorValue[]) => Float32Array.from(values.flatMap((v) => [...asFloats(v)]));
      return { nodes, db: sqnr(all(reference), all(outputs.map((o) => o.y!))) };
    } finally {
      float.close();
    }
  });
}

describe('the static line', () => {
  it.each(MODELS)('%s: passes the gate, keeps its outputs, and says of every layer what became of it', async (_, model, feeds) => {
    const line = await quantize(model, feeds(24));
    measured.set(model, Promise.resolve(line.costs));
    const { result, stages } = line;
    expect(stages).toEqual(['observe', 'gate', 'measure', 'plan', 'transform', 'emit']);
    const { nodes, db } = await judge(model, line, feeds(4, 900));
    expect(db).toBeGreaterThan(20);
    expect(await result.heldDb()).toBeGreaterThan(20);
    expect(integerUnits(result.quantization, nodes).sort()).toEqual(
      result.quantization.units
        .filter((u) => result.quantization.quantized.has(u.id))
        .map((u) => u.name)
        .sort(),
    );
    expect(selfQuantized(result.quantization, nodes)).toEqual([]);
    // Every unit is either in integers or among those left in float, with a reason.
    const left = new Map(result.leftInFloat.map((n) => [n.node, n]));
    for (const unit of result.quantization.units) expect(result.quantization.quantized.has(unit.id)).toBe(!left.has(unit.name));
    for (const note of left.values())
      expect(note.reason).toMatch(/^(slower-on-profile|no-integer-kernel|kernel-condition|sensitive|not-observed)$/);
    expect(result.notes.join('\n')).toMatch(/ranges: .* dB on held-back samples/);
    expect(result.notes.join('\n')).toMatch(/bias correction: (not )?kept/);
  });

  it.each(MODELS)('%s: all of it in integers, in both formats', async (_, model, feeds) => {
    const costs = await costsOf(model);
    for (const format of ['qdq', 'qoperator'] as const) {
      const line = await quantize(model, feeds(24), { costs: everything(costs), recipe: { method: 'static', format }, targetDb: 0 });
      expect(line.stages).toEqual(['observe', 'plan', 'transform', 'emit']);
      const units = line.result.quantization.units.filter((u) => u.row);
      expect(line.result.quantization.quantized.size).toBe(units.length);
      const { nodes, db } = await judge(model, line, feeds(4, 900));
      expect(db).toBeGreaterThan(20);
      expect(integerUnits(line.result.quantization, nodes)).toHaveLength(units.length);
    }
  });

  it.each(MODELS)('%s: the same input and costs give the same bytes, with one thread and with two', async (_, model, feeds) => {
    const costs = await costsOf(model);
    const bytes = async (threads: number) =>
      Buffer.from(serializeModel((await quantize(model, feeds(24), { costs, targetDb: 45, context: { threads } })).result.model));
    const first = await bytes(1);
    expect(Buffer.compare(first, await bytes(1))).toBe(0);
    expect(Buffer.compare(first, await bytes(2))).toBe(0);
  });

  it('other sizes than the calibration data’s run', async () => {
    const [, model, feeds] = MODELS[2]!;
    const costs = await costsOf(model);
    const names = Object.keys(costs.units).filter((n) => costs.units[n]!.integerUs !== null);
    // Half the layers in float, so that there are guards of all kinds.
    for (const keep of [0, 1]) {
      const integer = names.filter((_, i) => i % 2 === keep);
      const line = await quantize(model, feeds(8), { costs: { ...costs, candidates: [{ integer, speedup: 2 }] }, targetDb: 0 });
      const longer = randomFeeds(modelOf(attention.graph.nodes, { x: [3, 20, 32] }, ['y']), 1, { seed: 44 });
      const { nodes, db } = await judge(model, line, longer);
      expect(db).toBeGreaterThan(15);
      expect(selfQuantized(line.result.quantization, nodes)).toEqual([]);
    }
  });

  it('layers go back to float until the target is met', async () => {
    const [, model, feeds] = MODELS[0]!;
    const costs = await costsOf(model);
    const all = await quantize(model, feeds(24), { costs: everything(costs), targetDb: 0 });
    const better = await quantize(model, feeds(24), { costs: everything(costs), targetDb: (await all.result.heldDb()) + 4 });
    expect(await better.result.heldDb()).toBeGreaterThanOrEqual((await all.result.heldDb()) + 4);
    expect(better.result.quantization.quantized.size).toBeLessThan(all.result.quantization.quantized.size);
    expect(better.result.leftInFloat.some((n) => n.reason === 'sensitive')).toBe(true);
    expect(better.result.notes.join('\n')).toMatch(/layers went back to float/);
    expect((await judge(model, better, feeds(4, 900))).db).toBeGreaterThan((await judge(model, all, feeds(4, 900))).db);
  });

  it('what a recipe excludes stays in float and says so', async () => {
    const [, model, feeds] = MODELS[0]!;
    const costs = await costsOf(model);
    const { result } = await quantize(model, feeds(8), {
      costs: everything(costs),
      targetDb: 0,
      recipe: { method: 'static', exclude: { names: ['n_c2'], patterns: ['n_*4'], operators: ['Gemm'] } },
    });
    const excluded = result.leftInFloat.filter((n) => n.reason === 'excluded-by-recipe').map((n) => n.node);
    expect(excluded).toEqual(expect.arrayContaining(['n_c2', 'n_c4', 'n_y']));
    expect(result.quantization.units.filter((u) => result.quantization.quantized.has(u.id)).map((u) => u.name)).not.toEqual(
      expect.arrayContaining(excluded),
    );
  });

  it('what was refused when the costs were measured is not tried again, and says so', async () => {
    const [, model, feeds] = MODELS[1]!;
    const costs = await costsOf(model);
    const units = { ...costs.units, n_g2: { ...costs.units.n_g2!, integerUs: null } };
    const { result } = await quantize(model, feeds(8), { costs: everything({ ...costs, units }), targetDb: 0 });
    expect(result.leftInFloat).toContainEqual(expect.objectContaining({ node: 'n_g2', reason: 'refused-by-runtime' }));
  });

  it('a model without anything for integers is told so', async () => {
    const nothing = modelOf([op('Tanh', ['x'], 't'), op('Exp', ['t'], 'y')], { x: ['N', 4] }, { y: ['N', 4] });
    const feeds = randomFeeds(modelOf(nothing.graph.nodes, { x: [1, 4] }, ['y']), 4);
    await expect(quantize(nothing, feeds)).rejects.toMatchObject({ code: 'nothing-to-quantize' });
    const broken = modelOf([op('MatMul', ['x', 'w'], 'y')], { x: ['N', 4] }, { y: ['N', 3] }, [
      { ...w('w', [4, 3]), data: { kind: 'bytes', bytes: new Uint8Array(new Float32Array(12).fill(Number.NaN).buffer) } },
    ]);
    await expect(quantize(broken, feeds)).rejects.toMatchObject({ code: 'model-not-finite' });
    const moves = modelOf([op('Transpose', ['x'], 'y')], { x: ['N', 4] }, { y: [4, 'N'] });
    await expect(quantize(moves, feeds)).rejects.toMatchObject({ code: 'nothing-to-quantize' });
  });

  it('ends when told to', async () => {
    const controller = new AbortController();
    const [, model, feeds] = MODELS[1]!;
    const context: Partial<StaticContext> = {
      signal: controller.signal,
      stage: async (name, work) => {
        if (name === 'plan') controller.abort(new Error('enough'));
        return work();
      },
    };
    await expect(quantize(model, feeds(8), { costs: await costsOf(model), context })).rejects.toThrow('enough');
  });
});

describe('held-back runs', () => {
  it.each([1, 2, 5, 6, 11, 12, 17, 31, 48, 127, 128, 129, 180])(
    'of %i: never observed where there are enough, spread over the set, always the same',
    async (runs) => {
      const tiny = modelOf([op('Gemm', ['x', 'w', 'b'], 'y')], { x: [1, 4] }, ['y'], [w('w', [4, 3]), b('b', 3)]);
      const feeds = randomFeeds(tiny, runs);
      const basis = await inFolder((workDir) =>
        observeModel(
          tiny,
          inferShapes(tiny),
          { runs, feed: (i) => feeds[i]! },
          {
            runner,
            profile,
            threads: 1,
            profileThreads: 1,
            workDir,
            targetDb: 20,
            repair: false,
            primaryOutput: null,
            cachedCosts: () => undefined,
            storeCosts: () => {},
            stage: (_, work) => work(),
            progress: () => {},
          },
        ),
      );
      const held = basis.held.map((feed) => feeds.indexOf(feed as (typeof feeds)[number]));
      const seen = basis.observations.get('x')!.count / 4;
      expect(basis.heldSeen).toBe(runs < 12);
      expect(held).toHaveLength(runs < 12 ? Math.min(runs, 6) : Math.min(16, Math.max(6, Math.floor(runs / 8))));
      expect(new Set(held).size).toBe(held.length);
      expect(held.every((i) => i >= 0 && i < runs)).toBe(true);
      expect(seen).toBe(basis.heldSeen ? runs : runs - held.length);
      if (!basis.heldSeen) {
        // In order, and no stretch of the set is left out: data is often sorted by class.
        const gaps = [...held, runs + held[0]!].map((i, k, all) => (k ? i - all[k - 1]! : 0)).slice(1);
        expect(Math.max(...gaps)).toBeLessThanOrEqual(3 * Math.ceil(runs / held.length));
        const extremes = feeds.filter((_, i) => !held.includes(i)).flatMap((feed) => [...asFloats(feed.x!)]);
        expect([basis.observations.get('x')!.min, basis.observations.get('x')!.max]).toEqual([
          Math.min(...extremes),
          Math.max(...extremes),
        ]);
      }
      expect(basis.heldReference).toHaveLength(held.length);
      expect(basis.runs).toBe(runs);
      expect(basis.moreFeeds.every((feed) => basis.heldSeen || !held.includes(feeds.indexOf(feed as (typeof feeds)[number])))).toBe(true);
    },
  );
});
