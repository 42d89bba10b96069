/** Models and their files. A deleted model keeps its row (jobs name it) and loses its files. */
import { newId } from '../../domain/ids.ts';
import { json, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import type { ModelRecord, PageQuery, StoredFile } from './records.ts';

const include = { files: { orderBy: { position: 'asc' } } } as const satisfies Prisma.ModelInclude;
type Row = Prisma.ModelGetPayload<{ include: typeof include }>;

const record = (row: Row): ModelRecord => ({
  id: row.id,
  name: row.name,
  sha256: row.sha256,
  contentSha256: row.contentSha256,
  sizeBytes: Number(row.sizeBytes),
  description: row.description as Record<string, unknown>,
  createdAt: row.createdAt,
  deletedAt: row.deletedAt,
  files: row.files.map((file) => ({ path: file.path, sha256: file.sha256, sizeBytes: Number(file.sizeBytes) })),
});

export interface NewModel {
  name: string;
  contentSha256: string;
  description: Record<string, unknown>;
  /** The model file first. */
  files: StoredFile[];
}

/** Makes a model, or gives the living one with the same content (`created` false; it keeps its name). Call it inside `publish` of ../publish.ts. */
export async function create(tx: Tx, model: NewModel): Promise<{ model: ModelRecord; created: boolean }> {
  const id = newId('model');
  const { count } = await tx.model.createMany({
    data: [
      {
        id,
        name: model.name,
        sha256: model.files[0]!.sha256,
        contentSha256: model.contentSha256,
        liveKey: model.contentSha256,
        sizeBytes: BigInt(model.files.reduce((sum, file) => sum + file.sizeBytes, 0)),
        description: json(model.description),
      },
    ],
    skipDuplicates: true,
  });
  if (count === 1) {
    await tx.modelFile.createMany({
      data: model.files.map((file, position) => ({ modelId: id, position, ...file, sizeBytes: BigInt(file.sizeBytes) })),
    });
  }
  const row = await tx.model.findUniqueOrThrow({ where: { liveKey: model.contentSha256 }, include });
  return { model: record(row), created: count === 1 };
}
/** Deleted ones too: see `deletedAt`. */
export async function get(tx: Tx, id: string): Promise<ModelRecord | null> {
  const row = await tx.model.findUnique({ where: { id }, include });
  return row && record(row);
}
/** Living models, newest first. */
export async function list(tx: Tx, page: PageQuery): Promise<ModelRecord[]> {
  const where = { deletedAt: null, ...(page.before ? { id: { lt: page.before } } : {}) };
  return (await tx.model.findMany({ where, orderBy: { id: 'desc' }, take: page.limit, include })).map(record);
}
/**
 * Marks a living model deleted and takes its files' rows away. Returns their hashes, to be collected (../publish.ts)
 * after the commit; null where there is no living model. The row is locked, so that no job is made on it meanwhile.
 */
export async function markDeleted(tx: Tx, id: string): Promise<string[] | null> {
  const { count } = await tx.model.updateMany({ where: { id, deletedAt: null }, data: { deletedAt: new Date(), liveKey: null } });
  if (count === 0) return null;
  const files = await tx.modelFile.findMany({ where: { modelId: id }, select: { sha256: true } });
  await tx.modelFile.deleteMany({ where: { modelId: id } });
  return files.map((file) => file.sha256);
}
/** Locks a living model's row against deletion until the transaction ends; false where it is not there or deleted. For those who make a job on it. */
export async function lockLiving(tx: Tx, id: string): Promise<boolean> {
  return (await tx.$queryRaw<unknown[]>`select 1 from models where id = ${id} and deleted_at is null for share`).length === 1;
}
