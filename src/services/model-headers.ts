/**
 * A model as its headers tell it: what the API shows of it and what is checked before a job is made. Tensors' bytes are not
 * touched. A hundred thousand nodes take two seconds to read, and a file may be made to take longer: so it is done in a
 * thread, with a limit of time and memory, while the API goes on answering.
 */
import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { type ErrorCode, HalftoneError } from '../domain/errors.ts';
import { fileBytes } from '../onnx/bytes.ts';
import { allGraphs } from '../onnx/graph.ts';
import type { Model, Tensor } from '../onnx/model.ts';
import { isQuantizedOperator } from '../onnx/operators.ts';
import { parseModelHeaders } from '../onnx/reader.ts';
import { type ModelSummary, summarizeModel } from '../onnx/summary.ts';

/** What is kept of a model's summary. */
export type ModelDescription = Omit<ModelSummary, 'externalFiles'>;

export interface HeaderRequest {
  path: string;
  /** Sizes of the external files that came with it, by path; null = not to be checked yet. */
  externalSizes: Map<string, number> | null;
}
export type HeaderAnswer = { summary: ModelSummary } | { refusal: { code: ErrorCode; detail: string } };

/** The largest graph that the reader takes needs some seconds and half a gigabyte. */
const DEADLINE_MS = 60_000;
const HEAP_MB = 2048;

/** The thread's program, beside this one once it is compiled; a process that runs from the sources reads headers by itself. */
const THREAD = new URL('./headers-thread.js', import.meta.url);

/**
 * Reads and checks a model file's headers.
 * @throws HalftoneError as `summarizeModel`; `external-data-missing`, `external-data-range`; `model-limit-exceeded` where it takes too long or too much
 */
export async function modelHeaders(request: HeaderRequest): Promise<ModelSummary> {
  if (!existsSync(THREAD)) return readHeaders(request);
  const thread = new Worker(THREAD, { workerData: request, resourceLimits: { maxOldGenerationSizeMb: HEAP_MB } });
  let timer: NodeJS.Timeout | undefined;
  try {
    const answer = await new Promise<HeaderAnswer>((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', (error: Error & { code?: string }) => {
        reject(
          error.code === 'ERR_WORKER_OUT_OF_MEMORY'
            ? new HalftoneError('model-limit-exceeded', `The model’s graph takes more than ${HEAP_MB} MB to read.`, { cause: error })
            : error,
        );
      });
      thread.once('exit', (code) => reject(new Error(`the thread that read the headers ended with ${code}`)));
      timer = setTimeout(() => {
        reject(new HalftoneError('model-limit-exceeded', `The model’s graph takes longer than ${DEADLINE_MS / 1000} s to read.`));
      }, DEADLINE_MS);
    });
    if ('refusal' in answer) throw new HalftoneError(answer.refusal.code, answer.refusal.detail);
    return answer.summary;
  } finally {
    clearTimeout(timer);
    await thread.terminate();
  }
}

/** What the thread does. */
export async function readHeaders({ path, externalSizes }: HeaderRequest): Promise<ModelSummary> {
  const summary = await summarizeModel(path);
  if (externalSizes !== null && summary.externalFiles.length > 0) checkExternalData(path, externalSizes);
  return summary;
}

/** Checks that every tensor with external data finds it within the files that came. */
function checkExternalData(path: string, sizes: ReadonlyMap<string, number>): void {
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
