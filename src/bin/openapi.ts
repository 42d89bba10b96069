/** Writes openapi.yaml from the routes. Needs no database: no handler is ever called. */
import { readFileSync, writeFileSync } from 'node:fs';
import { stringify } from 'yaml';
import { buildApp } from '../http/app.ts';
import type { Services } from '../services/index.ts';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
const unused = new Proxy({} as Services, {
  get(_, name) {
    throw new Error(`services.${String(name)} is not there while the document is written`);
  },
});
const app = await buildApp({
  services: unused,
  logger: false,
  metrics: { request() {}, render: async () => ({ contentType: 'text/plain', body: '' }) },
  version,
  maxModelBytes: 0,
  maxDatasetBytes: 0,
  rateLimit: null,
  maxEventLoopDelayMs: 0,
});
await app.ready();
// Through JSON: what has no place there (undefined, symbols of TypeBox) has none in YAML either.
writeFileSync('openapi.yaml', stringify(JSON.parse(JSON.stringify(app.swagger())), { lineWidth: 140, aliasDuplicateObjects: false }));
await app.close();
