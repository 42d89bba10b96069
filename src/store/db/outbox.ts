/** The outbox: what must reach the queue, written in the transaction that makes it true. */
import type { QueueMessage } from '../../domain/queue.ts';
import { json, notify, type Tx } from './client.ts';

export async function add(tx: Tx, message: QueueMessage): Promise<void> {
  await tx.outbox.create({ data: { kind: message.kind, payload: json(message.payload) } });
  await notify(tx, 'halftone_outbox');
}

/**
 * Takes up to `limit` messages, oldest first, and removes them when the transaction commits; those that another relay
 * holds are passed over. Enqueue them before the commit: a crash in between sends them twice, never not at all.
 */
export async function take(tx: Tx, limit: number): Promise<{ id: string; message: QueueMessage }[]> {
  const rows = await tx.$queryRaw<{ id: bigint; kind: string; payload: unknown }[]>`
    delete from outbox where id in (select id from outbox order by id limit ${limit} for update skip locked) returning id, kind, payload`;
  rows.sort((a, b) => (a.id < b.id ? -1 : 1));
  return rows.map((row) => ({ id: String(row.id), message: { kind: row.kind, payload: row.payload } as QueueMessage }));
}
