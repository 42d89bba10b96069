/** Data sets. A deleted one keeps its row (jobs name it). */
import { newId } from '../../domain/ids.ts';
import { json, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import type { DatasetRecord, PageQuery } from './records.ts';

const record = ({ liveKey: _, ...row }: Prisma.DatasetGetPayload<object>): DatasetRecord => ({
  ...row,
  sizeBytes: Number(row.sizeBytes),
  description: row.description as Record<string, unknown>,
});

export interface NewDataset {
  name: string;
  sha256: string;
  sizeBytes: number;
  samples: number;
  description: Record<string, unknown>;
}

/** Makes a data set, or gives the living one of the same bytes (`created` false; it keeps its name). Call it inside `publish` of ../publish.ts. */
export async function create(tx: Tx, dataset: NewDataset): Promise<{ dataset: DatasetRecord; created: boolean }> {
  const { count } = await tx.dataset.createMany({
    data: [
      {
        id: newId('dataset'),
        ...dataset,
        liveKey: dataset.sha256,
        sizeBytes: BigInt(dataset.sizeBytes),
        description: json(dataset.description),
      },
    ],
    skipDuplicates: true,
  });
  const row = await tx.dataset.findUniqueOrThrow({ where: { liveKey: dataset.sha256 } });
  return { dataset: record(row), created: count === 1 };
}
/** Deleted ones too: see `deletedAt`. */
export async function get(tx: Tx, id: string): Promise<DatasetRecord | null> {
  const row = await tx.dataset.findUnique({ where: { id } });
  return row && record(row);
}
/** Living data sets, newest first. */
export async function list(tx: Tx, page: PageQuery): Promise<DatasetRecord[]> {
  const where = { deletedAt: null, ...(page.before ? { id: { lt: page.before } } : {}) };
  return (await tx.dataset.findMany({ where, orderBy: { id: 'desc' }, take: page.limit })).map(record);
}
/** Marks a living data set deleted. Returns its hash, to be collected (../publish.ts) after the commit; null where there is no living one. */
export async function markDeleted(tx: Tx, id: string): Promise<string | null> {
  const { count } = await tx.dataset.updateMany({ where: { id, deletedAt: null }, data: { deletedAt: new Date(), liveKey: null } });
  if (count === 0) return null;
  return (await tx.dataset.findUniqueOrThrow({ where: { id } })).sha256;
}
/** Locks a living data set's row against deletion until the transaction ends; false where it is not there or deleted. For those who make a job on it. */
export async function lockLiving(tx: Tx, id: string): Promise<boolean> {
  return (await tx.$queryRaw<unknown[]>`select 1 from datasets where id = ${id} and deleted_at is null for share`).length === 1;
}
