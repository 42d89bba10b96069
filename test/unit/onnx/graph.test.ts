import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import {
  attrInt,
  attrString,
  captures,
  cloneModel,
  constantTensor,
  dropInitializerInputs,
  ensureNodeNames,
  floatAttr,
  floatsAttr,
  GraphView,
  graphAttr,
  intAttr,
  intsAttr,
  makeNode,
  NamePool,
  outerReferences,
  stringAttr,
  subgraphsOf,
  tensorAttr,
  topologicalOrder,
} from '../../../src/onnx/graph.ts';
import { DataType, type Graph, type Node } from '../../../src/onnx/model.ts';
import { floatData, floatTensor, intData } from '../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';
import { floats, graphOf, modelOf, run, value } from './build.ts';

/** x → a → b (twice used) → y, and an If that captures b. */
function sample(): Graph {
  const branch = (op: string, name: string) =>
    graphOf({ name, outputs: [value(`${name}_out`, undefined)], nodes: [makeNode(op, ['b'], [`${name}_out`])] });
  return graphOf({
    inputs: [value('x', [4]), value('c', [], DataType.BOOL)],
    outputs: [value('y', [4]), value('z', undefined)],
    initializers: [floatTensor('w', [1, 2, 3, 4]), floatTensor('unused', [1])],
    nodes: [
      makeNode('Relu', ['x'], ['a']),
      makeNode('Add', ['a', 'w'], ['b']),
      makeNode('Mul', ['b', 'b'], ['y']),
      makeNode('If', ['c'], ['z'], {
        attributes: [graphAttr('then_branch', branch('Neg', 't')), graphAttr('else_branch', branch('Abs', 'e'))],
      }),
      makeNode('Exp', ['a'], ['dead']),
      makeNode('Log', ['dead'], ['deader']),
    ],
  });
}
const named = (graph: Graph, opType: string): Node => graph.nodes.find((node) => node.opType === opType)!;

describe('edges', () => {
  it('knows makers, users and captures', () => {
    const graph = sample();
    const view = new GraphView(graph);
    expect(view.producer('b')?.opType).toBe('Add');
    expect(view.producer('x')).toBeUndefined();
    expect(view.uses('b').map(({ node, input }) => [node.opType, input])).toEqual([
      ['Mul', 0],
      ['Mul', 1],
      ['If', -1],
    ]);
    expect(view.consumers('b').map(({ opType }) => opType)).toEqual(['Mul', 'If']);
    expect([view.isOutput('y'), view.isOutput('b'), view.isInput('x'), view.isInput('w')]).toEqual([true, false, true, false]);
    expect(view.constant('w')?.name).toBe('w');
    expect(view.useCount('y')).toBe(1);
    expect([...captures(named(graph, 'If'))]).toEqual(['b']);
    expect([...outerReferences(subgraphsOf(named(graph, 'If'))[0]!)]).toEqual(['b']);
  });

  it('moves uses, those inside subgraphs too', async () => {
    const graph = sample();
    const view = new GraphView(graph);
    const name = view.freshName('b');
    view.addNode(makeNode('Identity', ['b'], [name]), { after: named(graph, 'Add') });
    expect(view.replaceUses('b', name, ({ node }) => node.opType !== 'Identity')).toBe(3);
    expect(view.consumers('b').map(({ opType }) => opType)).toEqual(['Identity']);
    expect([...captures(named(graph, 'If'))]).toEqual([name]);
    const feeds = { x: floats([4]), c: { type: 'bool' as const, dims: [], bytes: Uint8Array.of(1) } };
    expect(await run(modelOf(graph), feeds)).toEqual(await run(modelOf(sample()), feeds));
  });

  it('does not touch an inner value of the same name', () => {
    const inner = graphOf({ outputs: [value('o', undefined)], nodes: [makeNode('Relu', ['p'], ['b']), makeNode('Neg', ['b'], ['o'])] });
    const graph = graphOf({
      inputs: [value('c', [], DataType.BOOL), value('b', [1])],
      outputs: [value('z', undefined)],
      nodes: [makeNode('If', ['c'], ['z'], { attributes: [graphAttr('then_branch', inner), graphAttr('else_branch', inner)] })],
    });
    expect(new GraphView(graph).replaceUses('b', 'q')).toBe(0);
    expect(inner.nodes[1]!.inputs).toEqual(['b']);
  });

  it('removes what nothing needs', () => {
    const graph = sample();
    graph.inputs.push(value('unused', [1]));
    const view = new GraphView(graph);
    expect(view.removeDead()).toBe(2);
    expect(graph.nodes.map(({ opType }) => opType)).toEqual(['Relu', 'Add', 'Mul', 'If']);
    expect([...graph.initializers.keys()]).toEqual(['w']);
    expect(graph.inputs.map(({ name }) => name)).toEqual(['x', 'c']);
    expect(view.uses('dead')).toEqual([]);
  });

  it('edits keep the index right', () => {
    const graph = sample();
    const view = new GraphView(graph);
    const mul = named(graph, 'Mul');
    view.setInput(mul, 1, 'w');
    expect(view.uses('b').length).toBe(2);
    expect(view.consumers('w').map(({ opType }) => opType)).toEqual(['Add', 'Mul']);
    view.removeNodes(new Set([mul]));
    expect(view.producer('y')).toBeUndefined();
    expect(view.consumers('w').map(({ opType }) => opType)).toEqual(['Add']);
    view.addInitializer(floatTensor(view.freshName('w'), [1]));
    expect(graph.initializers.has('w_1')).toBe(true);
    expect(() => view.addInitializer(floatTensor('w', [1]))).toThrow();
  });
});

