/** One service a test file: its own data folder, port and key, thrown away afterwards. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '../../../demo/client.ts';
import { ROOT, type Service, type ServiceOptions, startService } from '../../../demo/service.ts';

export interface Harness {
  folder: string;
  dataDir: string;
  service: Service;
  client: Client;
  /** Starts the service again on the same data, port and key (after `service.stop()` or a kill). */
  restart(): Promise<void>;
  close(): Promise<void>;
}

/** The environment for a service with everything embedded, whatever the tests' own environment names. */
const EMBEDDED = { DATABASE_URL: '', REDIS_URL: '', S3_ENDPOINT: '' };

export async function start(env: Record<string, string> = {}, options: Partial<ServiceOptions> = {}): Promise<Harness> {
  if (!existsSync(join(ROOT, 'dist/src/bin/serve.js'))) throw new Error('dist is missing: run `npm run build` first.');
  const folder = mkdtempSync(join(tmpdir(), 'halftone-acceptance-'));
  const launch = (port?: number, key?: string): Promise<Service> =>
    startService({
      dataDir: join(folder, 'data'),
      logFile: join(folder, 'service.log'),
      ...(port === undefined ? {} : { port }),
      ...(key === undefined ? {} : { key }),
      ...options,
      env: { ...EMBEDDED, ...env },
    });
  const service = await launch();
  const harness: Harness = {
    folder,
    dataDir: join(folder, 'data'),
    service,
    client: new Client(service.url, service.key),
    async restart() {
      harness.service = await launch(service.port, service.key);
      await harness.service.ready();
    },
    async close() {
      await harness.service.stop();
      harness.service.killGroup();
      rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    },
  };
  try {
    await service.ready();
  } catch (error) {
    await harness.close();
    throw error;
  }
  return harness;
}

/** Files below a folder; none where it does not exist. */
export function files(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => {
    try {
      return statSync(join(folder, path)).isFile();
    } catch {
      return false;
    }
  });
}

/** Asks again until `check` holds; what is removed in the background is gone a little later. */
export async function eventually<T>(probe: () => T | Promise<T>, check: (value: T) => boolean, timeoutMs = 20_000): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (check(value) || Date.now() > deadline) return value;
    await sleep(100);
  }
}

/** Every item of a list, over its pages. */
export async function all<T>(client: Client, path: string): Promise<T[]> {
  const items: T[] = [];
  let token: string | null = null;
  do {
    const query: string = `${path.includes('?') ? '&' : '?'}pageSize=50${token === null ? '' : `&pageToken=${encodeURIComponent(token)}`}`;
    const page: { items: T[]; nextPageToken: string | null } = await client.json('GET', path + query);
    items.push(...page.items);
    token = page.nextPageToken ?? null;
  } while (token !== null && token !== '');
  return items;
}
