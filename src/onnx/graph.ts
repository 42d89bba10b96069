/** A graph with its edges: who makes a value, who uses it, and edits that keep both right. */
import { HalftoneError } from '../domain/errors.ts';
import { allGraphs, attrFloat, attrFloats, attrInt, attrInts, attrTensor, describeNode, subgraphsOf } from './attributes.ts';
import type { Attribute, Graph, Model, Node, RawField, Tensor, ValueInfo } from './model.ts';
import { DataType } from './model.ts';
import { ProtoReader, WIRE } from './protobuf.ts';
import { floatTensor, int64Tensor, makeTensor } from './tensor.ts';

export * from './attributes.ts';
export type { Attribute } from './model.ts';

/** A node's use of a value; `input` is −1 where a graph inside the node captures it from outside. */
export interface Use {
  node: Node;
  input: number;
}

/** All names of a model, values and nodes, so that new ones are new everywhere. */
export class NamePool {
  readonly #taken = new Set<string>();
  readonly #next = new Map<string, number>();

  constructor(...graphs: Graph[]) {
    for (const outer of graphs) {
      for (const graph of allGraphs(outer)) {
        for (const name of graph.initializers.keys()) this.#taken.add(name);
        for (const name of sparseInitializerNames(graph)) this.#taken.add(name);
        for (const { name } of graph.inputs) this.#taken.add(name);
        for (const { name } of graph.outputs) this.#taken.add(name);
        for (const node of graph.nodes) {
          this.#taken.add(node.name);
          for (const name of node.inputs) this.#taken.add(name);
          for (const name of node.outputs) this.#taken.add(name);
        }
      }
    }
  }

  has(name: string): boolean {
    return this.#taken.has(name);
  }

  /** `base` if it is free, else `base_1`, `base_2`, …; taken from then on. */
  fresh(base: string): string {
    let name = base;
    if (name === '' || this.#taken.has(name)) {
      let i = this.#next.get(base) ?? 1;
      do name = `${base}_${i++}`;
      while (this.#taken.has(name));
      this.#next.set(base, i);
    }
    this.#taken.add(name);
    return name;
  }
}

/**
 * Edges of one graph (its subgraphs' captures count as uses by the node that holds them). Edits go through the view; after an edit
 * past it call `reindex`. Costs one pass over the nodes to make; look-ups are constant.
 */
export class GraphView {
  readonly graph: Graph;
  readonly names: NamePool;
  #producers = new Map<string, Node>();
  #uses = new Map<string, Use[]>();
  #outputs = new Set<string>();

  /** `names` shares one pool between views of one model's graphs; without it the pool covers this graph and those inside it. */
  constructor(graph: Graph, names: NamePool = new NamePool(graph)) {
    this.graph = graph;
    this.names = names;
    this.reindex();
  }

  reindex(): void {
    this.#producers = new Map();
    this.#uses = new Map();
    this.#outputs = new Set(this.graph.outputs.map(({ name }) => name));
    for (const node of this.graph.nodes) this.#index(node);
  }

  #index(node: Node): void {
    for (const output of node.outputs) if (output !== '') this.#producers.set(output, node);
    node.inputs.forEach((value, input) => {
      if (value !== '') this.#use(value, { node, input });
    });
    for (const value of captures(node)) this.#use(value, { node, input: -1 });
  }

  #unindex(node: Node): void {
    for (const output of node.outputs) if (this.#producers.get(output) === node) this.#producers.delete(output);
    for (const value of new Set([...node.inputs, ...captures(node)])) {
      const uses = this.#uses.get(value)?.filter((use) => use.node !== node);
      if (uses?.length) this.#uses.set(value, uses);
      else this.#uses.delete(value);
    }
  }

