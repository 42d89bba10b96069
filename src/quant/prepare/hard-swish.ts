import { attrFloat } from '../../onnx/graph.ts';
import { floatTensor } from '../../onnx/tensor.ts';
import type { Rewriter } from './rewriter.ts';

/**
 * HardSwish and HardSigmoid in additions, clips and multiplications, which have integer kernels (runtime.md, section 3:
 * 97 µs against 186 beside a convolution of 90, when the layers around are integer, too). Not part of `prepare`: in float it
 * costs time, so the plan asks for it where it quantizes the surroundings.
 * 1. HardSwish(x) = x · Clip(x + 3, 0, 6) · (1/6).
 * 2. HardSigmoid(x; α, β) = Clip(x + β/α, 0, 1/α) · α, for α > 0.
 * Only nodes in `chosen` (by name); all when it is left out. Returns how many were rewritten.
 */
export function decomposeHardSwish(rewriter: Rewriter, chosen?: ReadonlySet<string>): number {
  let rewritten = 0;
  for (const node of rewriter.nodes()) {
    if (node.domain !== '' || (chosen && !chosen.has(node.name))) continue;
    const swish = node.opType === 'HardSwish';
    if (!swish && node.opType !== 'HardSigmoid') continue;
    const alpha = swish ? 1 / 6 : attrFloat(node, 'alpha', 0.2);
    const beta = swish ? 0.5 : attrFloat(node, 'beta', 0.5);
    if (!(alpha > 0)) continue;
    const data = node.inputs[0]!;
    const output = node.outputs[0]!;
    const scalar = (what: string, value: number) => {
      const name = rewriter.freshName(`${node.name}/${what}`);
      rewriter.setConstant(floatTensor(name, [value], []));
      return name;
    };
    const step = (what: string, opType: string, inputs: string[], last = false): string => {
      const value = last ? output : rewriter.freshName(`${output}/${what}`);
      rewriter.add(
        { name: last ? node.name : `${node.name}/${what}`, opType, domain: '', inputs, outputs: [value], attributes: new Map() },
        node,
      );
      return value;
    };
    rewriter.remove(node);
    const shifted = step('add', 'Add', [data, scalar('shift', swish ? 3 : beta / alpha)]);
    const clipped = step('clip', 'Clip', [shifted, scalar('low', 0), scalar('high', swish ? 6 : 1 / alpha)]);
    const gated = swish ? step('gate', 'Mul', [data, clipped]) : clipped;
    step('scale', 'Mul', [gated, scalar('factor', alpha)], true);
    rewritten++;
  }
  return rewritten;
}
