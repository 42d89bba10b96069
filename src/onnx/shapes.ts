/**
 * Type and shape inference: what is known of every value before running. Rules of the operators are in shape-rules.ts; small integer
 * tensors are followed through the graph (shape-values.ts), because exporters compute shapes with operators. It never fails: what
 * it can't tell is left unknown, and the runtime is the judge of whether a graph is right.
 */
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import { constantTensor, subgraphsOf, topologicalOrder } from './graph.ts';
import type { Dim, Graph, Model, Node, TensorType } from './model.ts';
import { DataType } from './model.ts';
import { RULES, type Scope } from './shape-rules.ts';
import { type Value, valueOfTensor } from './shape-values.ts';

/** Elements of values kept over a whole model: real models have some thousand, a hostile one 1024 for every few bytes. */
const ELEMENT_LIMIT = 4_000_000;

/**
 * The type of each value that anything is known of, by name: graph inputs, initializers, all nodes' outputs, those inside
 * subgraphs too. `inputShapes` fixes the shapes of graph inputs (as the data has them); a free dimension's name is then replaced
 * by its size wherever it occurs. Dimensions of one name are equal; null dimensions are unknown. Never throws on a strange graph.
 */
export function inferShapes(model: Model, inputShapes?: ReadonlyMap<string, readonly number[]>): Map<string, TensorType> {
  return new Inference(model.opsets.get('') ?? 1, inputShapes).run(model.graph);
}

/** As `inferShapes`, with the values that are known before running (shapes, axes, sizes; at most 1024 elements each). */
export function inferShapesAndValues(
  model: Model,
  inputShapes?: ReadonlyMap<string, readonly number[]>,
): { types: Map<string, TensorType>; values: Map<string, Value> } {
  const inference = new Inference(model.opsets.get('') ?? 1, inputShapes);
  return { types: inference.run(model.graph), values: inference.values };
}

class Inference {
  readonly opset: number;
  readonly types = new Map<string, TensorType>();
  readonly values = new Map<string, Value>();
  #elements = 0;
  /** Sizes of named dimensions, from `inputShapes`. */
  readonly #bound = new Map<string, number>();
  readonly #inputShapes: ReadonlyMap<string, readonly number[]>;

  constructor(opset: number, inputShapes: ReadonlyMap<string, readonly number[]> = new Map()) {
    this.opset = opset;
    this.#inputShapes = inputShapes;
  }

