import { HalftoneError } from '../../domain/errors.ts';
import type { ProfiledNode, Runner, TensorValue } from '../../domain/runner.ts';
import { floats } from '../quality.ts';

export interface GateResult {
  /** Kernel → nodes that ran it, from the runtime's own profile. */
  ran: Record<string, number>;
  nodes: ProfiledNode[];
  outputs: Record<string, TensorValue>[];
}

/** Whether all values of a float tensor are finite; true for other types. */
function isFinite32(value: TensorValue): boolean {
  if (value.type !== 'float32') return true;
  return floats(value).every(Number.isFinite);
}

/**
 * The gate that every file passes before anyone sees it: loaded from disk in the runtime it is for, with the options a user
 * would have, and run on real input.
 *
 * 1. It loads (else `gate-load` with the runtime's words).
 * 2. Inputs and outputs have the float model's names, types and dimensions (else `gate-io-changed`).
 * 3. It runs, and all outputs are finite where the float model's are (else `gate-not-finite`).
 * 4. The kernels that ran are read from the profile.
 */
export async function gate(
  runner: Runner,
  path: string,
  float: { inputs: unknown; outputs: unknown },
  feeds: Record<string, TensorValue>[],
  options: { threads: number; workDir: string },
): Promise<GateResult> {
  const words = (cause: unknown) => (cause instanceof Error ? cause.message : String(cause));
  const session = await runner
    .open(path, { threads: options.threads, profilePrefix: `${options.workDir}/gate` })
    .catch((cause: unknown) => {
      throw new HalftoneError('gate-load', `the runtime refuses the file: ${words(cause)}`, { cause });
    });
  try {
    if (JSON.stringify([session.inputs, session.outputs]) !== JSON.stringify([float.inputs, float.outputs])) {
      throw new HalftoneError(
        'gate-io-changed',
        `expected ${JSON.stringify([float.inputs, float.outputs])}, got ${JSON.stringify([session.inputs, session.outputs])}`,
      );
    }
    const outputs: Record<string, TensorValue>[] = [];
    for (const feed of feeds) {
      const result = await session.run(feed).catch((cause: unknown) => {
        throw new HalftoneError('gate-load', `the file loads but does not run: ${words(cause)}`, { cause });
      });
      for (const [name, value] of Object.entries(result)) {
        if (!isFinite32(value)) throw new HalftoneError('gate-not-finite', `output ${name} holds NaN or Inf`);
      }
      outputs.push(result);
    }
    const nodes = await session.endProfile();
    const ran: Record<string, number> = {};
    for (const node of nodes) ran[node.operator] = (ran[node.operator] ?? 0) + 1;
    return { ran, nodes, outputs };
  } finally {
    session.close();
  }
}
