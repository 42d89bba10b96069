/** Real models, read and written: the same outputs in ONNX Runtime; and every shape as inferred. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ElementType, TensorValue } from '../../../src/domain/runner.ts';
import { feedInputs } from '../../../src/onnx/model.ts';
import { upgradeOpset } from '../../../src/onnx/opset.ts';
import { readModel } from '../../../src/onnx/reader.ts';
import { inferShapes } from '../../../src/onnx/shapes.ts';
import { summarizeModel } from '../../../src/onnx/summary.ts';
import { byteLengthOf, dataTypeName, elementCount } from '../../../src/onnx/tensor.ts';
import { checkModel } from '../../../src/onnx/validate.ts';
import { writeModel } from '../../../src/onnx/writer.ts';
import { float32Of, floats, run, sharedModels, temporaryFolder } from './build.ts';

const folder = temporaryFolder();
const models = sharedModels();
if (models.length === 0) console.info('round trip of real models: skipped, there is no ../shared/models here');

/** Sizes for free dimensions that the models' own shape arithmetic can live with. */
const SIZES: Record<string, number> = { sequence: 576, batch: 1, 'p2o.DynamicDimension.1': 48, 'p2o.DynamicDimension.2': 192 };
const RECOGNISER_WIDTH = 160;

describe.skipIf(models.length === 0)('every shared model', () => {
  it.each(models)(
    '%s',
    async (name, path) => {
      const model = await readModel(path);
      checkModel(model);
      const summary = await summarizeModel(path);
      expect(summary.alreadyQuantized).toBe(name === 'mobilenet_v2_qdq_prequantized');
      const feeds: Record<string, TensorValue> = {};
      for (const input of feedInputs(model.graph)) {
        const size = (dim: string) =>
          name === 'ppocrv4_rec' && dim.endsWith('.1') ? RECOGNISER_WIDTH : (SIZES[dim] ?? (/[HW]/.test(dim) ? 32 : 1));
        const dims = (input.type?.shape ?? []).map((dim) => (typeof dim === 'number' ? dim : size(dim ?? '')));
        const type = dataTypeName(input.type!.elemType) as ElementType;
        feeds[input.name] =
          type === 'float32'
            ? floats(dims)
            : { type, dims, bytes: new Uint8Array(byteLengthOf(input.type!.elemType, elementCount(dims))).fill(1, 0, 1) };
      }
      const expected = await run(path, feeds);
      const types = inferShapes(model, new Map(Object.entries(feeds).map(([input, { dims }]) => [input, dims])));
      for (const [output, tensor] of Object.entries(expected)) expect(types.get(output)?.shape).toEqual(tensor.dims);

      const written = join(folder, `${name}.onnx`);
      const { files } = await writeModel(model, written);
      expect(files.length).toBe(1);
      expect(await run(written, feeds)).toEqual(expected);
      // Again from what was written: the same bytes.
      expect((await writeModel(await readModel(written), written)).files[0]!.sha256).toBe(files[0]!.sha256);
      await writeModel(model, written, { externalDataThresholdBytes: 1024 });
      expect(await run(written, feeds)).toEqual(expected);

      await writeModel(upgradeOpset(model, 21), written);
      const upgraded = await run(written, feeds);
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
