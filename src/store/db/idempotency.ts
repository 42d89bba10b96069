/** Answers kept for requests with an Idempotency-Key, 24 h by their owner. */
import { jsonOrNull, type Tx } from './client.ts';
import type { IdempotencyRecord } from './records.ts';

/**
 * Claims a key for a request. `claimed` true: this request goes on, and ends with `complete` or `release`. False: the
 * record of the request that holds it or has ended. A claim whose `lockedUntil` has passed (its process died) is taken over.
 */
export async function claim(
  tx: Tx,
  request: { ownerId: string; key: string; fingerprint: string; lockSeconds: number; keepSeconds: number },
): Promise<{ claimed: boolean; record: IdempotencyRecord }> {
  const { ownerId, key, fingerprint, lockSeconds, keepSeconds } = request;
  const claimed = await tx.$executeRaw`
    insert into idempotency_keys as k (owner_id, key, fingerprint, locked_until, expires_at)
    values (${ownerId}, ${key}, ${fingerprint}, now() + make_interval(secs => ${lockSeconds}), now() + make_interval(secs => ${keepSeconds}))
    on conflict (owner_id, key) do update
      set fingerprint = excluded.fingerprint, locked_until = excluded.locked_until, expires_at = excluded.expires_at,
          response_status = null, response_header = null, response_body = null, created_at = now()
      where k.expires_at < now() or (k.response_status is null and k.locked_until < now() and k.fingerprint = excluded.fingerprint)`;
  const row = await tx.idempotencyKey.findUniqueOrThrow({ where: { ownerId_key: { ownerId, key } } });
  return { claimed: claimed === 1, record: { ...row, responseHeader: row.responseHeader as Record<string, string> | null } };
}
/** Keeps the answer; in the transaction of what the request did, where it did something. */
export async function complete(
  tx: Tx,
  ownerId: string,
  key: string,
  response: { status: number; header: Record<string, string>; body: string },
): Promise<void> {
  await tx.idempotencyKey.updateMany({
    where: { ownerId, key },
    data: { responseStatus: response.status, responseHeader: jsonOrNull(response.header), responseBody: response.body, lockedUntil: null },
  });
}
/** Gives the key up: the request failed and may be repeated. */
export async function release(tx: Tx, ownerId: string, key: string): Promise<void> {
  await tx.idempotencyKey.deleteMany({ where: { ownerId, key, responseStatus: null } });
}
export async function removeExpired(tx: Tx): Promise<number> {
  return tx.$executeRaw`delete from idempotency_keys where expires_at < now()`;
}
