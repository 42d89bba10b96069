import { Type } from 'typebox';
import type { Answer } from '../../../services/idempotency.ts';
import type { DeliveryView, WebhookEndpointWithSecret } from '../../../services/webhooks.ts';
import { answerOnce } from '../../idempotent.ts';
import { principalOf } from '../../plugins/auth.ts';
import { answers, IdempotencyHeader, IdParams, json, Page, ref } from '../../schemas/common.ts';
import {
  CreateWebhookEndpoint,
  Delivery,
  DeliveryPage,
  WebhookEndpoint,
  WebhookEndpointPage,
  WebhookEndpointSecret,
} from '../../schemas/webhook.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

const made = (endpoint: WebhookEndpointWithSecret): Answer => ({
  status: 201,
  header: { location: `/v1/webhook-endpoints/${endpoint.id}`, 'cache-control': 'no-store' },
  body: endpoint,
});
const replayed = (delivery: DeliveryView): Answer => ({ status: 202, header: {}, body: delivery });

export async function webhookRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.post(
    '/v1/webhook-endpoints',
    {
      config: {
        scope: 'write',
        documentedBody: { required: true, content: { 'application/json': { schema: ref(CreateWebhookEndpoint) } } },
      },
      schema: {
        operationId: 'createWebhookEndpoint',
        tags: ['Webhooks'],
        summary: 'Make a webhook endpoint',
        description:
          'A job’s `webhook` is its id. Deliveries are signed as Standard Webhooks 1.0 has it; the secret is in this answer and in that to a rotation only.',
        security: [{ apiKey: [] }],
        headers: IdempotencyHeader,
        body: CreateWebhookEndpoint,
        response: answers({ 201: json('The endpoint.', ref(WebhookEndpointSecret)) }, [400, 409, 413, 415, 422]),
      },
    },
    async (request, reply) =>
      answerOnce(services, request, reply, request.body, async (remember) =>
        made(
          await services.webhooks.createEndpoint(request.body, principalOf(request), (tx, endpoint) =>
            remember(tx, made({ ...endpoint, secret: null })),
          ),
        ),
      ),
  );

  app.get(
    '/v1/webhook-endpoints',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listWebhookEndpoints',
        tags: ['Webhooks'],
        summary: 'List webhook endpoints, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of endpoints.', ref(WebhookEndpointPage)) }, [422]),
      },
    },
    async (request) => services.webhooks.listEndpoints(request.query),
  );

  app.get(
    '/v1/webhook-endpoints/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getWebhookEndpoint',
        tags: ['Webhooks'],
        summary: 'Get a webhook endpoint',
        security: [{ apiKey: [] }],
        params: IdParams('webhookEndpoint'),
        response: answers({ 200: json('The endpoint.', ref(WebhookEndpoint)) }, [404]),
      },
    },
    async (request) => services.webhooks.getEndpoint(request.params.id),
  );

  app.delete(
    '/v1/webhook-endpoints/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteWebhookEndpoint',
        tags: ['Webhooks'],
        summary: 'Delete a webhook endpoint and its deliveries',
        security: [{ apiKey: [] }],
        params: IdParams('webhookEndpoint'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404]),
      },
    },
    async (request, reply) => {
      await services.webhooks.removeEndpoint(request.params.id);
      return reply.code(204).send();
    },
  );

  app.post(
    '/v1/webhook-endpoints/:id/rotate-secret',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'rotateWebhookSecret',
        tags: ['Webhooks'],
        summary: 'Make a new secret',
        description: 'The one before signs beside it for 24 hours.',
        security: [{ apiKey: [] }],
        params: IdParams('webhookEndpoint'),
        response: answers({ 200: json('The endpoint with its new secret.', ref(WebhookEndpointSecret)) }, [404, 413, 415]),
      },
    },
    async (request, reply) => reply.header('cache-control', 'no-store').send(await services.webhooks.rotateSecret(request.params.id)),
  );

  app.post(
    '/v1/webhook-endpoints/:id/enable',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'enableWebhookEndpoint',
        tags: ['Webhooks'],
        summary: 'Take a disabled endpoint back into service',
        security: [{ apiKey: [] }],
        params: IdParams('webhookEndpoint'),
        response: answers({ 200: json('The endpoint.', ref(WebhookEndpoint)) }, [404, 413, 415]),
      },
    },
    async (request) => services.webhooks.enableEndpoint(request.params.id),
  );

  app.get(
    '/v1/webhook-endpoints/:id/deliveries',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listWebhookDeliveries',
        tags: ['Webhooks'],
        summary: 'List an endpoint’s deliveries, newest first',
        security: [{ apiKey: [] }],
        params: IdParams('webhookEndpoint'),
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of deliveries.', ref(DeliveryPage)) }, [404, 422]),
      },
    },
    async (request) => services.webhooks.listDeliveries(request.params.id, request.query),
  );

  app.post(
    '/v1/webhook-endpoints/:id/deliveries/:delivery/replay',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'replayWebhookDelivery',
        tags: ['Webhooks'],
        summary: 'Send a delivery once more',
        description: 'As a delivery of its own, with a webhook-id of its own.',
        security: [{ apiKey: [] }],
        params: Type.Object({
          id: Type.String({ minLength: 1, maxLength: 200, description: 'whe_…' }),
          delivery: Type.String({ minLength: 1, maxLength: 200, description: 'msg_…' }),
        }),
        headers: IdempotencyHeader,
        response: answers({ 202: json('The new delivery.', ref(Delivery)) }, [404, 409, 413, 415, 422]),
      },
    },
    async (request, reply) =>
      answerOnce(services, request, reply, null, async (remember) =>
        replayed(await services.webhooks.replay(request.params.id, request.params.delivery, (tx, shown) => remember(tx, replayed(shown)))),
      ),
  );
}