describe('order', () => {
  it('puts makers before users, whatever order they came in', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.nat(1000), { maxLength: 3 }), { minLength: 1, maxLength: 40 }),
        fc.infiniteStream(fc.nat()),
        (edges, stream) => {
          const nodes = edges.map((inputs, i) =>
            makeNode(
              'Sum',
              inputs.map((n) => (i === 0 ? 'x' : `v${n % i}`)),
              [`v${i}`],
            ),
          );
          const shuffled = [...nodes];
          for (let i = shuffled.length - 1; i > 0; i--) {
            const j = stream.next().value! % (i + 1);
            [shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!];
          }
          const order = topologicalOrder(shuffled);
          expect(new Set(order)).toEqual(new Set(nodes));
          const at = new Map(order.flatMap((node, i) => node.outputs.map((output) => [output, i] as const)));
          order.forEach((node, i) => {
            for (const input of node.inputs) expect(at.get(input) ?? -1).toBeLessThan(i);
          });
          expect(topologicalOrder(nodes)).toEqual(nodes);
        },
      ),
    );
  });

  it('a chain of 100 000 nodes, backwards, is no recursion', () => {
    const nodes = Array.from({ length: 100_000 }, (_, i) => makeNode('Relu', [`v${i}`], [`v${i + 1}`]));
    const order = topologicalOrder([...nodes].reverse());
    expect(order.every((node, i) => node === nodes[i])).toBe(true);
  });

  it('names the nodes of a cycle, also of one through a subgraph', () => {
    const ring = ['a', 'b', 'c'].map((name, i, all) => makeNode('Relu', [all[(i + 2) % 3]!], [name], { name: `node_${name}` }));
    expect(() => topologicalOrder(ring)).toThrowError(
      expect.objectContaining({ code: 'graph-invalid', detail: expect.stringContaining('node_b') }),
    );
    const inner = graphOf({ outputs: [value('o', undefined)], nodes: [makeNode('Neg', ['later'], ['o'])] });
    const through = [
      makeNode('If', ['c'], ['z'], { attributes: [graphAttr('then_branch', inner), graphAttr('else_branch', inner)] }),
      makeNode('Relu', ['z'], ['later']),
    ];
    expect(() => topologicalOrder(through)).toThrow(HalftoneError);
  });
});

