/** Whether a model is one that the engine can work on, said in the user's terms before anything is computed. */
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import { allGraphs, constantTensor, describeNode, sparseInitializerNames, subgraphsOf, topologicalOrder } from './graph.ts';
import type { DataType, Graph, Model, Node } from './model.ts';
import { isQuantizedOperator, ONNX_OPERATORS, RUNTIME_DOMAINS } from './operators.ts';
import { ProtoReader, WIRE } from './protobuf.ts';
import { isFloatType } from './tensor.ts';

/**
 * Checks what the runtime would refuse with words of its own or die of, and what the engine relies on: a known opset, known
 * operators, every used value made exactly once, no cycle, outputs that exist, names that are one node's alone, no gap in a list of
 * values. Subgraphs too. Nodes need not be in order.
 * Errors: opset-unsupported, operator-unsupported, graph-invalid.
 */
export function checkModel(model: Model): void {
  checkOpset(model);
  const functions = localFunctions(model);
  for (const graph of allGraphs(model.graph)) {
    for (const node of graph.nodes) {
      checkOperator(node, functions);
      checkLists(node);
    }
  }
  if (model.graph.nodes.length === 0) throw new HalftoneError('graph-invalid', 'The graph has no nodes: there is nothing to compute.');
  if (model.graph.outputs.length === 0) throw new HalftoneError('graph-invalid', 'The graph has no outputs.');
  checkGraph(model.graph, new Set());
}

function checkOpset(model: Model): void {
  if (model.irVersion < 1 || model.irVersion > LIMITS.newestIrVersion) {
    throw new HalftoneError(
      'opset-unsupported',
      `The model has IR version ${model.irVersion}; 1 to ${LIMITS.newestIrVersion} are read. Export it with a released version of onnx, or set ir_version.`,
    );
  }
  const opset = model.opsets.get('');
  const range = `opsets ${LIMITS.oldestOpset} to ${LIMITS.newestOpset} of ai.onnx are read`;
  if (opset === undefined) throw new HalftoneError('opset-unsupported', `The model does not say which opset it has; ${range}.`);
  if (opset < LIMITS.oldestOpset)
    throw new HalftoneError('opset-unsupported', `The model has opset ${opset}, which is too old: ${range}. Export it again.`);
  if (opset > LIMITS.newestOpset) {
    throw new HalftoneError(
      'opset-unsupported',
      `The model has opset ${opset}, which is newer than this service: ${range}. Export it with opset_version=${LIMITS.newestOpset} or less.`,
    );
  }
}

function checkOperator(node: Node, functions: ReadonlySet<string>): void {
  if (functions.has(`${node.domain}:${node.opType}`) || RUNTIME_DOMAINS.has(node.domain)) return;
  if (node.domain === '' && ONNX_OPERATORS.has(node.opType)) return;
  const whose = node.domain === '' ? 'ai.onnx has no such operator' : `the domain '${node.domain}' is not one of the runtime's`;
  throw new HalftoneError(
    'operator-unsupported',
    `${capital(describeNode(node))} can't be run: ${whose}. Replace it, or leave it out of the exported model.`,
  );
}

/** Operators whose inputs end in a list of any length → where it begins. Before it a place may stay empty (Loop's count and condition, Scan's lengths). */
const LISTED_INPUTS: ReadonlyMap<string, number> = new Map([
  ['Concat', 0],
  ['Einsum', 0],
  ['Max', 0],
  ['Mean', 0],
  ['Min', 0],
  ['SequenceConstruct', 0],
  ['Sum', 0],
  ['Scan', 1],
  ['Loop', 2],
]);
/** Operators whose outputs must all have names from this place on. BatchNormalization's statistics are no list, but the runtime writes them as if they were there. */
const LISTED_OUTPUTS: ReadonlyMap<string, number> = new Map([
  ['If', 0],
  ['Loop', 0],
  ['Scan', 0],
  ['Split', 0],
  ['BatchNormalization', 1],
]);

/**
 * An empty name stands for what is left out, which ONNX allows for optional inputs and outputs and not inside a list of values. ONNX
 * Runtime 1.30 does not check: it loads such a file and reads through a null pointer when it runs (Split, If, Loop, Sum, Max, Einsum,
 * BatchNormalization: SIGSEGV), so the job's process would die three times for what is known here.
 */
