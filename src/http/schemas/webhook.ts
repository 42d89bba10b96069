import { type Static, Type } from 'typebox';
import { type DeliveryView, WEBHOOK_EVENTS, type WebhookEndpointView, type WebhookEndpointWithSecret } from '../../services/webhooks.ts';
import { component, dateTime, id, nullable, pageOf, shows } from './common.ts';

export const WebhookEndpoint = component(
  'WebhookEndpoint',
  Type.Object({
    id: id('webhookEndpoint'),
    url: Type.String(),
    description: nullable(Type.String()),
    events: Type.Array(Type.String(), { description: 'Empty = all.' }),
    createdAt: dateTime('When it was made.'),
    failingSince: nullable(dateTime('Since when every delivery fails.')),
    disabledAt: nullable(dateTime('Since when nothing is sent.')),
    disabledReason: nullable(Type.String()),
    previousSecretExpiresAt: nullable(dateTime('Until when the secret before the last rotation signs too.')),
  }),
);
export const WebhookEndpointPage = pageOf('WebhookEndpointPage', WebhookEndpoint);

export const WebhookEndpointSecret = component(
  'WebhookEndpointSecret',
  Type.Object({
    ...WebhookEndpoint.properties,
    secret: nullable(
      Type.String({ description: 'whsec_…, for verifying deliveries: shown this once. Null in a repeated answer (Idempotency-Key).' }),
    ),
  }),
);

export const CreateWebhookEndpoint = component(
  'CreateWebhookEndpoint',
  Type.Object(
    {
      url: Type.String({ minLength: 1, maxLength: 2048, description: 'https, and a public address.' }),
      description: Type.Optional(nullable(Type.String({ maxLength: 500 }))),
      events: Type.Optional(Type.Array(Type.Enum(WEBHOOK_EVENTS), { maxItems: 16, description: 'Empty or left out = all.' })),
    },
    { additionalProperties: false },
  ),
);

/** What a receiver gets; the document's webhooks refer to it by name. */
component(
  'WebhookBody',
  Type.Object(
    {
      type: Type.Enum(WEBHOOK_EVENTS),
      timestamp: dateTime('When it happened.'),
      data: Type.Object({
        jobId: id('job'),
        status: Type.Enum(['succeeded', 'failed', 'canceled']),
        best: nullable(Type.String({ description: 'Id of the best variant; null = the float model, or none.' })),
        href: Type.String({ description: 'Where the job is, on this service.' }),
      }),
    },
    { description: 'Thin: whoever wants the figures fetches the job.' },
  ),
);

export const Delivery = component(
  'WebhookDelivery',
  Type.Object({
    id: Type.String({ description: 'msg_…, sent as webhook-id.' }),
    endpoint: id('webhookEndpoint'),
    job: nullable(id('job')),
    event: Type.String(),
    status: Type.Enum(['pending', 'succeeded', 'failed']),
    attempts: Type.Integer(),
    nextAttemptAt: nullable(dateTime('When the next try is due.')),
    tries: Type.Array(
      Type.Object({
        at: Type.String(),
        ms: Type.Integer(),
        status: nullable(Type.Integer({ description: 'HTTP status; null where no answer came.' })),
        error: nullable(Type.String()),
      }),
    ),
    body: Type.String({ description: 'As it is signed and sent.' }),
    replayOf: nullable(Type.String()),
    createdAt: dateTime('When the event happened.'),
    endedAt: nullable(dateTime('When it was taken or given up.')),
  }),
);
export const DeliveryPage = pageOf('WebhookDeliveryPage', Delivery);

shows<WebhookEndpointView, Static<typeof WebhookEndpoint>>();
shows<WebhookEndpointWithSecret, Static<typeof WebhookEndpointSecret>>();
shows<DeliveryView, Static<typeof Delivery>>();