describe('names', () => {
  it('new ones are new in subgraphs, too', () => {
    const pool = new NamePool(sample());
    expect(pool.fresh('t_out')).toBe('t_out_1');
    expect(pool.fresh('t_out')).toBe('t_out_2');
    expect(pool.fresh('new')).toBe('new');
    expect(pool.fresh('new')).toBe('new_1');
  });

  it('every node gets one of its own, the same each time', () => {
    const build = () => {
      const graph = sample();
      graph.nodes[0]!.name = 'Mul_0';
      graph.nodes[1]!.name = 'twice';
      graph.nodes[2]!.name = 'twice';
      return modelOf(graph);
    };
    const [a, b] = [build(), build()];
    ensureNodeNames(a);
    ensureNodeNames(b);
    const names = a.graph.nodes.flatMap((node) => [
      node.name,
      ...subgraphsOf(node).flatMap((inner) => inner.nodes.map(({ name }) => name)),
    ]);
    expect(new Set(names).size).toBe(8);
    expect(names).not.toContain('');
    expect(a.graph.nodes[1]!.name).toBe('twice');
    expect(serializeModel(a)).toEqual(serializeModel(b));
    const before = serializeModel(a);
    ensureNodeNames(a);
    expect(serializeModel(a)).toEqual(before);
  });
});

describe('copies', () => {
  it('change nothing of the original', () => {
    const model = modelOf(sample());
    model.graph.valueInfo.set('a', value('a', [4]));
    const before = serializeModel(model);
    const copy = cloneModel(model);
    expect(serializeModel(copy)).toEqual(before);
    copy.graph.nodes[0]!.inputs[0] = 'other';
    copy.graph.initializers.get('w')!.dims.push(1);
    copy.graph.inputs[0]!.type!.shape![0] = 9;
    copy.graph.valueInfo.get('a')!.type!.shape!.push(1);
    subgraphsOf(copy.graph.nodes[3]!)[0]!.nodes[0]!.opType = 'Exp';
    copy.opsets.set('', 99);
    copy.graph.nodes.pop();
    expect(serializeModel(model)).toEqual(before);
    const [a, b] = [model.graph.initializers.get('w')!.data, copy.graph.initializers.get('w')!.data];
    expect(a.kind === 'bytes' && b.kind === 'bytes' && a.bytes.buffer === b.bytes.buffer).toBe(true);
  });
});

describe('attributes and constants', () => {
  it('by kind', () => {
    const node = makeNode('Op', [], ['y'], { attributes: [intAttr('axis', -1), stringAttr('mode', 'näher')] });
    expect(attrInt(node, 'axis', 0)).toBe(-1);
    expect(attrInt(node, 'none', 3)).toBe(3);
    expect(attrInt(node, 'none')).toBeUndefined();
    expect(attrString(node, 'mode')).toBe('näher');
    expect(() => attrInt(node, 'mode')).toThrowError(expect.objectContaining({ code: 'graph-invalid' }));
  });

  it('what Constant nodes hold', () => {
    const of = (attribute: Parameters<typeof makeNode>[3]) => constantTensor(makeNode('Constant', [], ['c'], attribute));
    expect([...floatData(of({ attributes: [floatAttr('value_float', 1.5)] })!)]).toEqual([1.5]);
    expect([...floatData(of({ attributes: [floatsAttr('value_floats', [1, 2])] })!)]).toEqual([1, 2]);
    expect(of({ attributes: [intAttr('value_int', 7)] })!.dims).toEqual([]);
    expect(intData(of({ attributes: [intsAttr('value_ints', [7, -8])] })!)).toEqual([7, -8]);
    expect(of({ attributes: [tensorAttr('value', floatTensor('t', [1]))] })!.name).toBe('t');
    expect(of({ attributes: [stringAttr('value_string', 'x')] })).toBeUndefined();
  });

  it('initializers leave the inputs', () => {
    const graph = sample();
    graph.inputs.push(value('w', [4]));
    dropInitializerInputs(graph);
    expect(graph.inputs.map(({ name }) => name)).toEqual(['x', 'c']);
  });
});
