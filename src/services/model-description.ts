/** A model as its headers tell it: what the API shows of it and what is checked before a job is made. Tensors' bytes are not touched. */
import { HalftoneError } from '../domain/errors.ts';
import { fileBytes } from '../onnx/bytes.ts';
import { allGraphs } from '../onnx/graph.ts';
import type { Model, Tensor } from '../onnx/model.ts';
import { isQuantizedOperator } from '../onnx/operators.ts';
import { parseModelHeaders } from '../onnx/reader.ts';
import type { ModelSummary } from '../onnx/summary.ts';

/** What is kept of a model's summary. */
export type ModelDescription = Omit<ModelSummary, 'externalFiles'>;

/**
 * Checks that every tensor with external data finds it within the files that came.
 * @param sizes of the external files, by path
 * @throws HalftoneError `external-data-missing`, `external-data-range`
 */
export function checkExternalData(path: string, sizes: ReadonlyMap<string, number>): void {
  const { model } = parseModelHeaders(fileBytes(path));
  for (const tensor of tensorsOf(model)) {
    if (tensor.data.kind !== 'file') continue;
    const { path: file, offset, length } = tensor.data;
    const size = sizes.get(file);
    if (size === undefined) {
      throw new HalftoneError(
        'external-data-missing',
        `Tensor '${tensor.name}' has its data in '${file}', which was not sent with the model.`,
      );
    }
    if (offset + length > size) {
      throw new HalftoneError(
        'external-data-range',
        `Tensor '${tensor.name}' has its data at bytes ${offset} to ${offset + length} of '${file}', which has ${size} bytes.`,
      );
    }
  }
}

function* tensorsOf(model: Model): Generator<Tensor> {
  for (const graph of allGraphs(model.graph)) {
    yield* graph.initializers.values();
    for (const node of graph.nodes) {
      for (const attribute of node.attributes.values()) {
        if (attribute.kind === 'tensor') yield attribute.value;
        else if (attribute.kind === 'tensors') yield* attribute.value;
      }
    }
  }
}

/** Why no job can be made of a model; null where one can. */
export function refusal(description: ModelDescription): { code: 'already-quantized'; detail: string } | null {
  if (!description.alreadyQuantized) return null;
  const found = Object.entries(description.operators)
    .filter(([name]) => isQuantizedOperator(name.split('.').at(-1)!))
    .slice(0, 5)
    .map(([name, count]) => `${count} ${name}`);
  return { code: 'already-quantized', detail: `The model has ${found.join(', ')}. Send the float model that it was made from.` };
}
