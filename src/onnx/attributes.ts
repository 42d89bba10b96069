/** Attributes of nodes by name and kind. A getter finds an attribute of another kind than the operator's schema says to be `graph-invalid`. */
import { HalftoneError } from '../domain/errors.ts';
import type { Attribute, Graph, Node, Tensor } from './model.ts';

type Kind = Attribute['kind'];
type Of<K extends Kind> = Extract<Attribute, { kind: K }>;

function get<K extends Kind>(node: Node, name: string, kind: K): Of<K> | undefined {
  const attribute = node.attributes.get(name);
  if (!attribute) return undefined;
  if (attribute.kind !== kind) {
    throw new HalftoneError(
      'graph-invalid',
      `The attribute '${name}' of ${describeNode(node)} is of kind ${attribute.kind}, where ${node.opType} takes ${kind}.`,
    );
  }
  return attribute as Of<K>;
}

/** A node in words, for messages. */
export function describeNode(node: Node): string {
  return node.name
    ? `node '${node.name}' (${node.opType})`
    : `the ${node.opType} that gives '${node.outputs.find((output) => output !== '') ?? ''}'`;
}

/** An int attribute as a number (64-bit markers like INT64_MAX are rounded). */
export function attrInt(node: Node, name: string, fallback: number): number;
export function attrInt(node: Node, name: string): number | undefined;
export function attrInt(node: Node, name: string, fallback?: number): number | undefined {
  const attribute = get(node, name, 'int');
  return attribute ? Number(attribute.value) : fallback;
}

export function attrInts(node: Node, name: string, fallback: number[]): number[];
export function attrInts(node: Node, name: string): number[] | undefined;
export function attrInts(node: Node, name: string, fallback?: number[]): number[] | undefined {
  const attribute = get(node, name, 'ints');
  return attribute ? attribute.value.map(Number) : fallback;
}

export function attrFloat(node: Node, name: string, fallback: number): number;
export function attrFloat(node: Node, name: string): number | undefined;
export function attrFloat(node: Node, name: string, fallback?: number): number | undefined {
  return get(node, name, 'float')?.value ?? fallback;
}

export function attrFloats(node: Node, name: string): number[] | undefined {
  return get(node, name, 'floats')?.value;
}

export function attrString(node: Node, name: string, fallback: string): string;
export function attrString(node: Node, name: string): string | undefined;
export function attrString(node: Node, name: string, fallback?: string): string | undefined {
  const attribute = get(node, name, 'string');
  return attribute ? Buffer.from(attribute.value).toString('utf8') : fallback;
}

export function attrTensor(node: Node, name: string): Tensor | undefined {
  return get(node, name, 'tensor')?.value;
}

export function attrGraph(node: Node, name: string): Graph | undefined {
  return get(node, name, 'graph')?.value;
}

export const intAttr = (name: string, value: number | bigint): Attribute => ({ name, kind: 'int', value: BigInt(value) });
export const intsAttr = (name: string, value: readonly (number | bigint)[]): Attribute => ({
  name,
  kind: 'ints',
  value: value.map(BigInt),
});
export const floatAttr = (name: string, value: number): Attribute => ({ name, kind: 'float', value });
export const floatsAttr = (name: string, value: readonly number[]): Attribute => ({ name, kind: 'floats', value: [...value] });
export const stringAttr = (name: string, value: string): Attribute => ({ name, kind: 'string', value: new Uint8Array(Buffer.from(value)) });
export const tensorAttr = (name: string, value: Tensor): Attribute => ({ name, kind: 'tensor', value });
export const graphAttr = (name: string, value: Graph): Attribute => ({ name, kind: 'graph', value });

/** Sets or replaces an attribute. */
export function setAttr(node: Node, attribute: Attribute): void {
  node.attributes.set(attribute.name, attribute);
}

/** A node of its own; `domain` '' is ai.onnx. Left without a name it gets one from `ensureNodeNames`. */
export function makeNode(
  opType: string,
  inputs: string[],
  outputs: string[],
  options: { name?: string; domain?: string; attributes?: Attribute[] } = {},
): Node {
  return {
    name: options.name ?? '',
    opType,
    domain: options.domain ?? '',
    inputs,
    outputs,
    attributes: new Map((options.attributes ?? []).map((attribute) => [attribute.name, attribute])),
  };
}

const NONE: readonly Graph[] = [];

/** The graphs in a node's attributes (If's branches, Loop's and Scan's body), in the order of its attributes. */
export function subgraphsOf(node: Node): readonly Graph[] {
  if (node.attributes.size === 0) return NONE;
  const graphs: Graph[] = [];
  for (const attribute of node.attributes.values()) {
    if (attribute.kind === 'graph') graphs.push(attribute.value);
    else if (attribute.kind === 'graphs') graphs.push(...attribute.value);
  }
  return graphs;
}

/** A graph and all graphs inside it, outermost first. */
export function* allGraphs(graph: Graph): Generator<Graph> {
  yield graph;
  for (const node of graph.nodes) for (const inner of subgraphsOf(node)) yield* allGraphs(inner);
}
