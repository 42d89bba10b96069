/**
 * Opset upgrade: rewrites the nodes whose operators changed their form between two versions of the default domain, after ONNX's
 * Changelog.md. Operators that only took in more types or more optional inputs need nothing.
 *
 * The steps, by the version that brought them:
 *  8  BatchNormalization, Scan: see 9
 *  9  BatchNormalization loses `spatial`; Upsample takes `scales` as an input; Scan of 8 had a batch axis (not upgraded)
 * 10  Slice and TopK take their attributes as inputs; Upsample is Resize
 * 11  Clip, Pad take their attributes as inputs; Resize gets its coordinate mode spelled out; Scatter is ScatterElements
 * 12  Dropout loses its attributes (it does nothing at inference)
 * 13  Squeeze, Unsqueeze, Split, ReduceSum take axes and sizes as inputs; Softmax and its like no longer see a matrix
 * 14  BatchNormalization loses its training outputs
 * 16  RoiAlign samples half a pixel aside unless told not to
 * 18  the other reductions take axes as an input; Split says its number of outputs
 * 20  GridSample's modes have new names; DFT takes its axis as an input
 * 21  GroupNormalization's scale is by channel (not upgraded)
 */
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import {
  allGraphs,
  attrFloat,
  attrFloats,
  attrInt,
  attrInts,
  attrString,
  cloneModel,
  describeNode,
  dropInitializerInputs,
  intAttr,
  makeNode,
  NamePool,
  outerReferences,
  setAttr,
  stringAttr,
} from './graph.ts';
import type { Graph, Model, Node, Tensor, TensorType } from './model.ts';
import { DataType } from './model.ts';
import type { Value } from './shape-values.ts';
import { inferShapesAndValues } from './shapes.ts';
import { dataTypeName, floatTensor, int64Tensor, isFloatType, tensorFromNumbers } from './tensor.ts';

/** Versions that `upgradeOpset` goes to: from where QDQ can be per channel, to where the changes are only types again. */
const UPGRADE_TARGETS = { lowest: 13, highest: 21 } as const;

/** The IR version that came with each opset (ONNX's Versioning.md); a file of that opset must not have an older one. */
const IR_OF_OPSET: readonly [opset: number, ir: number][] = [
  [23, 11],
  [21, 10],
  [19, 9],
  [15, 8],
  [12, 7],
  [11, 6],
  [10, 5],
  [9, 4],
];

/** The lowest IR version that a file of this opset may have. */
export function irVersionFor(opset: number): number {
  return IR_OF_OPSET.find(([from]) => opset >= from)?.[1] ?? 3;
}

/**
 * The model in the default domain's version `target` (13 to 21); one that has it or a later one already is only copied. The given
 * model is not changed; tensors' bytes are shared. Outputs stay the same, bit for bit where the runtime's kernels are the same.
 * Errors: opset-unsupported, naming the node whose operator can't be brought over, or the version where that is out of range.
 */
export function upgradeOpset(model: Model, target: number): Model {
  if (!(target >= UPGRADE_TARGETS.lowest && target <= UPGRADE_TARGETS.highest)) {
    throw new RangeError(`upgradeOpset goes to versions ${UPGRADE_TARGETS.lowest} to ${UPGRADE_TARGETS.highest}, not to ${target}`);
  }
  const upgraded = cloneModel(model);
  const from = upgraded.opsets.get('');
  if (from === undefined || from < LIMITS.oldestOpset) {
    throw new HalftoneError(
      'opset-unsupported',
      `The model has opset ${from ?? 'none'} of ai.onnx; opsets ${LIMITS.oldestOpset} to ${LIMITS.newestOpset} are read.`,
    );
  }
  if (from < target) {
    const upgrade = new Upgrade(upgraded);
    for (const graph of [...allGraphs(upgraded.graph)]) upgrade.graph(graph, from, target);
    upgraded.opsets.set('', target);
  }
  raiseIrVersion(upgraded, irVersionFor(Math.max(from, target)));
  return upgraded;
}

/** Raises a model's IR version, where it is lower. From 4 on initializers need not be inputs, and are none any more. Changes the model. */
function raiseIrVersion(model: Model, irVersion: number): void {
  if (model.irVersion >= irVersion) return;
  if (model.irVersion < 4 && irVersion >= 4) for (const graph of allGraphs(model.graph)) dropInitializerInputs(graph);
  model.irVersion = irVersion;
}

