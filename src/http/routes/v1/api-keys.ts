import { Type } from 'typebox';
import type { Answer } from '../../../services/idempotency.ts';
import type { NewApiKeyView } from '../../../services/keys.ts';
import { answerOnce } from '../../idempotent.ts';
import { answers, IdempotencyHeader, IdParams, json, Page, ref } from '../../schemas/common.ts';
import { ApiKey, ApiKeyPage, CreateApiKey, NewApiKey } from '../../schemas/key.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

const made = (key: NewApiKeyView): Answer => ({
  status: 201,
  header: { location: `/v1/api-keys/${key.id}`, 'cache-control': 'no-store' },
  body: key,
});

export async function apiKeyRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.post(
    '/v1/api-keys',
    {
      config: { scope: 'admin', documentedBody: { required: true, content: { 'application/json': { schema: ref(CreateApiKey) } } } },
      schema: {
        operationId: 'createApiKey',
        tags: ['API keys'],
        summary: 'Make an API key',
        description: 'The key itself is in this answer and nowhere else: only its hash is kept.',
        security: [{ apiKey: [] }],
        headers: IdempotencyHeader,
        body: CreateApiKey,
        response: answers({ 201: json('The key.', ref(NewApiKey)) }, [400, 409, 413, 415, 422]),
      },
    },
    async (request, reply) =>
      answerOnce(services, request, reply, request.body, async (remember) =>
        // The secret is not remembered: it would stand in the database for a day.
        made(await services.keys.create(request.body, (tx, key) => remember(tx, made({ ...key, secret: null })))),
      ),
  );

  app.get(
    '/v1/api-keys',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'listApiKeys',
        tags: ['API keys'],
        summary: 'List API keys, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of keys.', ref(ApiKeyPage)) }, [422]),
      },
    },
    async (request) => services.keys.list(request.query),
  );

  app.get(
    '/v1/api-keys/:id',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'getApiKey',
        tags: ['API keys'],
        summary: 'Get an API key',
        security: [{ apiKey: [] }],
        params: IdParams('apiKey'),
        response: answers({ 200: json('The key.', ref(ApiKey)) }, [404]),
      },
    },
    async (request) => services.keys.get(request.params.id),
  );

  app.delete(
    '/v1/api-keys/:id',
    {
      config: { scope: 'admin' },
      schema: {
        operationId: 'deleteApiKey',
        tags: ['API keys'],
        summary: 'Delete an API key',
        description: 'It stops working at once. The last admin key cannot be deleted.',
        security: [{ apiKey: [] }],
        params: IdParams('apiKey'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404, 409]),
      },
    },
    async (request, reply) => {
      await services.keys.remove(request.params.id);
      return reply.code(204).send();
    },
  );
}
