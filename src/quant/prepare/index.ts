/**
 * The stage `prepare`: any float model → the same function in a form that the other stages can read: constants are
 * initializers, batch norms and scales lie in the weights, one spelling for each thing, nothing dead.
 */
import type { Runner } from '../../domain/runner.ts';
import { cloneModel, ensureNodeNames, NamePool } from '../../onnx/graph.ts';
import { feedInputs, type Model, type TensorType } from '../../onnx/model.ts';
import { upgradeOpset } from '../../onnx/opset.ts';
import { inferShapes, inferShapesAndValues } from '../../onnx/shapes.ts';
import { foldBatchNorm } from './batch-norm.ts';
import { canonicalForms } from './canonical.ts';
import { constantsToInitializers } from './constants.ts';
import { removeDead } from './dead-code.ts';
import { equalize } from './equalize.ts';
import { foldConstants } from './fold-constants.ts';
import { foldShapes } from './fold-shapes.ts';
import { inlineIf } from './inline-if.ts';
import { removeNoOps } from './no-ops.ts';
import { ensureSound, type Pass, signature } from './pass.ts';
import { Rewriter } from './rewriter.ts';
import { foldScaleAfter, foldScaleBefore } from './scale-shift.ts';
import { mergeTransposes } from './transposes.ts';

/** Per-channel quantization needs DequantizeLinear's axis, which came with opset 13. */
const OPSET = 13;
/** Rounds of the passes that feed each other; real models settle after two or three. */
const ROUNDS = 8;

const ONCE: Pass[] = [constantsToInitializers, removeDead];
const REPEATED: Pass[] = [
  removeNoOps,
  foldShapes,
  foldConstants,
  inlineIf,
  removeDead,
  canonicalForms,
  mergeTransposes,
  foldScaleAfter,
  foldBatchNorm,
  foldScaleBefore,
  removeDead,
];

export interface PrepareOptions {
  runner: Runner;
  /** Whether cross-layer equalization is done at the end (also a function of its own: `equalize`). */
  equalize: boolean;
}

export interface Prepared {
  model: Model;
  /** For the report: what was done, one line a kind. */
  notes: string[];
  /** Node name → name of the node in the user's model that it stands for. */
  origin: Map<string, string>;
}

/**
 * Prepares a model for quantization. The model that comes in is not changed; tensors that stay as they are share memory
 * with it.
 * 1. Opset at least 13; every node has a name, names that were there stay.
 * 2. The passes above run in their order, the second list until nothing changes any more; each one's own comment has its rules.
 * 3. Postconditions, checked: after each pass the graph is sound (`ensureSound`); at the end inputs and outputs have the
 *    names, types and free dimensions that they came with.
 * Errors: those of `upgradeOpset` (opset-unsupported) and `ensureNodeNames`; anything else is a bug.
 */
export async function prepare(model: Model, options: PrepareOptions): Promise<Prepared> {
  const inputs = feedInputs(model.graph).map((input) => input.name);
  const before = signature(model, inputs);
  const named = cloneModel(model);
  ensureNodeNames(named);
  const original = new Set(named.graph.nodes.map((node) => node.name));
  let copy = (named.opsets.get('') ?? OPSET) < OPSET ? upgradeOpset(named, OPSET) : named;
  const origin = new Map<string, string>();
  const counts = new Map<Pass, number>();
  const notes: string[] = [];
  const opset = named.opsets.get('') ?? OPSET;
  if (opset < OPSET) notes.push(`opset ${opset} upgraded to ${OPSET}`);

  const names = new NamePool(copy.graph);
  const apply = async (pass: Pass): Promise<number> => {
    const rewriter = new Rewriter(copy, origin, names);
    let known: ReturnType<typeof inferShapesAndValues> | null = null;
    const infer = () => {
      known ??= inferShapesAndValues(withoutClaims(copy));
      return known;
    };
    const changes = await pass.run(rewriter, {
      runner: options.runner,
      types: () => infer().types,
      values: () => infer().values,
      note: (line) => {
        if (!notes.includes(line)) notes.push(line);
      },
    });
    if (changes > 0) {
      rewriter.commit();
      ensureSound(copy, pass.name);
      counts.set(pass, (counts.get(pass) ?? 0) + changes);
    }
    return changes;
  };

  for (const pass of ONCE) await apply(pass);
  for (let round = 0; round < ROUNDS; round++) {
    let changes = 0;
    for (const pass of REPEATED) changes += await apply(pass);
    if (changes === 0) break;
  }
  if (options.equalize) {
    const equalized = equalize(copy);
    copy = equalized.model;
    notes.push(...equalized.notes);
  }
  ensureNodeNames(copy);
  if (signature(copy, inputs) !== before) throw new Error('prepare changed the model’s inputs or outputs');
  for (const node of copy.graph.nodes) if (!origin.has(node.name) && original.has(node.name)) origin.set(node.name, node.name);
  for (const [pass, count] of counts) {
    const line = pass.report(count);
    if (line) notes.push(line);
  }
  return { model: copy, notes, origin };
}

/** The model without what it states of inner shapes: exporters and batch-size tools leave stale ones behind, and a pass must not fold by them. */
function withoutClaims(model: Model): Model {
  const { graph } = model;
  const outputs = graph.outputs.map((output) => ({ ...output, type: null }));
  return { ...model, graph: { ...graph, outputs, valueInfo: new Map() } };
}

/** Type and shape of every value, as far as they can be told. */
export type ValueTypes = Map<string, TensorType>;

/** What the values of a prepared model are when its inputs have these shapes. */
export function valueTypes({ model }: Prepared, shapes: ReadonlyMap<string, readonly number[]>): ValueTypes {
  return inferShapes(model, shapes);
}