/** Rewrites one node (in place, by what it returns in its stead, or not at all). */
type Step = (node: Node, u: Upgrade) => Node[] | undefined;

class Upgrade {
  readonly names: NamePool;
  /** The model as it was. */
  readonly #model: Model;
  #graph: Graph;
  #known: { types: Map<string, TensorType>; values: Map<string, Value> } | undefined;
  #uses: Set<string> | undefined;
  /** Constants made so far in the graph at hand, by content. */
  #constants = new Map<string, string>();

  constructor(model: Model) {
    this.#model = cloneModel(model);
    this.#graph = model.graph;
    this.names = new NamePool(model.graph);
  }

  graph(graph: Graph, from: number, target: number): void {
    this.#graph = graph;
    this.#constants = new Map();
    this.#uses = undefined;
    const nodes: Node[] = [];
    for (const node of graph.nodes) {
      let parts = [node];
      for (let version = from + 1; version <= target; version++) {
        const steps = STEPS[version];
        if (!steps) continue;
        parts = parts.flatMap((part) => {
          const step = part.domain === '' && Object.hasOwn(steps, part.opType) ? steps[part.opType] : undefined;
          return step?.(part, this) ?? [part];
        });
      }
      nodes.push(...parts);
    }
    graph.nodes = nodes;
  }

  /** Types and values of the model as it was. */
  get known(): { types: Map<string, TensorType>; values: Map<string, Value> } {
    this.#known ??= inferShapesAndValues(this.#model);
    return this.#known;
  }

  elemType(value: string): DataType {
    return this.known.types.get(value)?.elemType || DataType.FLOAT;
  }

  /** Whether a value is used anywhere in the graph at hand. */
  isUsed(value: string | undefined): boolean {
    if (!value) return false;
    if (!this.#uses) {
      // What the graph would need from outside, were its nodes' outputs not its own, is what is used in it.
      this.#uses = outerReferences({
        ...this.#graph,
        inputs: [],
        initializers: new Map(),
        nodes: this.#graph.nodes.map((node) => ({ ...node, outputs: [] })),
      });
    }
    return this.#uses.has(value);
  }

  /** Name of an initializer of this content in the graph at hand; equal ones are shared. */
  constant(base: string, make: (name: string) => Tensor, key: string): string {
    const known = this.#constants.get(key);
    if (known) return known;
    const name = this.names.fresh(base);
    this.#graph.initializers.set(name, make(name));
    this.#constants.set(key, name);
    return name;
  }

  ints(base: string, values: readonly number[]): string {
    return this.constant(base, (name) => int64Tensor(name, values.map(BigInt)), `int64 ${values.join(',')}`);
  }

  /** A scalar of the type of the node's first input, which its operator allows floats for. */
  scalar(base: string, node: Node, value: number): string {
    const elemType = this.elemType(node.inputs[0] ?? '');
    if (!isFloatType(elemType)) {
      throw new HalftoneError('graph-invalid', `${describeNode(node)} takes ${dataTypeName(elemType)}, where its opset has floats only.`);
    }
    return this.constant(base, (name) => tensorFromNumbers(name, elemType, [], [value]), `${elemType} ${value}`);
  }
}

function refuse(node: Node, why: string): HalftoneError {
  return new HalftoneError(
    'opset-unsupported',
    `${describeNode(node)} can't be brought to a newer opset: ${why}. Export the model with opset 13 or later.`,
  );
}

/** An input's place must exist before it is filled. */
function setInput(node: Node, at: number, value: string): void {
  while (node.inputs.length < at) node.inputs.push('');
  node.inputs[at] = value;
}

/** Moves an ints attribute to an input. */
const intsToInput =
  (attribute: string, at: number): Step =>
  (node, u) => {
    const values = attrInts(node, attribute);
    node.attributes.delete(attribute);
    if (values) setInput(node, at, u.ints(`${node.outputs[0]}_${attribute}`, values));
    return undefined;
  };

