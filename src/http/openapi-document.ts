import type { Services } from '../services/index.ts';
import { buildApp } from './app.ts';

/** The OpenAPI document as plain JSON, made from the routes. Needs no database: no handler is ever called. */
export async function openApiDocument(version: string): Promise<object> {
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
  try {
    await app.ready();
    // What has no place in JSON (undefined, TypeBox's symbols) has none in the document.
    return JSON.parse(JSON.stringify(app.swagger())) as object;
  } finally {
    await app.close();
  }
}
