/** API keys. Only their hashes are stored. */
import { newId } from '../../domain/ids.ts';
import type { Tx } from './client.ts';
import type { ApiKeyRecord, PageQuery } from './records.ts';

export interface NewApiKey {
  name: string;
  /** SHA-256 of the key, hex. */
  hash: string;
  /** The key's first characters. */
  hint: string;
  scopes: string[];
  bootstrap?: boolean;
  expiresAt?: Date | null;
}

export async function create(tx: Tx, key: NewApiKey): Promise<ApiKeyRecord> {
  return tx.apiKey.create({ data: { id: newId('apiKey'), ...key } });
}
/** As `create`, but leaves a key of the same hash as it is: several processes start with the same HALFTONE_API_KEY at once. */
export async function ensure(tx: Tx, key: NewApiKey): Promise<ApiKeyRecord> {
  await tx.apiKey.createMany({ data: [{ id: newId('apiKey'), ...key }], skipDuplicates: true });
  return tx.apiKey.findUniqueOrThrow({ where: { hash: key.hash } });
}
export async function get(tx: Tx, id: string): Promise<ApiKeyRecord | null> {
  return tx.apiKey.findUnique({ where: { id } });
}
export async function findByHash(tx: Tx, hash: string): Promise<ApiKeyRecord | null> {
  return tx.apiKey.findUnique({ where: { hash } });
}
export async function list(tx: Tx, page: PageQuery): Promise<ApiKeyRecord[]> {
  return tx.apiKey.findMany({ where: page.before ? { id: { lt: page.before } } : {}, orderBy: { id: 'desc' }, take: page.limit });
}
export async function count(tx: Tx): Promise<number> {
  return tx.apiKey.count();
}
/** False where there was none. */
export async function remove(tx: Tx, id: string): Promise<boolean> {
  return (await tx.apiKey.deleteMany({ where: { id } })).count === 1;
}
/** Notes that the key was used; written at most once a minute a key, as every request would otherwise write. */
export async function touch(tx: Tx, id: string): Promise<void> {
  await tx.$executeRaw`update api_keys set last_used_at = now() where id = ${id} and (last_used_at is null or last_used_at < now() - interval '1 minute')`;
}
