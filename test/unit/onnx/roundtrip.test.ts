/** Real models, read and written: the same outputs in ONNX Runtime; and every shape as inferred. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ElementType, TensorValue } from '../../../src/domain/runner.ts';
import { type Dim, feedInputs } from '../../../src/onnx/model.ts';
import { upgradeOpset } from '../../../src/onnx/opset.ts';
import { readModel } from '../../../src/onnx/reader.ts';
import { inferShapes } from '../../../src/onnx/shapes.ts';
import { summarizeModel } from '../../../src/onnx/summary.ts';
import { byteLengthOf, dataTypeName, elementCount } from '../../../src/onnx/tensor.ts';
import { checkModel } from '../../../src/onnx/validate.ts';
import { writeModel } from '../../../src/onnx/writer.ts';
import { float32Of, floats, packagedModels, run, sharedModels, temporaryFolder } from './build.ts';

const folder = temporaryFolder();
const shared = sharedModels();
if (shared.length === 0) console.info('round trip of the shared models: left out, there is no ../shared/models here');

/** A size for a free dimension that the model's own shape arithmetic can live with. */
function sizeOf(model: string, dim: Dim, axis: number): number {
  if (typeof dim === 'number') return dim;
  if (/rec/.test(model)) return axis === 3 ? 160 : 1;
  if (/det/.test(model)) return axis === 0 ? 1 : 64;
  if (/cls/.test(model)) return [1, 3, 48, 192][axis]!;
  if (/vad/.test(model)) return axis === 1 && dim !== 'batch' && !/^(h|c|state)$/.test(String(dim)) ? 576 : 1;
  return dim !== null && /[HW]/.test(dim) ? 32 : 1;
}

/** As toEqual, which takes seconds for a megabyte. */
function expectSame(got: Record<string, TensorValue>, expected: Record<string, TensorValue>): void {
  const outline = (values: Record<string, TensorValue>) => Object.entries(values).map(([name, { type, dims }]) => ({ name, type, dims }));
  expect(outline(got)).toEqual(outline(expected));
  for (const [name, { bytes }] of Object.entries(expected)) expect(Buffer.compare(bytes, got[name]!.bytes)).toBe(0);
}

describe('every model at hand', () => {
  it.each([...packagedModels(), ...shared])(
    '%s',
    async (name, path) => {
      const model = await readModel(path);
      checkModel(model);
      const summary = await summarizeModel(path);
      expect(summary.alreadyQuantized).toBe(name === 'mobilenet_v2_qdq_prequantized');
      const feeds: Record<string, TensorValue> = {};
      for (const input of feedInputs(model.graph)) {
        const { elemType, shape = [] } = input.type!;
        const dims = shape.map((dim, axis) => (shape.length === 3 && dim === null ? 1 : sizeOf(name, dim, axis)));
        const type = dataTypeName(elemType) as ElementType;
        const bytes = new Uint8Array(byteLengthOf(elemType, elementCount(dims)));
        // Whole numbers: all 0 but the first, and the sampling rate.
        if (input.name === 'sr') new BigInt64Array(bytes.buffer)[0] = 16000n;
        else bytes.fill(1, 0, 1);
        feeds[input.name] = type === 'float32' ? floats(dims) : { type, dims, bytes };
      }
      const expected = await run(path, feeds, 'all');
      const types = inferShapes(model, new Map(Object.entries(feeds).map(([input, { dims }]) => [input, dims])));
      for (const [output, tensor] of Object.entries(expected)) {
        // Through nested Ifs a size may stay unknown; what is known must be right.
        const shape = types.get(output)?.shape;
        expect(shape?.map((dim, axis) => dim ?? tensor.dims[axis])).toEqual(tensor.dims);
      }

      const written = join(folder, `${name}.onnx`);
      const { files } = await writeModel(model, written);
      expect(files.length).toBe(1);
      expectSame(await run(written, feeds, 'all'), expected);
      // Again from what was written: the same bytes.
      expect((await writeModel(await readModel(written), written)).files[0]!.sha256).toBe(files[0]!.sha256);
      await writeModel(model, written, { externalDataThresholdBytes: 1024 });
      expectSame(await run(written, feeds, 'all'), expected);

      await writeModel(upgradeOpset(model, 21), written);
      const upgraded = await run(written, feeds, 'all');
      for (const [output, tensor] of Object.entries(expected)) {
        expect(upgraded[output]!.dims).toEqual(tensor.dims);
        if (tensor.type !== 'float32') continue;
        const [a, b] = [float32Of(tensor), float32Of(upgraded[output]!)];
        // Softmax over rows and over a matrix sum in another order.
        for (let i = 0; i < a.length; i++)
          if (!(Math.abs(a[i]! - b[i]!) <= 1e-5 * Math.max(1, Math.abs(a[i]!)))) throw new Error(`${output}[${i}]: ${a[i]} became ${b[i]}`);
      }
    },
    60_000,
  );
});
