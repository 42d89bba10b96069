import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerDefault } from 'fastify';
import type { Scope } from '../domain/keys.ts';
import type { Principal } from '../services/keys.ts';

/** The API's Fastify instance: TypeBox schemas give handlers their types. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Scope that the route needs; absent = the route needs no key. */
    scope?: Scope;
    /** What the OpenAPI document says of a body that is streamed and therefore not validated by a schema. */
    documentedBody?: unknown;
  }
  interface FastifyRequest {
    /** Whose key the request carries; set on every route that needs one. */
    principal: Principal | null;
    /** Aborted when the client goes away or the server begins to close: what waits must end. */
    gone: AbortSignal;
  }
}