const slice: Step = (node, u) => {
  const name = node.outputs[0];
  const starts = attrInts(node, 'starts', []);
  const axes = attrInts(node, 'axes');
  setInput(node, 1, u.ints(`${name}_starts`, starts.map(saturate)));
  setInput(node, 2, u.ints(`${name}_ends`, attrInts(node, 'ends', []).map(saturate)));
  if (axes) setInput(node, 3, u.ints(`${name}_axes`, axes));
  for (const attribute of ['starts', 'ends', 'axes']) node.attributes.delete(attribute);
  return undefined;
};

/** "To the end" markers near ±2^63 lose bits as numbers; any bound beyond int32 means the same to a slice. */
const saturate = (value: number): number =>
  Math.abs(value) > Number.MAX_SAFE_INTEGER ? Math.sign(value) * Number.MAX_SAFE_INTEGER : value;

const topK: Step = (node, u) => {
  const k = attrInt(node, 'k');
  node.attributes.delete('k');
  if (k !== undefined) setInput(node, 1, u.ints(`${node.outputs[0]}_k`, [k]));
  return undefined;
};

const upsampleScales: Step = (node, u) => {
  const scales = attrFloats(node, 'scales');
  node.attributes.delete('scales');
  if (scales) {
    const make = (name: string) => floatTensor(name, scales);
    setInput(node, 1, u.constant(`${node.outputs[0]}_scales`, make, `float ${scales.join(',')}`));
  }
  return undefined;
};

/** Upsample only enlarges, and takes the floor of output ÷ scale. */
const upsample: Step = (node) => {
  node.opType = 'Resize';
  if (attrString(node, 'mode', 'nearest') === 'nearest') setAttr(node, stringAttr('nearest_mode', 'floor'));
  return undefined;
};

/**
 * Resize of 10 had no coordinate modes: ONNX Runtime took output ÷ scale, and of that the floor where it enlarges and the ceiling
 * where it shrinks (upsamplebase.h, NearestMode::SIMPLE).
 */
const resize: Step = (node, u) => {
  const [x = '', scales = ''] = node.inputs;
  setAttr(node, stringAttr('coordinate_transformation_mode', 'asymmetric'));
  if (attrString(node, 'mode', 'nearest') === 'nearest' && !node.attributes.has('nearest_mode')) {
    const factors = u.known.values.get(scales)?.elements;
    const known = factors?.every((factor) => typeof factor === 'number') ? (factors as number[]) : undefined;
    const enlarges = known?.every((factor) => factor >= 1);
    const shrinks = known?.every((factor) => factor <= 1);
    if (!enlarges && !shrinks) {
      throw refuse(
        node,
        known ? 'it enlarges one axis and shrinks another' : 'its scales are computed at run time, and how it rounds depends on them',
      );
    }
    setAttr(node, stringAttr('nearest_mode', enlarges ? 'floor' : 'ceil'));
  }
  node.inputs = [x, '', scales];
  return undefined;
};

const clip: Step = (node, u) => {
  const min = attrFloat(node, 'min');
  const max = attrFloat(node, 'max');
  node.attributes.delete('min');
  node.attributes.delete('max');
  // The attributes' defaults are float's own bounds: no bound at all.
  if (min !== undefined && min > -3.4028234e38) setInput(node, 1, u.scalar(`${node.outputs[0]}_min`, node, min));
  if (max !== undefined && max < 3.4028234e38) setInput(node, 2, u.scalar(`${node.outputs[0]}_max`, node, max));
  return undefined;
};

const pad: Step = (node, u) => {
  const pads = attrInts(node, 'pads', []);
  const value = attrFloat(node, 'value', 0);
  node.attributes.delete('pads');
  node.attributes.delete('value');
  setInput(node, 1, u.ints(`${node.outputs[0]}_pads`, pads));
  if (value !== 0) setInput(node, 2, u.scalar(`${node.outputs[0]}_value`, node, value));
  return undefined;
};

const rename =
  (opType: string): Step =>
  (node) => {
    node.opType = opType;
    return undefined;
  };

/** Before 10 the mask had the data's type; who reads it would see another. */
const dropoutMask: Step = (node, u) => {
  if (u.isUsed(node.outputs[1])) throw refuse(node, 'its mask is used, which is of another type now');
  node.outputs.length = 1;
  return undefined;
};

const dropout: Step = (node) => {
  node.attributes.delete('ratio');
  return undefined;
};

