/** One service a test file: its own data folder, port and key, thrown away afterwards. */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeleteBucketCommand, DeleteObjectCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';
import { Redis } from 'ioredis';
import pg from 'pg';
import { Client } from '../../../demo/client.ts';
import { ROOT, type Service, type ServiceOptions, startService } from '../../../demo/service.ts';

export interface Harness {
  folder: string;
  dataDir: string;
  service: Service;
  client: Client;
  /** Whether downloads are redirected to an S3 server, whose ETag is its own. */
  redirects: boolean;
  /** Names of all objects that the service stores. */
  objects(): Promise<string[]>;
  /** Starts the service again on the same data, port and key (after `service.stop()` or a kill). */
  restart(): Promise<void>;
  close(): Promise<void>;
}

interface Backends {
  env: Record<string, string>;
  /** Names of all objects that are stored. */
  objects(): Promise<string[]>;
  close(): Promise<void>;
}

/** Everything embedded, whatever the tests' own environment names. */
function embedded(dataDir: string): Backends {
  const env = { DATABASE_URL: '', REDIS_URL: '', S3_ENDPOINT: '' };
  return { env, objects: async () => files(join(dataDir, 'objects')), close: async () => {} };
}

/** A database, a Redis database and a bucket of this file's own, on the servers that the environment names. */
async function onServers(name: string): Promise<Backends> {
  const { DATABASE_URL, REDIS_URL, S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY } = process.env;
  if (!DATABASE_URL || !REDIS_URL || !S3_ENDPOINT || !S3_ACCESS_KEY_ID || !S3_SECRET_ACCESS_KEY)
    throw new Error('HALFTONE_TEST_SERVERS needs DATABASE_URL, REDIS_URL, S3_ENDPOINT, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY.');
  const admin = async (sql: string): Promise<void> => {
    const client = new pg.Client({ connectionString: DATABASE_URL });
    await client.connect();
    await client.query(sql).finally(() => client.end());
  };
  await admin(`create database "${name}"`);
  const database = new URL(DATABASE_URL);
  database.pathname = `/${name}`;
  // Files run one after another: one Redis database, emptied, serves them all.
  const redis = new Redis(REDIS_URL);
  await redis.flushdb();
  redis.disconnect();
  const s3 = new S3Client({
    endpoint: S3_ENDPOINT,
    region: process.env.S3_REGION ?? 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId: S3_ACCESS_KEY_ID, secretAccessKey: S3_SECRET_ACCESS_KEY },
  });
  const objects = async (): Promise<string[]> => {
    const listed = await s3.send(new ListObjectsV2Command({ Bucket: name }));
    return (listed.Contents ?? []).map((object) => object.Key!);
  };
  return {
    env: { DATABASE_URL: database.href, REDIS_URL, S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET: name },
    objects,
    async close() {
      for (const key of await objects().catch(() => [])) await s3.send(new DeleteObjectCommand({ Bucket: name, Key: key }));
      await s3.send(new DeleteBucketCommand({ Bucket: name })).catch(() => {});
      s3.destroy();
      await admin(`drop database if exists "${name}" with (force)`);
    },
  };
}

/** Starts a service for one test file. HALFTONE_TEST_SERVERS=1: on the database, Redis and S3 server that the environment names. */
export async function start(env: Record<string, string> = {}, options: Partial<ServiceOptions> = {}): Promise<Harness> {
  if (!existsSync(join(ROOT, 'dist/src/bin/serve.js'))) throw new Error('dist is missing: run `npm run build` first.');
  const folder = mkdtempSync(join(tmpdir(), 'halftone-acceptance-'));
  const dataDir = options.dataDir ?? join(folder, 'data');
  const name = `acceptance-${randomBytes(6).toString('hex')}`;
  const backends = process.env.HALFTONE_TEST_SERVERS ? await onServers(name) : embedded(dataDir);
  const launch = (port?: number, key?: string): Promise<Service> =>
    startService({
      logFile: join(folder, 'service.log'),
      ...(port === undefined ? {} : { port }),
      ...(key === undefined ? {} : { key }),
      ...options,
      dataDir,
      // The tests ask more often than a user would.
      env: { RATE_LIMIT: '0', ...backends.env, ...env },
    });
  const service = await launch();
  const harness: Harness = {
    folder,
    dataDir,
    service,
    client: new Client(service.url, service.key),
    redirects: 'S3_BUCKET' in backends.env,
    objects: backends.objects,
    async restart() {
      harness.service = await launch(service.port, service.key);
      await harness.service.ready();
    },
    async close() {
      await harness.service.stop();
      harness.service.killGroup();
      await backends.close();
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
function files(folder: string): string[] {
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