function checkLists(node: Node): void {
  if (node.domain !== '') return;
  for (const [what, names, from] of [
    ['input', node.inputs, LISTED_INPUTS.get(node.opType)],
    ['output', node.outputs, LISTED_OUTPUTS.get(node.opType)],
  ] as const) {
    const gap = from === undefined ? -1 : names.indexOf('', from);
    if (gap < 0) continue;
    throw new HalftoneError(
      'graph-invalid',
      `${capital(describeNode(node))} leaves its ${what} ${gap + 1} of ${names.length} without a name, which the runtime can't run. Give it a name${what === 'output' ? ', used or not' : ''}.`,
    );
  }
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Names of model-local functions (ModelProto field 25: name 1, domain 10), which stay raw in `model.unknown`, as `domain:name`. */
function localFunctions(model: Model): Set<string> {
  const names = new Set<string>();
  for (const field of model.unknown ?? []) {
    if (field.field !== 25 || field.wire !== WIRE.bytes) continue;
    const r = new ProtoReader(field.bytes);
    let name = '';
    let domain = '';
    while (r.next()) {
      if (r.field === 1) name = r.name('A function’s name');
      else if (r.field === 10) domain = r.name('A function’s domain');
    }
    names.add(`${domain === 'ai.onnx' ? '' : domain}:${name}`);
  }
  return names;
}

function checkGraph(graph: Graph, outer: ReadonlySet<string>): void {
  const made = new Map<string, Node | string>();
  for (const { name } of graph.inputs) {
    if (made.has(name)) throw new HalftoneError('graph-invalid', `The graph has two inputs of the name '${name}'.`);
    made.set(name, 'a graph input');
  }
  // An initializer may be an input, too: then it is its default.
  for (const name of [...graph.initializers.keys(), ...sparseInitializerNames(graph)]) made.set(name, 'an initializer');
  const named = new Set<string>();
  for (const node of graph.nodes) {
    if (node.name !== '' && named.has(node.name)) {
      throw new HalftoneError(
        'graph-invalid',
        `Two nodes have the name '${node.name}' (${describeNode(node)} is one), which the runtime refuses. Give each its own, or none.`,
      );
    }
    named.add(node.name);
    for (const output of node.outputs) {
      if (output === '') continue;
      const other = made.get(output);
      if (other) {
        const by = typeof other === 'string' ? other : describeNode(other);
        throw new HalftoneError('graph-invalid', `The value '${output}' is made twice: by ${by} and by ${describeNode(node)}.`);
      }
      made.set(output, node);
    }
  }
  // Before its subgraphs: their look-ups need the whole scope.
  const scope = outer.size === 0 ? new Set(made.keys()) : new Set([...outer, ...made.keys()]);
  for (const node of graph.nodes) {
    for (const input of node.inputs) {
      if (input !== '' && !scope.has(input)) {
        throw new HalftoneError(
          'graph-invalid',
          `${capital(describeNode(node))} takes '${input}', which is no input, no initializer and no node's output. Export the model again.`,
        );
      }
    }
  }
  for (const { name } of graph.outputs) {
    if (!scope.has(name)) throw new HalftoneError('graph-invalid', `The graph's output '${name}' is not made by any node.`);
  }
  topologicalOrder(graph.nodes);
  for (const node of graph.nodes) for (const inner of subgraphsOf(node)) checkGraph(inner, scope);
}

/** Quantized operators of a model, by name; empty for a float model. */
export function quantizedOperators(model: Model): Map<string, number> {
  const counts = new Map<string, number>();
  for (const graph of allGraphs(model.graph)) {
    for (const { opType } of graph.nodes) if (isQuantizedOperator(opType)) counts.set(opType, (counts.get(opType) ?? 0) + 1);
  }
  return counts;
}

/** Whether a model computes with quantized values already, statically, dynamically or in its weights alone. */
export function isAlreadyQuantized(model: Model): boolean {
  return quantizedOperators(model).size > 0;
}

/** Throws `already-quantized`, naming what was found, where a model is quantized. */
export function refuseQuantized(model: Model): void {
  const found = [...quantizedOperators(model)];
  if (found.length === 0) return;
  const words = found
    .sort((a, b) => b[1] - a[1])
    .slice(0, 5)
    .map(([name, count]) => `${count} ${name}`);
  throw new HalftoneError('already-quantized', `The model has ${words.join(', ')}. Send the float model that it was made from.`);
}

/** Float types that a model computes in: those of its inputs, initializers, constants and casts. */
export function floatTypes(model: Model): Set<DataType> {
  const types = new Set<DataType>();
  const add = (type: number | undefined) => {
    if (type !== undefined && isFloatType(type as DataType)) types.add(type as DataType);
  };
  for (const graph of allGraphs(model.graph)) {
    for (const { type } of graph.inputs) add(type?.elemType);
    for (const { dataType } of graph.initializers.values()) add(dataType);
    for (const node of graph.nodes) {
      if (node.domain !== '') continue;
      if (node.opType === 'Constant') add(constantTensor(node)?.dataType);
      const to = node.opType === 'Cast' ? node.attributes.get('to') : undefined;
      if (to?.kind === 'int') add(Number(to.value));
    }
  }
  return types;
}