  #use(value: string, use: Use): void {
    const uses = this.#uses.get(value);
    if (uses) uses.push(use);
    else this.#uses.set(value, [use]);
  }

  /** The node that makes a value; undefined for graph inputs, initializers and outer values. */
  producer(value: string): Node | undefined {
    return this.#producers.get(value);
  }

  /** Every use of a value by a node, one entry for each input that takes it. Graph outputs are not among them: see `isOutput`. */
  uses(value: string): readonly Use[] {
    return this.#uses.get(value) ?? [];
  }

  /** The nodes that use a value, each once. */
  consumers(value: string): Node[] {
    return [...new Set(this.uses(value).map(({ node }) => node))];
  }

  isOutput(value: string): boolean {
    return this.#outputs.has(value);
  }

  /** Whether a value is fed by the caller. */
  isInput(value: string): boolean {
    return !this.graph.initializers.has(value) && this.graph.inputs.some(({ name }) => name === value);
  }

  /** How often a value is needed: its uses, and one if it is a graph output. */
  useCount(value: string): number {
    return this.uses(value).length + (this.isOutput(value) ? 1 : 0);
  }

  initializer(value: string): Tensor | undefined {
    return this.graph.initializers.get(value);
  }

  /** A value known without running: an initializer, or what a Constant node holds. */
  constant(value: string): Tensor | undefined {
    const initializer = this.graph.initializers.get(value);
    if (initializer) return initializer;
    const node = this.#producers.get(value);
    return node && node.opType === 'Constant' && node.domain === '' ? constantTensor(node) : undefined;
  }

  /** A name that no value and no node of the model has. */
  freshName(base: string): string {
    return this.names.fresh(base);
  }

  /** Adds a node, at the end unless told where. `sort` brings any order right. */
  addNode(node: Node, where: { before: Node } | { after: Node } | undefined = undefined): Node {
    const { nodes } = this.graph;
    if (!where) nodes.push(node);
    else if ('before' in where) nodes.splice(this.#position(where.before), 0, node);
    else nodes.splice(this.#position(where.after) + 1, 0, node);
    this.#index(node);
    return node;
  }

  #position(node: Node): number {
    const position = this.graph.nodes.indexOf(node);
    if (position < 0) throw new Error(`${describeNode(node)} is not in this graph`);
    return position;
  }

  removeNode(node: Node): void {
    this.graph.nodes.splice(this.#position(node), 1);
    this.#unindex(node);
  }

  removeNodes(gone: ReadonlySet<Node>): void {
    this.graph.nodes = this.graph.nodes.filter((node) => !gone.has(node));
    for (const node of gone) this.#unindex(node);
  }

  /** Adds an initializer under its name, which must be free; returns the name. */
  addInitializer(tensor: Tensor): string {
    if (this.graph.initializers.has(tensor.name) || this.#producers.has(tensor.name)) throw new Error(`'${tensor.name}' is taken already`);
    this.graph.initializers.set(tensor.name, tensor);
    return tensor.name;
  }

  setInput(node: Node, input: number, value: string): void {
    this.#unindex(node);
    while (node.inputs.length < input) node.inputs.push('');
    node.inputs[input] = value;
    this.#index(node);
  }

  setInputs(node: Node, inputs: string[]): void {
    this.#unindex(node);
    node.inputs = inputs;
    this.#index(node);
  }

  setOutput(node: Node, output: number, value: string): void {
    this.#unindex(node);
    node.outputs[output] = value;
    this.#index(node);
  }

  /**
   * Lets every user of `from` (captures by subgraphs too) use `to` instead, or those that `only` picks. Graph outputs keep their
   * names and so stay with `from`. Returns how many uses were moved.
   */
  replaceUses(from: string, to: string, only: (use: Use) => boolean = () => true): number {
    const moved = this.uses(from).filter(only);
    for (const { node, input } of moved) {
      if (input >= 0) this.setInput(node, input, to);
      else {
        this.#unindex(node);
        for (const inner of subgraphsOf(node)) renameOuter(inner, from, to);
        this.#index(node);
      }
    }
    return moved.length;
  }

  /**
   * Removes nodes none of whose outputs is used, initializers that nothing uses (and their entries among the inputs), and the types
   * of values that are gone. Returns how many nodes went.
   */
  removeDead(): number {
    const gone = new Set<Node>();
    const queue = [...this.graph.nodes].reverse();
    for (let node = queue.pop(); node; node = queue.pop()) {
      if (gone.has(node) || node.outputs.some((output) => output !== '' && this.useCount(output) > 0)) continue;
      gone.add(node);
      const values = [...node.inputs, ...captures(node)];
      this.#unindex(node);
      for (const value of values) {
        const producer = this.#producers.get(value);
        if (producer) queue.push(producer);
      }
    }
    if (gone.size > 0) this.graph.nodes = this.graph.nodes.filter((node) => !gone.has(node));
    const dropped = new Set<string>();
    for (const name of this.graph.initializers.keys()) if (this.useCount(name) === 0) dropped.add(name);
    for (const name of dropped) this.graph.initializers.delete(name);
    if (dropped.size > 0) this.graph.inputs = this.graph.inputs.filter(({ name }) => !dropped.has(name));
    for (const name of this.graph.valueInfo.keys()) {
      if (!this.#producers.has(name) && !this.graph.initializers.has(name)) this.graph.valueInfo.delete(name);
    }
    return gone.size;
  }

  /** Brings the nodes into an order where makers stand before users, moving as few as it can. A cycle is `graph-invalid`, its nodes named. */
  sort(): void {
    this.graph.nodes = topologicalOrder(this.graph.nodes);
  }
}

/** Nodes in an order where each value is made before it is used; the given order stays where it already is such. Throws `graph-invalid` on a cycle. */
export function topologicalOrder(nodes: readonly Node[]): Node[] {
  const producers = new Map<string, Node>();
  for (const node of nodes) for (const output of node.outputs) if (output !== '') producers.set(output, node);
  /** Makers of what a node takes, last one first. */
  const needs = (node: Node): Node[] => {
    const before: Node[] = [];
    const add = (value: string) => {
      const producer = producers.get(value);
      if (producer) before.push(producer);
    };
    node.inputs.forEach(add);
    captures(node).forEach(add);
    return before.reverse();
  };
  const order: Node[] = [];
  const state = new Map<Node, 'open' | 'done'>();
  for (const start of nodes) {
    if (state.has(start)) continue;
    // Depth first without recursion: a chain may be as long as the graph.
    const path: { node: Node; rest: Node[] }[] = [{ node: start, rest: needs(start) }];
    state.set(start, 'open');
    while (path.length > 0) {
      const top = path[path.length - 1]!;
      const next = top.rest.pop();
      if (!next) {
        path.pop();
        state.set(top.node, 'done');
        order.push(top.node);
      } else if (state.get(next) === 'open') {
        const from = path.findIndex(({ node }) => node === next);
        const cycle = path.slice(from).map(({ node }) => describeNode(node));
        const shown = cycle.length > 6 ? [...cycle.slice(0, 5), `${cycle.length - 5} more`] : cycle;
        throw new HalftoneError('graph-invalid', `The graph has a cycle: ${shown.join(', ')}.`);
      } else if (!state.has(next)) {
        state.set(next, 'open');
        path.push({ node: next, rest: needs(next) });
      }
    }
  }
  return order;
}

const NOTHING: ReadonlySet<string> = new Set();

/** Outer values that the graphs inside a node use. */
export function captures(node: Node): ReadonlySet<string> {
  const graphs = subgraphsOf(node);
  if (graphs.length === 0) return NOTHING;
  const captured = new Set<string>();
  for (const graph of graphs) for (const value of outerReferences(graph)) captured.add(value);
  return captured;
}

/** Values that a graph uses and does not define itself. */
export function outerReferences(graph: Graph): Set<string> {
  const defined = new Set<string>([...graph.initializers.keys(), ...sparseInitializerNames(graph)]);
  for (const { name } of graph.inputs) defined.add(name);
  for (const node of graph.nodes) for (const output of node.outputs) defined.add(output);
  const outer = new Set<string>();
  const reference = (value: string) => {
    if (value !== '' && !defined.has(value)) outer.add(value);
  };
  for (const node of graph.nodes) {
    node.inputs.forEach(reference);
    captures(node).forEach(reference);
  }
  for (const { name } of graph.outputs) reference(name);
  return outer;
}

/** Renames an outer value's uses in a graph and those inside it, where no inner value of that name hides it. */
function renameOuter(graph: Graph, from: string, to: string): void {
  if (!outerReferences(graph).has(from)) return;
  for (const node of graph.nodes) {
    node.inputs = node.inputs.map((value) => (value === from ? to : value));
    for (const inner of subgraphsOf(node)) renameOuter(inner, from, to);
  }
  for (const output of graph.outputs) if (output.name === from) output.name = to;
}

/** What a Constant node holds; undefined for sparse and string values. */
export function constantTensor(node: Node): Tensor | undefined {
  const name = node.outputs[0] ?? '';
  const value = attrTensor(node, 'value');
  if (value) return value;
  const float = attrFloat(node, 'value_float');
  if (float !== undefined) return floatTensor(name, [float], []);
  const floats = attrFloats(node, 'value_floats');
  if (floats) return floatTensor(name, floats);
  const int = attrInt(node, 'value_int');
  if (int !== undefined) return int64Tensor(name, [(node.attributes.get('value_int') as { value: bigint }).value], []);
  const ints = attrInts(node, 'value_ints');
  if (ints) return int64Tensor(name, (node.attributes.get('value_ints') as { value: bigint[] }).value);
  return undefined;
}

/** Names of sparse initializers, which stay raw in `graph.unknown` (GraphProto field 15: SparseTensorProto.values.name). */
export function sparseInitializerNames(graph: Graph): string[] {
  const names: string[] = [];
  for (const field of graph.unknown ?? []) {
    if (field.field !== 15 || field.wire !== WIRE.bytes) continue;
    const sparse = new ProtoReader(field.bytes);
    while (sparse.next()) {
      if (sparse.field !== 1) continue;
      const values = sparse.message('A sparse initializer');
      while (values.next()) if (values.field === 8) names.push(values.name('A sparse initializer’s name'));
    }
  }
  return names;
}

/** Gives every node, also those of subgraphs, a name that no other node has. The same model always gets the same names. */
export function ensureNodeNames(model: Model): void {
  const taken = new Set<string>();
  const pending: Node[] = [];
  for (const graph of allGraphs(model.graph)) {
    for (const node of graph.nodes) {
      if (node.name === '' || taken.has(node.name)) pending.push(node);
      else taken.add(node.name);
    }
  }
  const next = new Map<string, number>();
  for (const node of pending) {
    const base = node.name || node.opType;
    let i = next.get(base) ?? (node.name ? 1 : 0);
    while (taken.has(`${base}_${i}`)) i++;
    node.name = `${base}_${i}`;
    next.set(base, i + 1);
    taken.add(node.name);
  }
}

/**
 * Takes initializers off the graph's inputs. Before IR version 4 every initializer had to be an input too, and many exporters went on
 * so; left there, a runtime must expect the caller to replace them and folds nothing.
 */
export function dropInitializerInputs(graph: Graph): void {
  graph.inputs = graph.inputs.filter(({ name }) => !graph.initializers.has(name));
}

/** A model whose structure may be changed without changing the original. Tensors' bytes are shared. */
export function cloneModel(model: Model): Model {
  return {
    ...model,
    opsets: new Map(model.opsets),
    metadata: new Map(model.metadata),
    graph: cloneGraph(model.graph),
    ...cloneUnknown(model),
  };
}

export function cloneGraph(graph: Graph): Graph {
  return {
    ...graph,
    nodes: graph.nodes.map(cloneNode),
    initializers: new Map([...graph.initializers].map(([name, tensor]) => [name, cloneTensor(tensor)])),
    inputs: graph.inputs.map(cloneValueInfo),
    outputs: graph.outputs.map(cloneValueInfo),
    valueInfo: new Map([...graph.valueInfo].map(([name, info]) => [name, cloneValueInfo(info)])),
    ...cloneUnknown(graph),
  };
}

export function cloneNode(node: Node): Node {
  return {
    ...node,
    inputs: [...node.inputs],
    outputs: [...node.outputs],
    attributes: new Map([...node.attributes].map(([name, attribute]) => [name, cloneAttribute(attribute)])),
    ...cloneUnknown(node),
  };
}

function cloneAttribute(attribute: Attribute): Attribute {
  switch (attribute.kind) {
    case 'tensor':
      return { ...attribute, value: cloneTensor(attribute.value) };
    case 'tensors':
      return { ...attribute, value: attribute.value.map(cloneTensor) };
    case 'graph':
      return { ...attribute, value: cloneGraph(attribute.value) };
    case 'graphs':
      return { ...attribute, value: attribute.value.map(cloneGraph) };
    case 'floats':
      return { ...attribute, value: [...attribute.value] };
    case 'ints':
      return { ...attribute, value: [...attribute.value] };
    case 'strings':
      return { ...attribute, value: [...attribute.value] };
    default:
      return { ...attribute };
  }
}

function cloneTensor(tensor: Tensor): Tensor {
  return { ...tensor, dims: [...tensor.dims], ...cloneUnknown(tensor) };
}

function cloneValueInfo(info: ValueInfo): ValueInfo {
  const type = info.type && { ...info.type, ...(info.type.shape ? { shape: [...info.type.shape] } : {}) };
  return { ...info, type, ...cloneUnknown(info) };
}

function cloneUnknown(holder: { unknown?: RawField[] }): { unknown?: RawField[] } {
  return holder.unknown ? { unknown: [...holder.unknown] } : {};
}

/** A scalar FLOAT, for scales and the like. */
export function floatScalar(name: string, value: number): Tensor {
  return makeTensor(name, DataType.FLOAT, [], Float32Array.of(value));
}
