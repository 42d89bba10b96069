/** Artifacts: what a job made, described by its manifest and downloaded whole or in parts. */
import type { Readable } from 'node:stream';
import { HalftoneError } from '../domain/errors.ts';
import type { ByteRange } from '../domain/objects.ts';
import { type ArtifactRecord, results, type StoredFile } from '../store/db/index.ts';
import { tarStream } from '../store/objects/index.ts';
import { collect } from '../store/publish.ts';
import type { ServiceContext } from './context.ts';
import { artifactHref } from './job-view.ts';

export interface ArtifactView {
  id: string;
  job: string;
  variant: string;
  model: string;
  /** Of what href sends. */
  sizeBytes: number;
  sha256: string;
  href: string;
  /** The model first, then its external data; each can be fetched by itself. */
  files: (StoredFile & { href: string })[];
  manifest: Record<string, unknown>;
  createdAt: string;
}

/** Bytes to be sent: addressed by their hash, so that the tag is strong and the length known. */
export interface Content {
  sha256: string;
  sizeBytes: number;
  contentType: string;
  filename: string;
  /** A URL of the store's own for all of it; null where it is sent from here. */
  presign(seconds: number): Promise<string | null>;
  open(range: ByteRange): Promise<Readable>;
}

const view = (row: ArtifactRecord): ArtifactView => ({
  id: row.id,
  job: row.jobId,
  variant: row.variantId,
  model: row.modelId,
  sizeBytes: row.sizeBytes,
  sha256: row.sha256,
  href: artifactHref(row.id),
  files: row.files.map((file) => ({
    ...file,
    href: `${artifactHref(row.id)}/${file.path.split('/').map(encodeURIComponent).join('/')}`,
  })),
  manifest: row.manifest,
  createdAt: row.createdAt.toISOString(),
});

const ONNX_TYPE = 'application/octet-stream';

export class ArtifactService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  async #row(id: string): Promise<ArtifactRecord> {
    const row = await results.getArtifact(this.#context.db.client, id);
    if (row === null) throw new HalftoneError('not-found', `There is no artifact ${id}.`);
    return row;
  }

  async get(id: string): Promise<ArtifactView> {
    return view(await this.#row(id));
  }

  /** The model file; where there is external data, one .tar of all files (`model.onnx` first), laid out anew for each request and always alike. */
  async content(id: string): Promise<Content> {
    const row = await this.#row(id);
    if (row.files.length === 1) return this.#file(row.files[0]!, `${row.id}.onnx`);
    return {
      sha256: row.sha256,
      sizeBytes: row.sizeBytes,
      contentType: 'application/x-tar',
      filename: `${row.id}.tar`,
      presign: async () => null,
      open: async (range) => tarStream(row.files, (entry, part) => this.#context.objects.read(entry.sha256, part), range),
    };
  }

  /** One of its files, by its relative path. */
  async part(id: string, path: string): Promise<Content> {
    const row = await this.#row(id);
    const file = row.files.find((candidate) => candidate.path === path);
    if (file === undefined)
      throw new HalftoneError('not-found', `The artifact has no file ${path}; it has ${row.files.map((f) => f.path).join(', ')}.`);
    return this.#file(file, path.split('/').at(-1)!);
  }

  #file(file: StoredFile, filename: string): Content {
    const { objects } = this.#context;
    return {
      sha256: file.sha256,
      sizeBytes: file.sizeBytes,
      contentType: ONNX_TYPE,
      filename,
      presign: (seconds) => objects.presign(file.sha256, seconds, { filename, contentType: ONNX_TYPE }),
      open: (range) => objects.read(file.sha256, range),
    };
  }

  /** Deletes the bytes; the variant and its figures stay with the job. */
  async remove(id: string): Promise<void> {
    const hashes = await this.#context.db.transaction((tx) => results.removeArtifact(tx, id));
    if (hashes === null) throw new HalftoneError('not-found', `There is no artifact ${id}.`);
    await collect(this.#context, hashes);
  }
}
