/** Opens what a process keeps things in, each part embedded or real as the settings say. */
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ObjectStore } from '../domain/objects.ts';
import { type Broker, openBroker } from '../queue/index.ts';
import { createServices, type Services } from '../services/index.ts';
import { type Database, migrate, openDatabase, openDiskStore, openS3Store, startEmbedded } from '../store/index.ts';
import type { Lifetime } from './lifetime.ts';

export interface Stores {
  db: Database;
  objects: ObjectStore;
  broker: Broker;
}

/** The database's URL, brought to the schema; starts the embedded one where none is set. */
export async function openDatabaseUrl({ config, log, onShutdown }: Lifetime): Promise<string> {
  let url = config.databaseUrl;
  if (!url) {
    const embedded = await startEmbedded({ dataDir: config.dataDir, log: (line) => log.info(line) });
    onShutdown({ name: 'embedded PostgreSQL', capMs: 15_000, run: () => embedded.release() });
    url = embedded.url;
  }
  const applied = await whenReachable(() => migrate(url), log);
  if (applied.length > 0) log.info({ migrations: applied }, 'the database was brought to the schema');
  return url;
}

/** A server that is started together with us may need a moment longer. */
async function whenReachable<T>(work: () => Promise<T>, log: Lifetime['log']): Promise<T> {
  for (const deadline = Date.now() + 30_000; ; await sleep(1000)) {
    try {
      return await work();
    } catch (error) {
      const { code, message } = error as Error & { code?: string };
      const passing =
        ['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', '57P03'].includes(code ?? '') || /timeout/i.test(message);
      if (!passing || Date.now() > deadline) throw error;
      log.warn({ code, detail: message }, 'the database cannot be reached yet');
    }
  }
}

export async function openStores(lifetime: Lifetime): Promise<Stores> {
  const { config, log, onShutdown } = lifetime;
  const url = await openDatabaseUrl(lifetime);
  // Not the error itself: it carries the whole client, its settings included.
  const onError = (error: Error & { code?: string }) => log.warn({ code: error.code, detail: error.message }, 'a connection was lost');

  const db = openDatabase({ url, onError });
  onShutdown({ name: 'database', capMs: 5000, run: () => db.close() });

  const objects = config.s3Endpoint
    ? await openS3Store({
        endpoint: config.s3Endpoint,
        publicEndpoint: config.s3PublicEndpoint,
        bucket: config.s3Bucket,
        region: config.s3Region,
        accessKeyId: config.s3AccessKeyId!,
        secretAccessKey: config.s3SecretAccessKey!,
      })
    : await openDiskStore(path.join(config.dataDir, 'objects'));
  onShutdown({ name: 'objects', capMs: 2000, run: () => objects.close() });

  const broker = await openBroker({ redisUrl: config.redisUrl, databaseUrl: url, onError });
  onShutdown({ name: 'queue', capMs: 5000, run: () => broker.close() });
  return { db, objects, broker };
}

/** The use cases on these stores. `scratchDir`: where uploads wait until they are whole. */
export function openServices({ config, log }: Lifetime, { db, objects, broker }: Stores, scratchDir: string): Services {
  return createServices({
    db,
    objects,
    log,
    scratchDir,
    maxModelBytes: config.maxModelBytes,
    maxDatasetBytes: config.maxDatasetBytes,
    pingQueue: () => broker.ping(),
    webhookAllow: config.webhookAllow,
  });
}
