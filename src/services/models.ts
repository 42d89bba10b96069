/** Models: uploaded, described from their headers, deleted. */
import { createHash } from 'node:crypto';
import { HalftoneError } from '../domain/errors.ts';
import { LIMITS } from '../domain/limits.ts';
import type { ElementType, ValueSignature } from '../domain/runner.ts';
import { ELEMENT_BYTES } from '../evaluate/elements.ts';
import type { ModelSummary } from '../onnx/summary.ts';
import { jobs, type ModelRecord, models, type StoredFile, type Tx } from '../store/db/index.ts';
import { collect, publish } from '../store/publish.ts';
import type { ServiceContext } from './context.ts';
import { type ModelDescription, modelHeaders } from './model-headers.ts';
import { type Page, type PageRequest, page } from './pages.ts';
import { type LocalStagedObject, stageLocally } from './uploads.ts';

/** What the model file is called wherever files have names: in a .tar, in the folder that a job's process reads. */
const MODEL_FILE = 'model.onnx';

export interface ModelView extends ModelDescription {
  id: string;
  name: string;
  /** Of the model file. */
  sha256: string;
  /** Of all files. */
  sizeBytes: number;
  /** The model file first, then its external data. */
  files: StoredFile[];
  createdAt: string;
}

/** A row's description; what `modelHeaders` gave when the bytes came. */
export function modelDescriptionOf(row: ModelRecord): ModelDescription {
  return row.description as unknown as ModelDescription;
}

/** Texts and types that no .npz holds are `other`; an output whose type the file leaves out counts as what most are, and the job sees which it is. */
const signatures = (values: ModelDescription['inputs']): ValueSignature[] =>
  values.map(({ name, type, shape }) => ({
    name,
    type: type in ELEMENT_BYTES ? (type as ElementType) : type === 'unknown' ? 'float32' : 'other',
    dims: (shape ?? []).map((dim) => dim ?? -1),
  }));
export const modelInputs = (description: ModelDescription) => signatures(description.inputs);
export const modelOutputs = (description: ModelDescription) => signatures(description.outputs);

const view = (row: ModelRecord): ModelView => {
  return {
    id: row.id,
    name: row.name,
    sha256: row.sha256,
    sizeBytes: row.sizeBytes,
    files: row.files,
    ...modelDescriptionOf(row),
    createdAt: row.createdAt.toISOString(),
  };
};

/** One file of an upload, in the order it comes. */
export interface UploadedFile {
  /** Null = the model itself, which comes first; otherwise the relative path under which the model names its external data. */
  path: string | null;
  body: AsyncIterable<Uint8Array>;
  expectedBytes?: number;
}

/** A model's bytes that are here, but not yet a model. */
export interface ReceivedModel {
  /** Of all files and their names. */
  contentSha256: string;
  files: { path: string; staged: LocalStagedObject }[];
  description: ModelDescription;
  discard(): Promise<void>;
}

/** One hash for all files: the same bytes under the same names, in whatever order they came. */
function contentHash(files: readonly StoredFile[]): string {
  const hash = createHash('sha256');
  for (const { path, sizeBytes, sha256 } of files) hash.update(`${sizeBytes} ${sha256} ${JSON.stringify(path)}\n`);
  return hash.digest('hex');
}

/** The relative path of an external file in its normal form. */
function externalPath(field: string): string {
  const refuse = (why: string) => new HalftoneError('external-data-path', `The part ${JSON.stringify(field.slice(0, 200))} ${why}.`);
  if (field.length > 1024) throw refuse('has a name longer than 1024 characters');
  if (field.includes('\0') || field.includes('\\') || field.startsWith('/') || /^[A-Za-z]:/.test(field)) {
    throw refuse('must be named by a relative path with forward slashes');
  }
  const parts = field.split('/').filter((part) => part !== '.' && part !== '');
  if (parts.length === 0 || parts.includes('..')) throw refuse('must be named by a path inside the model’s folder');
  const path = parts.join('/');
  if (path === MODEL_FILE) throw refuse('has the name of the model itself; save the external data under another name');
  return path;
}

const stored = ({ path, staged }: { path: string; staged: LocalStagedObject }): StoredFile => ({
  path,
  sha256: staged.sha256,
  sizeBytes: staged.sizeBytes,
});

