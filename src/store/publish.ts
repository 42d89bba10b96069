/**
 * Where bytes and rows meet. A row points only at bytes that are there, and bytes without a row go away. Both hold
 * because whoever writes rows that point at an object, and whoever removes an object, takes its lock in the database:
 *
 * 1. publish: commit the bytes; in one transaction lock the objects (shared), commit again (free where they are still
 *    there; needed where a collector came in between), write the rows.
 * 2. collect: in one transaction lock the object (exclusive), and remove it where no row points at it.
 */
import type { ObjectStore, StagedObject } from '../domain/objects.ts';
import type { Database, Tx } from './db/client.ts';
import { lockObjects, referenced } from './db/references.ts';

interface Stores {
  db: Database;
  objects: ObjectStore;
}

/**
 * Commits staged objects and writes the rows that point at them in one transaction. The staged bytes are gone
 * afterwards in every case; where `write` throws, or points at none of them, the objects are collected again.
 */
export async function publish<T>(stores: Stores, staged: StagedObject[], write: (tx: Tx) => Promise<T>): Promise<T> {
  const hashes = staged.map((object) => object.sha256);
  try {
    for (const object of staged) await object.commit();
    return await stores.db.transaction(async (tx) => {
      await lockObjects(tx, hashes, 'shared');
      for (const object of staged) await object.commit();
      return write(tx);
    });
  } finally {
    await Promise.all(staged.map((object) => object.discard()));
    // Where this fails too (the database is gone) the reconciler's sweep finds them.
    await collect(stores, hashes).catch(() => {});
  }
}

/** Removes those objects that no row points at. Call it after the commit of what took the rows away. Returns how many went. */
export async function collect({ db, objects }: Stores, hashes: string[]): Promise<number> {
  const candidates = [...new Set(hashes)];
  if (candidates.length === 0) return 0;
  const kept = await referenced(db.client, candidates);
  let removed = 0;
  for (const hash of candidates) {
    if (kept.has(hash)) continue;
    await db.transaction(async (tx) => {
      await lockObjects(tx, [hash], 'exclusive');
      if ((await referenced(tx, [hash])).size > 0) return;
      if ((await objects.stat(hash)) === null) return;
      await objects.delete(hash);
      removed++;
    });
  }
  return removed;
}

/**
 * Goes through all objects and removes those that no row points at, and what was staged and never finished. Objects
 * younger than `minAgeMs` are passed over: an upload that is being published would only be made to commit twice.
 */
export async function sweep(stores: Stores, options: { minAgeMs: number; staleMs: number }): Promise<{ objects: number; staged: number }> {
  let removed = 0;
  let batch: string[] = [];
  const flush = async () => {
    removed += await collect(stores, batch);
    batch = [];
  };
  const youngest = Date.now() - options.minAgeMs;
  for await (const object of stores.objects.list()) {
    if (object.modifiedAt.getTime() > youngest) continue;
    batch.push(object.sha256);
    if (batch.length >= 500) await flush();
  }
  await flush();
  return { objects: removed, staged: await stores.objects.abortStale(options.staleMs) };
}
