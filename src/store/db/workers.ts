/** Workers that were seen lately, and what each can measure. Rows age out: a worker that is started anew comes back under another id. */
import type { Tx } from './client.ts';

/** How long after its last word a worker still counts: longer than a restart or a deployment takes. */
const ALIVE_SECONDS = 300;

/** Notes that a worker lives. Called again and again, much more often than it would be forgotten. */
export async function seen(tx: Tx, id: string, labels: readonly string[]): Promise<void> {
  await tx.$executeRaw`
    insert into workers (id, labels, seen_at) values (${id}, ${[...labels]}::text[], now())
    on conflict (id) do update set labels = excluded.labels, seen_at = excluded.seen_at`;
}

/** Whether a worker that was seen in the last minutes carries all of these labels. */
export async function anyCarries(tx: Tx, labels: readonly string[]): Promise<boolean> {
  const rows = await tx.$queryRaw<unknown[]>`
    select 1 from workers where labels @> ${[...labels]}::text[] and seen_at > now() - make_interval(secs => ${ALIVE_SECONDS}) limit 1`;
  return rows.length === 1;
}

/** Removes the rows of workers that no longer count. Returns how many. */
export async function forgetGone(tx: Tx): Promise<number> {
  return tx.$executeRaw`delete from workers where seen_at < now() - make_interval(secs => ${2 * ALIVE_SECONDS})`;
}