const spatial: Step = (node) => {
  if (attrInt(node, 'spatial', 1) !== 1)
    throw refuse(node, 'it normalizes each position by itself (spatial = 0), which later versions can’t');
  node.attributes.delete('spatial');
  return undefined;
};

const trainingOutputs: Step = (node, u) => {
  if (node.outputs.slice(1).some((output) => u.isUsed(output))) throw refuse(node, 'its training outputs are used');
  node.outputs.length = 1;
  return undefined;
};

/**
 * Before 13 the input was seen as a matrix, all axes from `axis` on (1 by default) as its columns; from 13 on the operator works along
 * one axis (−1 by default). The same where the axis is the last one, or those after it are of size 1; else by way of a real matrix.
 */
const softmax: Step = (node, u) => {
  const [x = ''] = node.inputs;
  const [y = ''] = node.outputs;
  const axis = attrInt(node, 'axis', 1);
  const shape = u.known.types.get(x)?.shape;
  const front = shape && axis < 0 ? axis + shape.length : axis;
  if (shape && front >= 0 && front < shape.length && shape.slice(front + 1).every((dim) => dim === 1)) {
    setAttr(node, intAttr('axis', front === shape.length - 1 ? -1 : front));
    return undefined;
  }
  const [size, matrix, result] = [u.names.fresh(`${y}_shape`), u.names.fresh(`${y}_matrix`), u.names.fresh(`${y}_rows`)];
  const prefix = node.name || y;
  setAttr(node, intAttr('axis', -1));
  node.inputs = [matrix];
  node.outputs = [result];
  return [
    makeNode('Shape', [x], [size], { name: u.names.fresh(`${prefix}_shape_of`) }),
    makeNode('Flatten', [x], [matrix], { name: u.names.fresh(`${prefix}_flatten`), attributes: [intAttr('axis', axis)] }),
    node,
    makeNode('Reshape', [result, size], [y], { name: u.names.fresh(`${prefix}_reshape`) }),
  ];
};

const roiAlign: Step = (node) => {
  if (!node.attributes.has('coordinate_transformation_mode'))
    setAttr(node, stringAttr('coordinate_transformation_mode', 'output_half_pixel'));
  return undefined;
};

const splitOutputs: Step = (node) => {
  if (!node.inputs[1]) setAttr(node, intAttr('num_outputs', node.outputs.length));
  return undefined;
};

const gridSample: Step = (node) => {
  const mode = attrString(node, 'mode', 'bilinear');
  const renamed: Record<string, string> = { bilinear: 'linear', bicubic: 'cubic' };
  setAttr(node, stringAttr('mode', renamed[mode] ?? mode));
  return undefined;
};

const dft: Step = (node, u) => {
  const axis = attrInt(node, 'axis', 1);
  node.attributes.delete('axis');
  setInput(
    node,
    2,
    u.constant(`${node.outputs[0]}_axis`, (name) => int64Tensor(name, [axis], []), `int64 scalar ${axis}`),
  );
  return undefined;
};

const unsupported =
  (why: string): Step =>
  (node) => {
    throw refuse(node, why);
  };

const reductions = (names: string): Record<string, Step> =>
  Object.fromEntries(names.split(' ').map((name) => [name, intsToInput('axes', 1)]));

const STEPS: Record<number, Record<string, Step>> = {
  9: { BatchNormalization: spatial, Upsample: upsampleScales, Scan: unsupported('its form of opset 8 had a batch axis') },
  10: { Slice: slice, TopK: topK, Upsample: upsample, Dropout: dropoutMask },
  11: { Clip: clip, Pad: pad, Resize: resize, Scatter: rename('ScatterElements') },
  12: { Dropout: dropout },
  13: {
    Squeeze: intsToInput('axes', 1),
    Unsqueeze: intsToInput('axes', 1),
    Split: intsToInput('split', 1),
    ReduceSum: intsToInput('axes', 1),
    Softmax: softmax,
    LogSoftmax: softmax,
    Hardmax: softmax,
  },
  14: { BatchNormalization: trainingOutputs },
  16: { RoiAlign: roiAlign },
  18: {
    ...reductions('ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare'),
    Split: splitOutputs,
  },
  20: { GridSample: gridSample, DFT: dft },
  21: { GroupNormalization: unsupported('its scale was by group and is by channel now') },
};
