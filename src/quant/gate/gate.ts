import { HalftoneError } from '../../domain/errors.ts';
import type { ProfiledNode, Runner, Session, TensorValue } from '../../domain/runner.ts';
import { floats } from '../quality.ts';

export interface GateResult {
  /** Kernel → nodes that ran it, from the runtime's own profile. */
  ran: Record<string, number>;
  nodes: ProfiledNode[];
  outputs: Record<string, TensorValue>[];
}

/** Index of the first value of a float tensor that is NaN or infinite; −1 = none, as in tensors of other types. */
function firstNotFinite(value: TensorValue, from = 0): number {
  if (value.type !== 'float32') return -1;
  const x = floats(value);
  for (let i = from; i < x.length; i++) if (!Number.isFinite(x[i]!)) return i;
  return -1;
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
  float: Pick<Session, 'inputs' | 'outputs' | 'run'>,
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
      const strange = Object.entries(result).filter(([, value]) => firstNotFinite(value) >= 0);
      // Some models say −∞ where they mean never: only what the float model does not say is a fault.
      const expected = strange.length
        ? await float.run(
            feed,
            strange.map(([name]) => name),
          )
        : {};
      for (const [name, value] of strange) {
        const reference = floats(expected[name]!);
        for (let i = firstNotFinite(value); i >= 0; i = firstNotFinite(value, i + 1)) {
          if (Number.isFinite(reference[i] ?? 0))
            throw new HalftoneError('gate-not-finite', `output ${name} holds NaN or Inf where the float model’s is finite`);
        }
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
