/** Shows the facts that plans rely on, each on a model of a few nodes. When one fails, the runtime has changed: see src/runtime/facts.ts. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionOptions, TensorValue } from '../../../src/domain/runner.ts';
import type { Node, Tensor } from '../../../src/onnx/model.ts';
import { FACTS } from '../../../src/runtime/facts.ts';
import { createRunner } from '../../../src/runtime/runner.ts';
import { constant, DataType, model, node, noise, numbers, scalar, tensor, type Values } from './models.ts';

const { FLOAT, UINT8, INT8, INT32 } = DataType;
const runner = createRunner();
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'halftone-facts-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A graph in the making: Q and DQ pairs with their parameters. */
class Builder {
  readonly nodes: Node[] = [];
  readonly initializers: Tensor[] = [];
  /** Rank of per-tensor scales and zero points: rank 0, or shape [1]. */
  readonly dims: number[];
  constructor(dims: number[] = []) {
    this.dims = dims;
  }
  add(opType: string, inputs: string[], output: string, attributes: Record<string, number | string | number[]> = {}, domain = ''): string {
    this.nodes.push(node(opType, inputs, [output], attributes, domain));
    return output;
  }
  constant(name: string, type: DataType, dims: number[], values: ArrayLike<number>): string {
    this.initializers.push(constant(name, type, dims, values));
    return name;
  }
  parameters(name: string, scale: number, zeroPoint: number, type: DataType = UINT8): string[] {
    return [this.constant(`${name}_s`, FLOAT, this.dims, [scale]), this.constant(`${name}_z`, type, this.dims, [zeroPoint])];
  }
  q(x: string, scale: number, zeroPoint: number): string {
    return this.add('QuantizeLinear', [x, ...this.parameters(`${x}_q`, scale, zeroPoint)], `${x}_q`);
  }
  dq(x: string): string {
    return this.add('DequantizeLinear', [x, `${x}_s`, `${x}_z`], `${x}_dq`);
  }
  qdq(x: string, scale: number, zeroPoint: number): string {
    return this.dq(this.q(x, scale, zeroPoint));
  }
  /** int8 weights, per output channel, behind their DQ. */
  weights(name: string, dims: number[], axis = 0): string {
    const channels = dims[axis]!;
    const values = noise(
      dims.reduce((a, b) => a * b, 1),
      127,
      7,
    ).map(Math.round);
    this.constant(name, INT8, dims, values);
    this.constant(`${name}_s`, FLOAT, [channels], new Float32Array(channels).fill(0.01));
    this.constant(`${name}_z`, INT8, [channels], new Int8Array(channels));
    return this.add('DequantizeLinear', [name, `${name}_s`, `${name}_z`], `${name}_dq`, { axis });
  }
  bias(name: string, channels: number, scale: number): string {
    this.constant(name, INT32, [channels], noise(channels, 1000, 3).map(Math.round));
    this.constant(`${name}_s`, FLOAT, [channels], new Float32Array(channels).fill(scale));
    this.constant(`${name}_z`, INT32, [channels], new Int32Array(channels));
    return this.add('DequantizeLinear', [name, `${name}_s`, `${name}_z`], `${name}_dq`, { axis: 0 });
  }
  build(inputs: Record<string, Values>, outputs: Record<string, Values>): Uint8Array {
    return model(inputs, outputs, this.nodes, this.initializers);
  }
}

/** Which kernels ran, and what came out. */
async function ran(bytes: Uint8Array, feeds: Record<string, TensorValue>, options: Partial<SessionOptions> = {}) {
  const session = await runner.open(bytes, { threads: 1, profilePrefix: join(folder, 'p'), ...options });
  try {
    const outputs = await session.run(feeds);
    return { kernels: (await session.endProfile()).map(({ operator }) => operator), outputs };
  } finally {
    session.close();
  }
}
const C = 16;
const image: Values = [FLOAT, [1, C, 8, 8]];
const x = tensor('float32', [1, C, 8, 8], noise(C * 64, 1, 11));
const KERNEL = { kernel_shape: [3, 3], pads: [1, 1, 1, 1] };

it('has facts with ids of their own, each obeyed by someone', () => {
  expect(new Set(FACTS.map(({ id }) => id)).size).toBe(FACTS.length);
  for (const { text, obeyedBy, sinceVersion } of FACTS) {
    expect(text).toMatch(/\.$/);
    expect(obeyedBy.length).toBeGreaterThan(0);
    expect(sinceVersion).toMatch(/^\d+\.\d+\.\d+$/);
  }
});

