/** From a model made in the test to its quantized form, by the engine's own steps on random data, and what the runtime makes of it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DeviceProfile } from '../../../../src/domain/profile.ts';
import { type Recipe, type ResolvedRecipe, resolveRecipe } from '../../../../src/domain/recipe.ts';
import type { ProfiledNode, SessionOptions, TensorValue } from '../../../../src/domain/runner.ts';
import { GraphView } from '../../../../src/onnx/graph.ts';
import { DataType, type Model, type TensorType } from '../../../../src/onnx/model.ts';
import { inferShapes } from '../../../../src/onnx/shapes.ts';
import { serializeModel } from '../../../../src/onnx/writer.ts';
import { emit, type Quantization } from '../../../../src/quant/emit/emit.ts';
import { type Observations, observe, rangesBy } from '../../../../src/quant/observe/observe.ts';
import { forbidden, type PlanInput, quantizationFor } from '../../../../src/quant/plan/plan.ts';
import { buildUnits, type Unit } from '../../../../src/quant/plan/units.ts';
import { floats, normals, runner } from '../prepare/graphs.ts';

export type Feeds = Record<string, TensorValue>;

/** A profile that allows everything. */
export const profile: DeviceProfile = {
  id: 'prf_test',
  name: 'test',
  builtIn: true,
  executionProvider: 'cpu',
  threads: 1,
  memoryLimitBytes: null,
  allowedWeightTypes: ['int8', 'uint8'],
  allowedActivationTypes: ['int8', 'uint8'],
  allowedGranularities: ['tensor', 'channel'],
  requireSymmetricActivations: false,
  highestOpset: 21,
  float16: false,
  workers: [],
  shapes: {},
  machine: null,
};

/** A folder of its own for as long as `work` takes. */
export async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'halftone-test-'));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Random values for the float inputs of a model; free dimensions become `free`. */
export function randomFeeds(
  model: Model,
  count: number,
  options: { seed?: number; scale?: number; mean?: number; free?: number } = {},
): Feeds[] {
  return Array.from({ length: count }, (_, run) =>
    Object.fromEntries(
      model.graph.inputs.map(({ name, type }, i) => {
        const dims = (type?.shape ?? []).map((d) => (typeof d === 'number' ? d : (options.free ?? 2)));
        const n = dims.reduce((a, b) => a * b, 1);
        if (type?.elemType === DataType.BOOL) {
          const bytes = Uint8Array.from(normals(n, 77 + run), (v) => Number(v > 0));
          return [name, { type: 'bool', dims, bytes }];
        }
        return [name, floats(normals(n, (options.seed ?? 500) + 31 * run + i, options.scale ?? 1, options.mean ?? 0), dims)];
      }),
    ),
  );
}

export interface QuantizeOptions {
  feeds?: Feeds[];
  /** Units that are left in float though they may run in integers. */
  float?: (unit: Unit) => boolean;
  recipe?: Partial<Recipe>;
  profile?: DeviceProfile;
  /** Shapes of graph inputs for the inference; without them free dimensions stay free. */
  inputShapes?: ReadonlyMap<string, readonly number[]>;
  types?: ReadonlyMap<string, TensorType>;
  sevenBits?: PlanInput['sevenBits'];
  corrections?: PlanInput['corrections'];
}

export interface Quantized {
  units: Unit[];
  types: ReadonlyMap<string, TensorType>;
  observations: Observations;
  recipe: ResolvedRecipe;
  quantization: Quantization;
  qdq: Model;
  qoperator: Model;
}

/** Everything of `model` that may run in integers does, but what `float` keeps; ranges are minima and maxima, weights have 7 bits. */
export async function quantize(model: Model, options: QuantizeOptions = {}): Promise<Quantized> {
  const types = options.types ?? inferShapes(model, options.inputShapes);
  const units = buildUnits(model, new GraphView(model.graph), types);
  const values = new Set<string>();
  for (const unit of units) {
    if (!unit.row) continue;
    for (const i of unit.inputs) values.add(unit.nodes[0]!.inputs[i]!);
    for (const output of unit.outputs) if (output) values.add(output);
  }
  const feeds = options.feeds ?? randomFeeds(model, 4);
  const { observations } = await inFolder((workDir) =>
    observe(runner, model, [...values], feeds, { threads: 1, channelAxes: new Map(), workDir }),
  );
  const recipe = resolveRecipe({ method: 'static', ...options.recipe });
  const quantized = new Set(
    units
      .filter((u) => !forbidden(u, recipe, observations, (name) => model.graph.initializers.get(name)) && !options.float?.(u))
      .map((u) => u.id),
  );
  // 7 bits everywhere: the sums are then exact on every processor, and the same test holds with VNNI and without.
  const narrow = new Map(
    units.filter((u) => u.weight).map((u) => [u.id, new Set(Array.from({ length: Math.max(...u.weight!.dims) }, (_, c) => c))]),
  );
  const quantization = quantizationFor({
    units,
    quantized,
    ranges: rangesBy('minmax', observations),
    recipe,
    profile: options.profile ?? profile,
    constant: (name) => model.graph.initializers.get(name),
    sevenBits: options.sevenBits ?? narrow,
    ...(options.corrections && { corrections: options.corrections }),
  });
  const written = (format: 'qdq' | 'qoperator') => emit(model, quantization, format);
  return { units, types, observations, recipe, quantization, qdq: written('qdq'), qoperator: written('qoperator') };
}

/** Runs a model on each feed with the profiler on. */
export async function profiled(
  model: Model,
  feeds: Feeds[],
  options: Partial<SessionOptions> = {},
): Promise<{ outputs: Feeds[]; nodes: ProfiledNode[]; kernels: string[]; signature: unknown }> {
  return inFolder(async (folder) => {
    const session = await runner.open(serializeModel(model), { threads: 1, profilePrefix: join(folder, 'p'), ...options });
    try {
      const outputs: Feeds[] = [];
      for (const feed of feeds) outputs.push(await session.run(feed));
      const nodes = await session.endProfile();
      return { outputs, nodes, kernels: nodes.map((n) => n.operator), signature: [session.inputs, session.outputs] };
    } finally {
      session.close();
    }
  });
}
