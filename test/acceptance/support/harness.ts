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

/**
 * What the service stands on: where DATABASE_URL, REDIS_URL or S3_ENDPOINT (with its keys) name a server, a database, a Redis
 * database or a bucket of this file's own there; what they do not name is embedded.
 */
async function backends(name: string, dataDir: string): Promise<Backends> {
  const env: Record<string, string> = { DATABASE_URL: '', REDIS_URL: '', S3_ENDPOINT: '' };
  const closing: (() => Promise<unknown>)[] = [];
  let objects = async (): Promise<string[]> => files(join(dataDir, 'objects'));
  const { DATABASE_URL, REDIS_URL, S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY } = process.env;
  if (DATABASE_URL) {
    const admin = async (sql: string): Promise<void> => {
      const client = new pg.Client({ connectionString: DATABASE_URL });
      await client.connect();
      await client.query(sql).finally(() => client.end());
    };
    await admin(`create database "${name}"`);
    const database = new URL(DATABASE_URL);
    database.pathname = `/${name}`;
    env.DATABASE_URL = database.href;
    closing.push(() => admin(`drop database if exists "${name}" with (force)`));
  }
  if (REDIS_URL) {
    // Files run one after another: one Redis database, emptied, serves them all.
    const redis = new Redis(REDIS_URL);
    await redis.flushdb();
    redis.disconnect();
    env.REDIS_URL = REDIS_URL;
  }
  if (S3_ENDPOINT && S3_ACCESS_KEY_ID && S3_SECRET_ACCESS_KEY) {
    const s3 = new S3Client({
      endpoint: S3_ENDPOINT,
      region: process.env.S3_REGION ?? 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: S3_ACCESS_KEY_ID, secretAccessKey: S3_SECRET_ACCESS_KEY },
    });
    objects = async () => ((await s3.send(new ListObjectsV2Command({ Bucket: name }))).Contents ?? []).map((object) => object.Key!);
    Object.assign(env, { S3_ENDPOINT, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET: name });
    closing.push(async () => {
      for (const key of await objects().catch(() => [])) await s3.send(new DeleteObjectCommand({ Bucket: name, Key: key }));
      await s3.send(new DeleteBucketCommand({ Bucket: name })).catch(() => {});
      s3.destroy();
    });
  }
  return {
    env,
    objects,
    async close() {
      for (const close of closing) await close();
    },
  };
}

/** Starts a service for one test file. */
export async function start(env: Record<string, string> = {}, options: Partial<ServiceOptions> = {}): Promise<Harness> {
  if (!existsSync(join(ROOT, 'dist/src/bin/serve.js'))) throw new Error('dist is missing: run `npm run build` first.');
  const folder = mkdtempSync(join(tmpdir(), 'halftone-acceptance-'));
  const dataDir = options.dataDir ?? join(folder, 'data');
  const name = `acceptance-${randomBytes(6).toString('hex')}`;
  const standing = await backends(name, dataDir);
  const launch = (port?: number, key?: string): Promise<Service> =>
    startService({
      logFile: join(folder, 'service.log'),
      ...(port === undefined ? {} : { port }),
      ...(key === undefined ? {} : { key }),
      ...options,
      dataDir,
      // The tests ask more often than a user would.
      env: { RATE_LIMIT: '0', ...standing.env, ...env },
    });
  const service = await launch();
  const harness: Harness = {
    folder,
    dataDir,
    service,
    client: new Client(service.url, service.key),
    redirects: 'S3_BUCKET' in standing.env,
    objects: standing.objects,
    async restart() {
      harness.service = await launch(service.port, service.key);
      await harness.service.ready();
    },
    async close() {
      await harness.service.stop();
      harness.service.killGroup();
      await standing.close();
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
