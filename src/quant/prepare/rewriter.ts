import { GraphView, type NamePool } from '../../onnx/graph.ts';
import type { Model, Node, Tensor } from '../../onnx/model.ts';

/**
 * A graph under rewriting: GraphView's edges, and the edits that passes are made of. A pass may leave the nodes out of
 * order; `commit` sorts them.
 */
export class Rewriter extends GraphView {
  readonly model: Model;
  /** Node name → name of the node in the user's model that it stands for. */
  readonly origin: Map<string, string>;
  readonly #removed = new Set<Node>();
  readonly #released = new Set<string>();

  /** `names`: the model's, where several rewriters follow each other. */
  constructor(model: Model, origin: Map<string, string> = new Map(), names?: NamePool) {
    super(model.graph, names);
    this.model = model;
    this.origin = origin;
  }

  /** The nodes as they stand now; edits while iterating don't disturb (see `has`). */
  nodes(): Node[] {
    return [...this.graph.nodes];
  }
  has(node: Node): boolean {
    return !this.#removed.has(node);
  }
  isUsed(value: string): boolean {
    return this.useCount(value) > 0;
  }
  /** Seen from elsewhere than a node's inputs: a graph output, or captured by a subgraph. */
  isPinned(value: string): boolean {
    return this.isOutput(value) || this.uses(value).some((use) => use.input < 0);
  }
  /** The one node that uses a value, when it does so once and nothing else in the graph sees it: no output, no subgraph. */
  onlyUser(value: string): Node | undefined {
    const uses = this.uses(value);
    return uses.length === 1 && !this.isPinned(value) ? uses[0]!.node : undefined;
  }

  /** Adds a node; `commit` finds its place. `origin`: the node that it stands for. */
  add(node: Node, origin?: Node): Node {
    if (node.name === '' || !this.#released.delete(node.name)) node.name = this.freshName(node.name === '' ? node.opType : node.name);
    if (origin) this.origin.set(node.name, this.originOf(origin));
    return this.addNode(node);
  }
  /** Takes a node out. Its outputs must have no users left, or get a new maker before `commit`. */
  remove(node: Node): void {
    this.removeNode(node);
    this.#removed.add(node);
    this.#released.add(node.name);
  }
  override removeNodes(gone: ReadonlySet<Node>): void {
    super.removeNodes(gone);
    for (const node of gone) {
      this.#removed.add(node);
      this.#released.add(node.name);
    }
  }
  /** Drops inputs from `length` on. */
  truncateInputs(node: Node, length: number): void {
    if (node.inputs.length > length) this.setInputs(node, node.inputs.slice(0, length));
  }
  /**
   * Lets `to` stand for `from`, a value whose maker is gone. Where `from` is a graph output, the maker of `to` makes that
   * output instead (names of outputs never change). Returns false, with nothing done, when that cannot be: `to` is an
   * input, a constant or itself an output.
   */
  bypass(from: string, to: string): boolean {
    if (!this.isOutput(from)) {
      this.replaceUses(from, to);
      return true;
    }
    const maker = this.producer(to);
    if (!maker || this.isOutput(to)) return false;
    this.takeOver(maker, to, from);
    this.replaceUses(to, from);
    return true;
  }
  /** Makes `value`, whose maker is gone, in place of the output `output` of `node`. */
  takeOver(node: Node, output: string, value: string): void {
    this.setOutput(node, node.outputs.indexOf(output), value);
  }
  setConstant(tensor: Tensor): void {
    this.graph.initializers.set(tensor.name, tensor);
  }
  /**
   * Gives one input of a node a new constant: in place of the old one where only this node uses it (the name stays),
   * beside it otherwise.
   */
  replaceConstant(node: Node, index: number, tensor: Tensor, suffix: string): void {
    const old = node.inputs[index] ?? '';
    if (old !== '' && this.graph.initializers.has(old) && this.onlyUser(old) === node) {
      this.setConstant({ ...tensor, name: old });
      return;
    }
    const name = this.freshName(old === '' ? `${node.name}/${suffix}` : `${old}/${suffix}`);
    this.setConstant({ ...tensor, name });
    this.setInput(node, index, name);
  }
  /** Which node of the user's model a node stands for. */
  originOf(node: Node): string {
    return this.origin.get(node.name) ?? node.name;
  }

  /** Brings the nodes into order again and forgets what is stated about values that are gone. */
  commit(): void {
    this.sort();
    for (const name of this.graph.valueInfo.keys()) {
      if (!this.producer(name) && !this.graph.initializers.has(name)) this.graph.valueInfo.delete(name);
    }
  }
}
