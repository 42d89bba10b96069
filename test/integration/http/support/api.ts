/** The API on its own port, over a real embedded PostgreSQL, a real queue in it and objects on disk. No worker: tests that need a job's end write it as one would. */
import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Compile } from 'typebox/compile';
import { builtInProfiles } from '../../../../src/domain/built-in-profiles.ts';
import type { ObjectStore } from '../../../../src/domain/objects.ts';
import { type AppOptions, buildApp } from '../../../../src/http/app.ts';
import { allComponents } from '../../../../src/http/schemas/common.ts';
import type { App } from '../../../../src/http/types.ts';
import { openBroker } from '../../../../src/queue/index.ts';
import { createServices, type Services } from '../../../../src/services/index.ts';
import { type Database, migrate, openDatabase, openDiskStore, profiles, startEmbedded } from '../../../../src/store/index.ts';
import { createMetrics } from '../../../../src/telemetry/metrics.ts';

export const KEY = 'an-admin-key-for-tests';

export interface Api {
  url: string;
  app: App;
  db: Database;
  objects: ObjectStore;
  services: Services;
  dir: string;
  /** A request with the admin key. Answers of JSON are checked against the document. */
  call(method: string, path: string, init?: CallInit): Promise<Answer>;
  /** Takes the database away. */
  loseDatabase(): Promise<void>;
  stop(): Promise<void>;
}
interface CallInit {
  json?: unknown;
  body?: Uint8Array | string | FormData | ReadableStream;
  headers?: Record<string, string>;
  key?: string | null;
}
export interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: answers of all routes, whose shapes `call` has checked
  body: any;
  text: string;
}

const quiet = { info() {}, warn() {}, error() {} };

/** Starts it. One a test file: a server takes a second to start. */
export async function startApi(options: Partial<AppOptions> & { webhookAllow?: string[]; objects?: ObjectStore } = {}): Promise<Api> {
  const dir = await mkdtemp(join(tmpdir(), 'halftone-http-'));
  const postgres = await startEmbedded({ dataDir: dir });
  await migrate(postgres.url);
  const db = openDatabase({ url: postgres.url });
  const objects = options.objects ?? (await openDiskStore(join(dir, 'objects')));
  const broker = await openBroker({ redisUrl: null, databaseUrl: postgres.url });
  const sizes = { maxModelBytes: options.maxModelBytes ?? 20e9, maxDatasetBytes: options.maxDatasetBytes ?? 50e9 };
  const services = createServices({
    db,
    objects,
    log: quiet,
    scratchDir: join(dir, 'scratch'),
    ...sizes,
    pingQueue: () => broker.ping(),
    webhookAllow: options.webhookAllow ?? [],
  });
  await services.keys.ensureFirst(KEY);
  for (const profile of builtInProfiles(null)) await profiles.ensureBuiltIn(db.client, profile);
  await services.start();
  const app = await buildApp({
    logger: false,
    metrics: createMetrics(),
    version: '0.0.0-test',
    rateLimit: null,
    maxEventLoopDelayMs: 0,
    ...options,
    ...sizes,
    services,
  });
  await app.listen({ port: 0, host: '127.0.0.1' });
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  const check = contract(app);
  return {
    url,
    app,
    db,
    objects,
    services,
    dir,
    async call(method, path, init = {}) {
      const headers = new Headers(init.headers);
      if (init.key !== null) headers.set('authorization', `Bearer ${init.key ?? KEY}`);
      if (init.json !== undefined) headers.set('content-type', 'application/json');
      const body = init.json === undefined ? init.body : JSON.stringify(init.json);
      const response = await fetch(`${url}${path}`, {
        method,
        headers,
        redirect: 'manual',
        ...(body === undefined ? {} : { body, duplex: 'half' }),
      } as RequestInit);
      const text = await response.text();
      const type = response.headers.get('content-type') ?? '';
      const parsed = type.includes('json') && text !== '' ? JSON.parse(text) : null;
      if (parsed !== null) check(method, path.split('?', 1)[0]!, response.status, type, parsed);
      return { status: response.status, headers: response.headers, body: parsed, text };
    },
    loseDatabase: () => postgres.release(),
    async stop() {
      await app.close();
      await services.close();
      await broker.close();
      await db.close();
      await objects.close();
      await postgres.release();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

interface Document {
  paths: Record<string, Record<string, { responses: Record<string, { content?: Record<string, { schema: object }> }> }>>;
}

/** Checks answers against the OpenAPI document: every status must be in it, and every JSON body must fit its schema. */
function contract(app: App): (method: string, path: string, status: number, type: string, body: unknown) => void {
  const document = app.swagger() as unknown as Document;
  const components = Object.fromEntries(allComponents().map(({ $id, ...schema }) => [$id, schema]));
  const validators = new Map<string, ReturnType<typeof Compile>>();
  const patterns = Object.entries(document.paths).map(([pattern, item]) => ({
    pattern,
    item,
    regexp: new RegExp(`^${pattern.replace('{name}', '.+').replace(/\{[^}]+\}/g, '[^/]+')}$`),
  }));
  return (method, path, status, type, body) => {
    const route = patterns.find(({ regexp, item }) => regexp.test(path) && item[method.toLowerCase()]);
    if (!route) return;
    const answer = route.item[method.toLowerCase()]!.responses[String(status)];
    if (!answer) throw new Error(`${method} ${route.pattern} answered ${status}, which is not in the document: ${JSON.stringify(body)}`);
    const schema = answer.content?.[type.split(';', 1)[0]!]?.schema;
    if (!schema) throw new Error(`${method} ${route.pattern} answered ${status} as ${type}, which is not in the document`);
    const key = `${method} ${route.pattern} ${status} ${type}`;
    let validator = validators.get(key);
    if (!validator) {
      validator = Compile(inlined(schema, components) as Parameters<typeof Compile>[0]);
      validators.set(key, validator);
    }
    if (!validator.Check(body)) {
      throw new Error(
        `${key} does not fit its schema: ${JSON.stringify(validator.Errors(body).slice(0, 3))}\n${JSON.stringify(body).slice(0, 1000)}`,
      );
    }
  };
}

/** A schema with its references replaced by what they stand for; none of them goes round. */
function inlined(schema: unknown, components: Record<string, object>): unknown {
  if (Array.isArray(schema)) return schema.map((part) => inlined(part, components));
  if (typeof schema !== 'object' || schema === null) return schema;
  const reference = (schema as { $ref?: string }).$ref;
  if (reference !== undefined) {
    const name = reference.replace('#/components/schemas/', '').replace(/#$/, '');
    const found = components[name];
    if (!found) throw new Error(`There is no component ${name}`);
    return inlined(found, components);
  }
  return Object.fromEntries(Object.entries(schema).map(([name, part]) => [name, inlined(part, components)]));
}