describe('scalar-parameters', () => {
  const added = (dims: number[]) => {
    const b = new Builder(dims);
    b.add('Add', [b.qdq('x', 0.01, 128), b.qdq('z', 0.01, 128)], 's');
    b.qdq('s', 0.02, 128);
    return b.build({ x: image, z: image }, { s_q_dq: image });
  };
  it('Add loads with rank-0 scales and runs in integers', async () => {
    expect((await ran(added([]), { x, z: x })).kernels).toContain('QLinearAdd');
  });
  it('Add fails to load with scales of shape [1]', async () => {
    await expect(runner.open(added([1]), { threads: 1 })).rejects.toThrow(/[Ss]cale and [Zz]ero-point must be a scalar/);
  });
});

describe('relu-folds-at-lowest-code', () => {
  const relu = (zeroPoint: number) => {
    const b = new Builder();
    b.add('Conv', [b.qdq('x', 1 / 127, 128), b.weights('w', [C, C, 3, 3]), b.bias('b', C, 0.01 / 127)], 'c', KERNEL);
    b.add('Relu', ['c'], 'r');
    b.qdq('r', 0.5, zeroPoint);
    return b.build({ x: image }, { r_q_dq: image });
  };
  it('folds with zero point 0', async () => {
    const { kernels } = await ran(relu(0), { x });
    expect(kernels).toContain('QLinearConv');
    expect(kernels.filter((kernel) => /^(Conv|FusedConv|Relu)$/.test(kernel))).toEqual([]);
  });
  it('leaves the Conv in float with zero point 1 or 128', async () => {
    for (const zeroPoint of [1, 128]) {
      const { kernels } = await ran(relu(zeroPoint), { x });
      expect(kernels).not.toContain('QLinearConv');
      expect(kernels.some((kernel) => /Conv$/.test(kernel))).toBe(true);
    }
  });
});

describe('clip-folds-inside-range and clip-edge-duplicate-node', () => {
  const relu6 = (scale: number) => {
    const b = new Builder();
    b.initializers.push(scalar('lo', FLOAT, 0), scalar('hi', FLOAT, 6));
    b.add('Conv', [b.qdq('x', 1 / 127, 128), b.weights('w', [C, C, 3, 3]), b.bias('b', C, 0.01 / 127)], 'c', KERNEL);
    b.add('Clip', ['c', 'lo', 'hi'], 'r');
    b.qdq('r', scale, 0);
    return b.build({ x: image }, { r_q_dq: image });
  };
  it('folds Relu6 at a scale of 6/255', async () => {
    const { kernels } = await ran(relu6(Math.fround(6 / 255)), { x });
    expect(kernels).toContain('QLinearConv');
    expect(kernels).not.toContain('Clip');
  });
  it('does not load at a scale just above', async () => {
    await expect(runner.open(relu6(6 / 254.75), { threads: 1 })).rejects.toThrow(/node/i);
  });
  it('loads and does not fold well above', async () => {
    expect((await ran(relu6(6 / 200), { x })).kernels).not.toContain('QLinearConv');
  });
});

describe('one-consumer', () => {
  it('leaves a Conv in float that is a graph output as well', async () => {
    const b = new Builder();
    b.add('Conv', [b.qdq('x', 1 / 127, 128), b.weights('w', [C, C, 3, 3]), b.bias('b', C, 0.01 / 127)], 'c', KERNEL);
    b.qdq('c', 0.5, 128);
    expect((await ran(b.build({ x: image }, { c_q_dq: image }), { x })).kernels).toContain('QLinearConv');
    expect((await ran(b.build({ x: image }, { c_q_dq: image, c: image }), { x })).kernels).not.toContain('QLinearConv');
  });
});

