import type { Model } from '../onnx/model.ts';
import { upgradeOpset } from '../onnx/opset.ts';
import { readModel } from '../onnx/reader.ts';
import { checkModel, refuseQuantized } from '../onnx/validate.ts';

/** Opset that all recipes start from: per-channel DequantizeLinear came with it. */
const LEAST_OPSET = 13;

/** What `readFloatModel` has let through. */
export type FloatModel = Model;

/**
 * The stage `read`: a float model from its file.
 *
 * 1. It is an ONNX file within the limits, its external data where it says (errors of `readModel`).
 * 2. Its graph is sound (errors of `checkModel`), and nothing in it is quantized yet (`already-quantized`).
 * 3. An opset under 13 is upgraded: one model for all that follows (errors of `upgradeOpset`).
 */
export async function readFloatModel(path: string): Promise<FloatModel> {
  const model = await readModel(path);
  checkModel(model);
  refuseQuantized(model);
  return (model.opsets.get('') ?? LEAST_OPSET) < LEAST_OPSET ? upgradeOpset(model, LEAST_OPSET) : model;
}
