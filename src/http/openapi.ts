/** The OpenAPI document, made from the routes; and the page that shows it. */
import swagger from '@fastify/swagger';
import reference from '@scalar/fastify-api-reference';
import { Type } from 'typebox';
import { WEBHOOK_EVENTS, type WebhookEvent } from '../services/webhooks.ts';
import { allComponents, problemAnswer } from './schemas/common.ts';
import type { App } from './types.ts';

const DESCRIPTION = `POST an ONNX model, get a smaller, faster, measured one back.

Every error is \`application/problem+json\` (RFC 9457) with a \`code\`, a \`detail\` and a \`remedy\`. JSON is camelCase; sizes are in
bytes, times in milliseconds, dates RFC 3339. Lists are \`{items, nextPageToken}\`. POSTs take an \`Idempotency-Key\`.`;

const TAGS = [
  { name: 'Models', description: 'ONNX models, with their external data.' },
  { name: 'Data sets', description: 'Calibration and evaluation data, as .npz.' },
  { name: 'Device profiles', description: 'What a device allows, and how models are measured for it.' },
  { name: 'Jobs', description: 'One model, one or several recipes, measured against the float model.' },
  { name: 'Artifacts', description: 'What jobs make.' },
  { name: 'Benchmarks', description: 'What jobs measured.' },
  { name: 'API keys', description: 'Who may do what.' },
  { name: 'Webhooks', description: 'Being told when a job ends.' },
  { name: 'Service', description: 'Health and figures.' },
];

const signed = (name: string, description: string) => ({
  in: 'header' as const,
  name,
  required: true,
  description,
  schema: { type: 'string' as const },
});

/** What a webhook's receiver gets. */
function webhook(event: WebhookEvent) {
  return {
    post: {
      operationId: event.replace('.', '-'),
      tags: ['Webhooks'],
      summary: `A job has ${event.slice('job.'.length)}`,
      description:
        'Signed as Standard Webhooks 1.0 has it. Any 2xx takes it; 410 disables the endpoint; everything else, redirects among it, is tried again: after 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h.',
      security: [],
      parameters: [
        signed('webhook-id', 'msg_…, the same for each try.'),
        signed('webhook-timestamp', 'Seconds since 1970.'),
        signed('webhook-signature', '`v1,` and the signature; two of them, space-delimited, for a day after a rotation.'),
      ],
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: { $ref: '#/components/schemas/WebhookBody' },
          },
        },
      },
      responses: { '2XX': { description: 'Taken.' }, '410': { description: 'Nothing more is wanted: the endpoint is disabled.' } },
    },
  };
}

/** The page that shows this document; its routes are its plugin's. */
const REFERENCE = {
  get: {
    operationId: 'getReference',
    tags: ['Service'],
    summary: 'This document as a page',
    security: [],
    responses: {
      '200': {
        description: 'HTML; nothing of it is fetched from elsewhere.',
        content: { 'text/html': { schema: { type: 'string' as const } } },
      },
      '400': {
        description: 'The request could not be read.',
        content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
      },
    },
  },
};

/** A wildcard has no name in a path's template: the document calls it `name`. */
function wildcardNamed(params: unknown): unknown {
  const { properties, ...rest } = params as { properties: Record<string, unknown> };
  const { '*': wildcard, ...others } = properties;
  return { ...rest, properties: { ...others, name: wildcard }, required: [...Object.keys(others), 'name'] };
}

export async function registerOpenApi(app: App, version: string): Promise<void> {
  for (const schema of allComponents()) app.addSchema(schema);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Halftone', version, description: DESCRIPTION, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      webhooks: Object.fromEntries(WEBHOOK_EVENTS.map((event) => [event, webhook(event)])),
      servers: [{ url: '/', description: 'This service.' }],
      tags: TAGS,
      components: {
        securitySchemes: { apiKey: { type: 'http', scheme: 'bearer', description: 'An API key: `Authorization: Bearer hft_…`.' } },
      },
    },
    hideUntagged: true,
    transformObject(document) {
      if (!('openapiObject' in document)) return document.swaggerObject;
      return { ...document.openapiObject, paths: { ...document.openapiObject.paths, '/docs': REFERENCE } };
    },
    refResolver: { buildLocalReference: (json, _baseUri, _fragment, i) => (typeof json.$id === 'string' ? json.$id : `def-${i}`) },
    transform({ schema, url, route }) {
      const body = route.config?.documentedBody;
      const shown = body === undefined ? schema : { ...schema, body };
      return url.endsWith('/*')
        ? { schema: { ...shown, params: wildcardNamed(shown.params) }, url: `${url.slice(0, -1)}:name` }
        : { schema: shown, url };
    },
  });
}

/** /openapi.json and /docs, a page whose script comes from here: nothing is fetched from elsewhere. */
export async function registerDocs(app: App): Promise<void> {
  app.get(
    '/openapi.json',
    {
      schema: {
        operationId: 'getOpenApi',
        tags: ['Service'],
        summary: 'This document',
        security: [],
        response: {
          200: {
            description: 'OpenAPI 3.1.',
            content: { 'application/json': { schema: Type.Object({}, { additionalProperties: true }) } },
          },
          400: problemAnswer(400),
        },
      },
    },
    // Any page may read it: it holds nothing that the repository does not.
    async (_request, reply) => reply.header('access-control-allow-origin', '*').send(app.swagger()),
  );
  await app.register(reference, {
    routePrefix: '/docs',
    configuration: { url: '/openapi.json', pageTitle: 'Halftone API', withDefaultFonts: false, telemetry: false, hideClientButton: true },
    logLevel: 'silent',
  });
}
