/** A job's events. Numbered under the lock of the job's row: whoever has read up to n misses nothing that commits later. */
import { json, notify, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import type { JobEventRecord, JobEventType } from './records.ts';

const record = (row: Prisma.JobEventGetPayload<object>): JobEventRecord => ({
  ...row,
  type: row.type as JobEventType,
  data: row.data as Record<string, unknown>,
});

/** Appends an event and wakes the readers (channel `halftone_job`). Nothing happens where the job is gone. */
export async function append(tx: Tx, jobId: string, type: JobEventType, data: Record<string, unknown>): Promise<void> {
  const [numbered] = await tx.$queryRaw<{ event_sequence: number }[]>`
    update jobs set event_sequence = event_sequence + 1 where id = ${jobId} returning event_sequence`;
  if (!numbered) return;
  await tx.jobEvent.create({ data: { jobId, sequence: numbered.event_sequence, type, data: json(data) } });
  await notify(tx, 'halftone_job', jobId);
}

/** Events after number `after`, oldest first. */
export async function after(tx: Tx, jobId: string, sequence: number, limit = 500): Promise<JobEventRecord[]> {
  const rows = await tx.jobEvent.findMany({ where: { jobId, sequence: { gt: sequence } }, orderBy: { sequence: 'asc' }, take: limit });
  return rows.map(record);
}
