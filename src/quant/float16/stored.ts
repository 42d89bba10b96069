import type { LayerNote } from '../../domain/job.ts';
import { cloneModel, intAttr, makeNode, NamePool } from '../../onnx/graph.ts';
import { DataType, type Model, type Node } from '../../onnx/model.ts';
import { elementCount } from '../../onnx/tensor.ts';
import { eachScope, removeDeadEverywhere, usesIn } from '../dynamic/scope.ts';
import { toFloat16Tensor } from './precision.ts';

/** Smaller constants aren't worth a node. */
const LEAST_ELEMENTS = 256;

/**
 * Weights in float16, arithmetic in float32: each large float32 constant becomes W = Cast(W₁₆), which the runtime computes
 * once, when it loads the model. Half the file at exactly float's speed, on processors without float16 kernels the
 * form that is not slower (runtime.md, sections 5 and 6). Values keep their names, so no user changes; subgraphs too.
 * Constants that overflow or underflow stay as they are (see `toFloat16Tensor`), and so do those of excluded nodes.
 */
export function storeAsFloat16(
  model: Model,
  excluded: (node: Node) => boolean = () => false,
): { model: Model; converted: string[]; leftInFloat: LayerNote[]; flushed: number } {
  const copy = cloneModel(model);
  const names = new NamePool(copy.graph);
  const converted: string[] = [];
  const leftInFloat: LayerNote[] = [];
  let flushed = 0;
  eachScope(copy.graph, names, (scope) => {
    const { view } = scope;
    for (const tensor of [...view.graph.initializers.values()]) {
      if (tensor.dataType !== DataType.FLOAT || elementCount(tensor.dims) < LEAST_ELEMENTS) continue;
      const users = usesIn(scope, tensor.name);
      if (scope.constant(tensor.name)?.holder !== scope || users.length === 0 || users.some((use) => use.input < 0)) continue;
      const kept = users.find(({ node }) => excluded(node!))?.node;
      if (kept) {
        if (!leftInFloat.some((note) => note.node === kept.name))
          leftInFloat.push({ node: kept.name, operator: kept.opType, reason: 'excluded-by-recipe' });
        continue;
      }
      const rounded = toFloat16Tensor(tensor, view.freshName(`${tensor.name}/float16`));
      const user = users[0]!.node!;
      if (rounded.obstacle) {
        leftInFloat.push({
          node: user.name,
          operator: user.opType,
          reason: rounded.obstacle,
          detail: `the constant ${tensor.name} does not fit float16`,
        });
        continue;
      }
      flushed += rounded.flushed;
      view.graph.initializers.delete(tensor.name);
      view.addInitializer(rounded.tensor);
      const attributes = [intAttr('to', DataType.FLOAT)];
      view.addNode(makeNode('Cast', [rounded.tensor.name], [tensor.name], { name: view.freshName(`${tensor.name}/Cast`), attributes }));
      for (const { node } of users) if (!converted.includes(node!.name)) converted.push(node!.name);
    }
    view.sort();
  });
  removeDeadEverywhere(copy.graph);
  return { model: copy, converted, leftInFloat, flushed };
}
