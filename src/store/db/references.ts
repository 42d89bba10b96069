/** Which objects rows point at, and the lock that keeps an object's bytes and the rows that point at it together. */
import type { Tx } from './client.ts';

/** Of these hashes, those that some row points at. */
export async function referenced(tx: Tx, hashes: string[]): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ sha256: string }[]>`
    select sha256 from model_files where sha256 = any(${hashes})
    union select sha256 from datasets where sha256 = any(${hashes}) and deleted_at is null
    union select sha256 from artifact_files where sha256 = any(${hashes})`;
  return new Set(rows.map((row) => row.sha256));
}

/**
 * Locks objects until the transaction ends: shared by those who write rows that point at them, exclusive for those who
 * remove them. In the hashes' order, so that two publishers never wait for each other in a ring.
 */
export async function lockObjects(tx: Tx, hashes: string[], mode: 'shared' | 'exclusive'): Promise<void> {
  for (const hash of [...new Set(hashes)].sort()) {
    // 60 bits of the hash: two objects that share them only wait for each other needlessly.
    const key = BigInt(`0x${hash.slice(0, 15)}`);
    if (mode === 'shared') await tx.$executeRaw`select pg_advisory_xact_lock_shared(${key})`;
    else await tx.$executeRaw`select pg_advisory_xact_lock(${key})`;
  }
}
