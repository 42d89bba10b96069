/** The API in this process. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Redis } from 'ioredis';
import { builtInProfiles } from '../domain/built-in-profiles.ts';
import { buildApp } from '../http/app.ts';
import { UPLOAD_LIMITS } from '../http/upload.ts';
import { jobs, openScratch, profiles } from '../store/index.ts';
import { createMetrics, type Metrics } from '../telemetry/metrics.ts';
import type { Lifetime } from './lifetime.ts';
import { openServices, openStores } from './stores.ts';

/** The package's version; this file runs from src/bin and from dist/src/bin. */
function version(): string {
  for (const up of ['../..', '../../..']) {
    try {
      return (JSON.parse(readFileSync(new URL(`${up}/package.json`, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // The other one, then.
    }
  }
  return 'unknown';
}

/**
 * Opens the stores and builds the API. `listen` opens the port: what must be there first (the worker of `serve`) is started
 * in between.
 */
export async function runApi(lifetime: Lifetime): Promise<{ metrics: Metrics; listen: () => Promise<void> }> {
  const { config, log, onShutdown } = lifetime;
  const stores = await openStores(lifetime);
  const { db } = stores;
  const scratch = await openScratch(path.join(config.dataDir, 'uploads'));
  for (const dead of scratch.dead) await scratch.forget(dead);
  onShutdown({ name: 'uploads', capMs: 2000, run: () => scratch.close() });

  const services = openServices(lifetime, stores, scratch.folder);
  const firstKey = await services.keys.ensureFirst(config.apiKey ?? undefined);
  if (firstKey) {
    // Not through the log: it keeps no secrets, and this is the only time that the key is shown.
    process.stdout.write(`\nThe first API key, an admin's. It is shown this once and never again:\n\n    ${firstKey}\n\n`);
  }
  for (const profile of builtInProfiles(null)) await profiles.ensureBuiltIn(db.client, profile);

  const metrics = createMetrics();
  metrics.census(async () => ({ jobs: await jobs.countByStatus(db.client), queues: await jobs.countWaiting(db.client) }));
  const redis =
    config.redisUrl && config.rateLimit > 0 ? new Redis(config.redisUrl, { maxRetriesPerRequest: 1, commandTimeout: 500 }) : null;
  redis?.on('error', () => {});
  let stopping = false;
  const app = await buildApp({
    services,
    logger: log,
    metrics,
    version: version(),
    maxModelBytes: config.maxModelBytes,
    maxDatasetBytes: config.maxDatasetBytes,
    rateLimit: config.rateLimit > 0 ? { max: config.rateLimit, windowSeconds: 60, ...(redis ? { redis } : {}) } : null,
    uploads: { ...UPLOAD_LIMITS, stallMs: config.uploadStallSeconds * 1000 },
    stopping: () => stopping,
    trustProxy: config.trustProxy,
  });
  await services.start();
  onShutdown({ name: 'use cases', capMs: 3000, run: () => services.close() });
  onShutdown({ name: 'rate limits', capMs: 500, run: () => redis?.disconnect() });

  return {
    metrics,
    async listen() {
      const address = await app.listen({ port: config.port, host: config.host });
      // First to go: unready, then streams end, then the server closes.
      onShutdown({
        name: 'HTTP',
        capMs: 8000,
        run: () => {
          stopping = true;
          return app.close();
        },
      });
      log.info({ address }, 'the API listens');
    },
  };
}