describe('float-island and float-island-guard', () => {
  /** Conv (int8) → Conv left in float → Conv (int8), as a plan writes it; `guarded`: per-axis DQ before the island. */
  const island = (guarded: boolean) => {
    const b = new Builder();
    b.add('Conv', [b.qdq('x', 1 / 127, 128), b.weights('w1', [C, C, 3, 3]), b.bias('b1', C, 0.01 / 127)], 'c1', KERNEL);
    b.add('Relu', ['c1'], 'r1');
    b.q('r1', 0.1, 0);
    if (guarded) {
      b.constant('guard_s', FLOAT, [C], new Float32Array(C).fill(0.1));
      b.constant('guard_z', UINT8, [C], new Uint8Array(C));
      b.add('DequantizeLinear', ['r1_q', 'guard_s', 'guard_z'], 'r1_dq', { axis: 1 });
    } else b.add('DequantizeLinear', ['r1_q', 'r1_q_s', 'r1_q_z'], 'r1_dq');
    // One channel is a thousandth of the others: rounding per tensor takes it away.
    const weights = noise(C * C * 9, 1, 5).map((value, i) => (Math.floor(i / (C * 9)) === 3 ? value / 1000 : value));
    b.add('Conv', ['r1_dq', b.constant('w2', FLOAT, [C, C, 3, 3], weights), b.constant('b2', FLOAT, [C], noise(C, 1, 9))], 'c2', KERNEL);
    b.add('Relu', ['c2'], 'r2');
    b.q('r2', 2, 0);
    b.add('Conv', [b.dq('r2_q'), b.weights('w3', [C, C, 3, 3]), b.bias('b3', C, 0.02)], 'c3', KERNEL);
    b.qdq('c3', 20, 128);
    return b.build({ x: image }, { c3_q_dq: image });
  };
  const convolutions = (kernels: string[]) => kernels.filter((kernel) => /Conv$/.test(kernel));

  it('quantizes an unguarded island by itself, and not with the optimizer off', async () => {
    expect(convolutions((await ran(island(false), { x })).kernels)).toEqual(['QLinearConv', 'QLinearConv', 'QLinearConv']);
    const off = await ran(island(false), { x }, { disabledOptimizers: ['WeightBiasQuantization'] });
    expect(convolutions(off.kernels)).toEqual(['QLinearConv', 'Conv', 'QLinearConv']);
  });
  it('leaves a guarded island in float, with the optimizer’s result when it is off', async () => {
    const guarded = await ran(island(true), { x });
    expect(convolutions(guarded.kernels)).toEqual(['QLinearConv', 'Conv', 'QLinearConv']);
    const off = await ran(island(false), { x }, { disabledOptimizers: ['WeightBiasQuantization'] });
    const difference = numbers(guarded.outputs.c3_q_dq).map((value, i) => Math.abs(value - numbers(off.outputs.c3_q_dq)[i]!));
    expect(Math.max(...difference)).toBeLessThanOrEqual(20); // one code: float sums differ in their last bits
  });
  it('fails at run with a guard before int8 weights', async () => {
    const b = new Builder();
    b.q('x', 1 / 127, 128);
    b.constant('guard_s', FLOAT, [C], new Float32Array(C).fill(1 / 127));
    b.constant('guard_z', UINT8, [C], new Uint8Array(C).fill(128));
    b.add('DequantizeLinear', ['x_q', 'guard_s', 'guard_z'], 'x_dq', { axis: 1 });
    b.add('Conv', ['x_dq', b.weights('w', [C, C, 3, 3])], 'c', KERNEL);
    b.qdq('c', 0.5, 128);
    await expect(ran(b.build({ x: image }, { c_q_dq: image }), { x })).rejects.toMatchObject({ name: 'OrtError' });
  });
});

describe('constant-dq-not-folded', () => {
  it('dequantizes a constant in every run, but folds Cast → Mul at load', async () => {
    const values = noise(C * C * 9, 127, 2).map(Math.round);
    const dq = new Builder();
    dq.constant('w', INT8, [C, C, 3, 3], values);
    dq.add('DequantizeLinear', ['w', ...dq.parameters('p', 0.01, 0, INT8)], 'wf');
    dq.add('Conv', ['x', 'wf'], 'y', KERNEL);
    expect((await ran(dq.build({ x: image }, { y: image }), { x })).kernels).toContain('DequantizeLinear');
    const cast = new Builder();
    cast.constant('w', INT8, [C, C, 3, 3], values);
    cast.add('Cast', ['w'], 'wc', { to: FLOAT });
    cast.add('Mul', ['wc', cast.constant('s', FLOAT, [], [0.01])], 'wf');
    cast.add('Conv', ['x', 'wf'], 'y', KERNEL);
    const { kernels } = await ran(cast.build({ x: image }, { y: image }), { x });
    expect(kernels).not.toContain('Mul');
    expect(kernels).not.toContain('Cast');
    expect(kernels).toContain('Conv');
  });
});

