import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Model } from '../../onnx/model.ts';
import { type WrittenFile, writeModel } from '../../onnx/writer.ts';

/** The end of the stage `emit`: the model file, first, and its external data beside it; makes their folder. Errors: those of `writeModel`. */
export async function writeVariant(model: Model, path: string): Promise<WrittenFile[]> {
  await mkdir(dirname(path), { recursive: true });
  return (await writeModel(model, path)).files;
}
