/** An empty database of the real kind for a test file, and the rows that most tests need. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { builtInProfiles } from '../../../src/domain/built-in-profiles.ts';
import type { ObjectStore } from '../../../src/domain/objects.ts';
import {
  type Database,
  type JobRecord,
  jobs,
  migrate,
  models,
  openDatabase,
  openDiskStore,
  profiles,
  publish,
  startEmbedded,
} from '../../../src/store/index.ts';

export interface TestStores {
  folder: string;
  url: string;
  db: Database;
  objects: ObjectStore;
  close(): Promise<void>;
}

export function temporaryFolder(): string {
  return mkdtempSync(path.join(os.tmpdir(), 'halftone-test-'));
}

/** Embedded PostgreSQL with our schema, and a disk store. */
export async function openTestStores(): Promise<TestStores> {
  const folder = temporaryFolder();
  const embedded = await startEmbedded({ dataDir: folder });
  await migrate(embedded.url);
  const db = openDatabase({ url: embedded.url });
  const objects = await openDiskStore(path.join(folder, 'objects'));
  return {
    folder,
    url: embedded.url,
    db,
    objects,
    async close() {
      await db.close();
      await embedded.release();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A compiled file, for tests that start processes: `npm test` has built it. HALFTONE_DIST names another build. */
export function built(file: string): string {
  const root = path.resolve(import.meta.dirname, '../../..');
  return path.resolve(root, process.env.HALFTONE_DIST ?? 'dist', file);
}

export const stream = (...chunks: (string | Uint8Array)[]): Readable => Readable.from(chunks.map((chunk) => Buffer.from(chunk)));

export async function text(readable: AsyncIterable<unknown>): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of readable) chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks).toString('latin1');
}

/** A model whose bytes nobody else has, published as uploads are. */
export async function makeModel(
  { db, objects }: TestStores,
  bytes: Uint8Array = randomBytes(64),
): Promise<models.NewModel & { id: string; sha256: string }> {
  const staged = await objects.stage(stream(bytes));
  const files = [{ path: 'model.onnx', sha256: staged.sha256, sizeBytes: staged.sizeBytes }];
  const model = { name: 'a model', contentSha256: staged.sha256, description: { opset: 17 }, files };
  const made = await publish({ db, objects }, [staged], (tx) => models.create(tx, model));
  return { ...model, id: made.model.id, sha256: staged.sha256 };
}

export async function makeJob(stores: TestStores, change: Partial<jobs.NewJob> = {}): Promise<JobRecord> {
  const modelId = change.modelId ?? (await makeModel(stores)).id;
  const host = await profiles.ensureBuiltIn(stores.db.client, builtInProfiles(null)[0]!);
  return stores.db.transaction((tx) =>
    jobs.create(tx, {
      modelId,
      calibrationId: null,
      evaluationId: null,
      recipes: [{ method: 'dynamic' }],
      metric: null,
      maxAccuracyDrop: 0.01,
      shapes: {},
      seed: 0,
      deviceProfiles: [host],
      webhookEndpointId: null,
      apiKeyId: null,
      ...change,
    }),
  );
}
