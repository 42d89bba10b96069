import { type Static, Type } from 'typebox';
import { SCOPES } from '../../domain/keys.ts';
import type { ApiKeyView, NewApiKeyView } from '../../services/keys.ts';
import { component, dateTime, id, name, nullable, pageOf, shows } from './common.ts';

export const ApiKey = component(
  'ApiKey',
  Type.Object({
    id: id('apiKey'),
    name: Type.String(),
    hint: Type.String({ description: 'The key’s first characters.' }),
    scopes: Type.Array(Type.Enum(SCOPES)),
    createdAt: dateTime('When it was made.'),
    expiresAt: nullable(dateTime('When it stops working.')),
    lastUsedAt: nullable(dateTime('To the minute.')),
  }),
);
export const ApiKeyPage = pageOf('ApiKeyPage', ApiKey);

export const NewApiKey = component(
  'NewApiKey',
  Type.Object({
    ...ApiKey.properties,
    secret: nullable(
      Type.String({ description: 'The key itself: shown this once, kept nowhere. Null in a repeated answer (Idempotency-Key).' }),
    ),
  }),
);

export const CreateApiKey = component(
  'CreateApiKey',
  Type.Object(
    {
      name,
      scopes: Type.Array(Type.Enum(SCOPES), { minItems: 1, maxItems: 3, description: 'write includes read, admin includes all.' }),
      expiresAt: Type.Optional(nullable(dateTime('Null or left out = never.'))),
    },
    { additionalProperties: false },
  ),
);

shows<ApiKeyView, Static<typeof ApiKey>>();
shows<NewApiKeyView, Static<typeof NewApiKey>>();