  run(graph: Graph): Map<string, TensorType> {
    for (const { name, type } of graph.inputs) {
      const given = this.#inputShapes.get(name);
      if (!given || !type?.shape || type.shape.length !== given.length) continue;
      type.shape.forEach((dim, axis) => {
        if (typeof dim === 'string') this.#bound.set(dim, given[axis]!);
      });
    }
    for (const { name, type } of graph.inputs) {
      const given = this.#inputShapes.get(name);
      if (given) this.types.set(name, { elemType: type?.elemType ?? DataType.UNDEFINED, shape: [...given] });
      else if (type) this.types.set(name, this.#bind(type));
    }
    this.graph(graph);
    return this.types;
  }

  #bind(type: TensorType): TensorType {
    return type.shape
      ? { elemType: type.elemType, shape: type.shape.map((dim) => (typeof dim === 'string' ? (this.#bound.get(dim) ?? dim) : dim)) }
      : type;
  }

  /** Infers one graph; its inputs are in `types` already, outer values too. */
  graph(graph: Graph): void {
    for (const [name, tensor] of graph.initializers) {
      this.types.set(name, { elemType: tensor.dataType, shape: [...tensor.dims] });
      const value = valueOfTensor(tensor);
      if (value) this.values.set(name, value);
    }
    const stated = new Map<string, TensorType>();
    for (const info of graph.outputs) if (info.type) stated.set(info.name, this.#bind(info.type));
    for (const [name, info] of graph.valueInfo) if (info.type) stated.set(name, this.#bind(info.type));
    let nodes = graph.nodes;
    try {
      nodes = topologicalOrder(graph.nodes);
    } catch (error) {
      // A cycle: checkModel reports it; what lies outside of it can still be told.
      if (!(error instanceof HalftoneError)) throw error;
    }
    for (const node of nodes) {
      this.#node(node);
      for (const output of node.outputs) {
        const claim = stated.get(output);
        if (output === '' || !claim) continue;
        this.types.set(output, fill(this.types.get(output), claim));
      }
    }
  }

  #node(node: Node): void {
    if (node.domain === '' && node.opType === 'Constant') {
      const tensor = constantTensor(node);
      const output = node.outputs[0];
      if (!tensor || !output) return;
      this.types.set(output, { elemType: tensor.dataType, shape: [...tensor.dims] });
      const value = valueOfTensor(tensor);
      if (value) this.values.set(output, value);
      return;
    }
    const inner = subgraphsOf(node);
    if (inner.length > 0) {
      this.#withSubgraphs(node, inner);
      return;
    }
    const rule = RULES[node.domain === '' || node.domain === 'com.microsoft' ? node.opType : ''];
    if (!rule || !Object.hasOwn(RULES, node.opType)) return;
    try {
      rule(this.#scope(node));
    } catch (error) {
      // An attribute of the wrong kind; the runtime refuses the node, and here its outputs stay unknown.
      if (!(error instanceof HalftoneError)) throw error;
    }
  }

  #scope(node: Node): Scope {
    const typeOf = (i: number) => this.types.get(node.inputs[i] ?? '');
    return {
      node,
      opset: this.opset,
      has: (i) => (node.inputs[i] ?? '') !== '',
      elem: (i) => typeOf(i)?.elemType ?? DataType.UNDEFINED,
      shape: (i) => typeOf(i)?.shape,
      value: (i) => this.values.get(node.inputs[i] ?? ''),
      set: (i, elemType, shape) => {
        const output = node.outputs[i] ?? '';
        if (output === '') return;
        // A hostile chain of Unsqueeze or Reshape could make shapes longer than the file.
        if (shape && shape.length <= LIMITS.tensorRank) this.types.set(output, { elemType, shape: shape.map(sane) });
        else if (elemType !== DataType.UNDEFINED) this.types.set(output, { elemType });
      },
      setValue: (i, value) => {
        const output = node.outputs[i] ?? '';
        if (output === '' || !value) return;
        this.#elements += value.elements.length;
        if (this.#elements <= ELEMENT_LIMIT) this.values.set(output, value);
      },
    };
  }

  #withSubgraphs(node: Node, inner: readonly Graph[]): void {
    if (node.opType === 'Loop' || node.opType === 'Scan') {
      const body = inner[0]!;
      const isLoop = node.opType === 'Loop';
      // Loop: (trip count, condition, carried…) → body(iteration, condition, carried…). What is carried keeps its type, not its shape.
      body.inputs.forEach((info, i) => {
        const outer = isLoop && i >= 2 ? this.types.get(node.inputs[i] ?? '') : undefined;
        const elemType = info.type?.elemType || outer?.elemType;
        const shape = info.type?.shape;
        if (elemType)
          this.types.set(info.name, shape ? { elemType, shape: shape.map((dim) => (typeof dim === 'number' ? dim : null)) } : { elemType });
      });
      this.graph(body);
      const carried = isLoop ? node.inputs.length - 2 : 0;
      node.outputs.forEach((output, i) => {
        const result = this.types.get(body.outputs[i + (isLoop ? 1 : 0)]?.name ?? '');
        if (output === '' || !result) return;
        if (isLoop && i >= carried)
          this.types.set(output, result.shape ? { elemType: result.elemType, shape: [null, ...result.shape] } : result);
        else this.types.set(output, { elemType: result.elemType });
      });
      return;
    }
    for (const graph of inner) this.graph(graph);
    if (node.opType !== 'If') return;
    node.outputs.forEach((output, i) => {
      const results = inner.map((graph) => this.types.get(graph.outputs[i]?.name ?? ''));
      const first = results[0];
      if (output === '' || !first || !results.every((result) => result?.elemType === first.elemType)) return;
      const sameRank = first.shape && results.every((result) => result?.shape?.length === first.shape?.length);
      if (!sameRank) this.types.set(output, { elemType: first.elemType });
      else {
        const shape = first.shape!.map((dim, axis) => (results.every((result) => result?.shape?.[axis] === dim) ? dim : null));
        this.types.set(output, { elemType: first.elemType, shape });
      }
    });
  }
}

/** A dimension as it can be; arithmetic on hostile attributes gives others. */
function sane(dim: Dim): Dim {
  return typeof dim === 'number' && !(Number.isSafeInteger(dim) && dim >= 0) ? null : dim;
}

/** What was inferred, its gaps filled by what the file states. What the file states against it is stale (tools change batch sizes and leave it). */
function fill(inferred: TensorType | undefined, stated: TensorType): TensorType {
  if (!inferred) return stated;
  const elemType = inferred.elemType || stated.elemType;
  if (!inferred.shape) return stated.shape ? { elemType, shape: stated.shape } : { elemType };
  if (stated.shape?.length !== inferred.shape.length) return { elemType, shape: inferred.shape };
  return { elemType, shape: inferred.shape.map((dim, axis) => dim ?? stated.shape?.[axis] ?? null) };
}