export class ModelService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Takes a model's files and reads its headers; no row is written yet. Discard it in every case.
   * @throws HalftoneError what the reader says of a file that is no sound model; nothing of the bytes is kept then
   */
  async receive(upload: AsyncIterable<UploadedFile>, signal?: AbortSignal): Promise<ReceivedModel> {
    const files: { path: string; staged: LocalStagedObject }[] = [];
    const discard = async () => {
      await Promise.all(files.map(({ staged }) => staged.discard()));
    };
    try {
      let left = this.#context.maxModelBytes;
      let summary: ModelSummary | null = null;
      for await (const { path: field, body, expectedBytes } of upload) {
        if (files.length === 0 ? field !== null : field === null) {
          throw new HalftoneError('malformed-body', 'The first part, and no other, must be called `model`.');
        }
        if (files.length > LIMITS.modelFiles) {
          throw new HalftoneError('payload-too-large', `The upload has more than ${LIMITS.modelFiles} external-data files.`);
        }
        const path = field === null ? MODEL_FILE : externalPath(field);
        if (files.some((file) => file.path === path)) throw new HalftoneError('malformed-body', `The part ${path} came twice.`);
        // What the model names is known by now: a stray file of many gigabytes need not be taken in first.
        if (summary !== null && !summary.externalFiles.includes(path)) {
          throw new HalftoneError('validation-failed', `The model has no external data in ${JSON.stringify(path)}.`, {
            errors: [{ pointer: `/${path.replaceAll('~', '~0').replaceAll('/', '~1')}`, detail: 'is not named by the model' }],
          });
        }
        const staged = await stageLocally(this.#context, body, {
          maxBytes: left,
          ...(expectedBytes === undefined ? {} : { expectedBytes }),
          ...(signal ? { signal } : {}),
        });
        files.push({ path, staged });
        left -= staged.sizeBytes;
        summary ??= await modelHeaders({ path: staged.localPath, externalSizes: null });
      }
      const [main, ...external] = files;
      if (main === undefined || summary === null) throw new HalftoneError('malformed-body', 'The body has no part `model`.');
      external.sort((a, b) => (a.path < b.path ? -1 : 1));
      const { externalFiles, ...described } = summary;
      // The one free text of a model that is kept; the database takes no NUL in it.
      const description = { ...described, producer: described.producer.replaceAll('\0', '') };
      if (externalFiles.length > 0) {
        const externalSizes = new Map(external.map(({ path, staged }) => [path, staged.sizeBytes]));
        await modelHeaders({ path: main.staged.localPath, externalSizes });
      }
      const ordered = [main, ...external];
      return { contentSha256: contentHash(ordered.map(stored)), files: ordered, description, discard };
    } catch (error) {
      await discard();
      throw error;
    }
  }

  /** Makes the model, or gives the living one of the same files. */
  async accept(
    received: ReceivedModel,
    name: string,
    commit: (tx: Tx, model: ModelView, created: boolean) => Promise<void> = async () => undefined,
  ): Promise<{ model: ModelView; created: boolean }> {
    return publish(
      this.#context,
      received.files.map(({ staged }) => staged),
      async (tx) => {
        const { model, created } = await models.create(tx, {
          name,
          contentSha256: received.contentSha256,
          description: { ...received.description },
          files: received.files.map(stored),
        });
        const shown = view(model);
        await commit(tx, shown, created);
        return { model: shown, created };
      },
    );
  }

  async list(request: PageRequest): Promise<Page<ModelView>> {
    return page(
      'models',
      request,
      (query) => models.list(this.#context.db.client, query),
      (rows) => rows.map(view),
    );
  }

  async get(id: string): Promise<ModelView> {
    const row = await models.get(this.#context.db.client, id);
    if (row === null || row.deletedAt !== null) throw new HalftoneError('not-found', `There is no model ${id}.`);
    return view(row);
  }

  /** @throws HalftoneError `in-use` while a job that has not ended works on it */
  async remove(id: string): Promise<void> {
    const hashes = await this.#context.db.transaction(async (tx) => {
      const gone = await models.markDeleted(tx, id);
      if (gone === null) throw new HalftoneError('not-found', `There is no model ${id}.`);
      // Counted after the row is locked: whoever makes a job locks it too.
      const active = await jobs.countActive(tx, { modelId: id });
      if (active > 0) throw new HalftoneError('in-use', `Jobs on the model that have not ended: ${active}.`);
      return gone;
    });
    await collect(this.#context, hashes);
  }
}