describe('dead-nodes-run', () => {
  it('runs a DQ that nobody reads', async () => {
    const b = new Builder();
    b.q('x', 0.01, 128);
    b.dq('x_q');
    b.add('Transpose', ['x_q'], 'y', { perm: [0, 2, 3, 1] });
    const { kernels } = await ran(b.build({ x: image }, { y: [UINT8, [1, 8, 8, C]] }), { x });
    expect(kernels).toContain('DequantizeLinear');
  });
});

describe('gemm-alpha-beta', () => {
  it('makes a QGemm only of alpha 1', async () => {
    const gemm = (alpha: number) => {
      const b = new Builder();
      b.add('Gemm', [b.qdq('x', 1 / 127, 128), b.weights('w', [C, C], 1), b.bias('b', C, 0.01 / 127)], 'g', { 'f:alpha': alpha });
      b.qdq('g', 0.5, 128);
      return b.build({ x: [FLOAT, [4, C]] }, { g_q_dq: [FLOAT, [4, C]] });
    };
    const feeds = { x: tensor('float32', [4, C], noise(4 * C)) };
    expect((await ran(gemm(1), feeds)).kernels).toContain('QGemm');
    expect((await ran(gemm(0.5), feeds)).kernels).not.toContain('QGemm');
  });
});

describe('equal-scales-move-data', () => {
  it('runs MaxPool on integers with equal scales only', async () => {
    const pool = (scale: number) => {
      const b = new Builder();
      b.add('MaxPool', [b.qdq('x', 0.01, 128)], 'm', { kernel_shape: [2, 2], strides: [2, 2] });
      b.qdq('m', scale, 128);
      return b.build({ x: image }, { m_q_dq: [FLOAT, [1, C, 4, 4]] });
    };
    const between = async (scale: number) => {
      const { kernels } = await ran(pool(scale), { x });
      return kernels.slice(kernels.indexOf('QuantizeLinear') + 1, kernels.indexOf('MaxPool'));
    };
    expect(await between(0.01)).not.toContain('DequantizeLinear');
    expect(await between(0.02)).toContain('DequantizeLinear');
  });
});

describe('dynamic-matmul-fuses', () => {
  it('becomes one DynamicQuantizeMatMul', async () => {
    const b = new Builder();
    b.nodes.push(node('DynamicQuantizeLinear', ['x'], ['xq', 'xs', 'xz']));
    b.add('MatMulInteger', ['xq', b.constant('w', INT8, [C, C], noise(C * C, 127, 2).map(Math.round)), 'xz'], 'acc');
    b.add('Cast', ['acc'], 'accf', { to: FLOAT });
    b.add('Mul', ['xs', b.constant('ws', FLOAT, [], [0.01])], 's');
    b.add('Mul', ['accf', 's'], 'y');
    const { kernels } = await ran(b.build({ x: [FLOAT, [4, C]] }, { y: [FLOAT, [4, C]] }), { x: tensor('float32', [4, C], noise(4 * C)) });
    expect(kernels).toEqual(['DynamicQuantizeMatMul']);
  });
});

describe('rounding', () => {
  it('rounds half to even, divides in float32, saturates', async () => {
    const b = new Builder();
    b.q('x', 0.1, 0);
    const values = [0.05, 0.15, 0.25, 0.35, -1, 1e9, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, Number.NaN, 2.55];
    const n = values.length;
    const { outputs } = await ran(b.build({ x: [FLOAT, [n]] }, { x_q: [UINT8, [n]] }), { x: tensor('float32', [n], values) });
    const expected = values.map((value) => {
      const scaled = Math.fround(Math.fround(value) / Math.fround(0.1));
      const even = Math.abs(scaled % 1) === 0.5 ? 2 * Math.round(scaled / 2) : Math.round(scaled);
      return Number.isNaN(scaled) ? 0 : Math.max(0, Math.min(255, even));
    });
    expect(numbers(outputs.x_q)).toEqual(expected);
  });
});

describe('unknown-config-accepted', () => {
  it('takes any key', async () => {
    const b = new Builder();
    b.q('x', 0.1, 0);
    const session = await runner.open(b.build({ x: image }, { x_q: [UINT8, [1, C, 8, 8]] }), {
      threads: 1,
      config: { 'session.no_such_thing': '1' },
    });
    session.close();
  });
});
