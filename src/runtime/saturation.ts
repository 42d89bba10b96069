/** Whether this processor's integer kernels saturate. */
import type { Runner } from '../domain/runner.ts';

/**
 * ONNX (opset 10): y = MatMulInteger(a, w), a: uint8 [2, 4], w: int8 [4, 16], all 127, an initializer. Made with onnx's helper and
 * kept as bytes (what stands before the weights, the weights, the rest), since this room does not know the file format.
 */
const MODEL = Buffer.concat([
  Buffer.from('CAU6nQEKGAoBYQoBdxIBeSINTWF0TXVsSW50ZWdlchIKc2F0dXJhdGlvbipLCAQIEBADQgF3SkA=', 'base64'),
  Buffer.alloc(64, 127),
  Buffer.from('WhMKAWESDgoMCAISCAoCCAIKAggEYhMKAXkSDgoMCAYSCAoCCAIKAggQQgQKABAK', 'base64'),
]);
/** 4 · 255 · 127. */
const EXACT = 129_540;
/** Two pairs of products, each sum cut to 16 bits: 2 · 32767. */
const SATURATED = 65_534;

/**
 * Runs a product of extreme values and looks what came out: true where the runtime's u8×s8 kernels add pairs of products in 16
 * bits with saturation (x86 without VNNI: fact `u8s8-saturates`), false where they are exact. Throws an Error on any other sum.
 */
export async function probeSaturation(runner: Runner): Promise<boolean> {
  const session = await runner.open(MODEL, { threads: 1 });
  try {
    const { y } = await session.run({ a: { type: 'uint8', dims: [2, 4], bytes: new Uint8Array(8).fill(255) } });
    const sums = new Int32Array(y!.bytes.buffer, y!.bytes.byteOffset, y!.bytes.byteLength / 4);
    if (sums.every((sum) => sum === EXACT)) return false;
    if (sums.every((sum) => sum === SATURATED)) return true;
    throw new Error(`4·255·127 came out as ${sums[0]}, neither ${EXACT} nor ${SATURATED}: unknown integer arithmetic`);
  } finally {
    session.close();
  }
}
