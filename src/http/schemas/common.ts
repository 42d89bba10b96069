/** What every resource's schemas share. Schemas of answers are named components of the OpenAPI document; those of requests are validated as they stand. */
import { type Static, type TSchema, Type } from 'typebox';
import { ERRORS, type ErrorCode } from '../../domain/errors.ts';
import { ID_PREFIX, type IdKind } from '../../domain/ids.ts';

const components = new Map<string, TSchema>();

/** Gives a schema a name in the OpenAPI document; routes refer to it with `ref(name)`. */
export function component<S extends TSchema>(name: string, schema: S): S {
  if (components.has(name)) throw new Error(`Two components are called ${name}`);
  components.set(name, schema);
  return schema;
}

/** A reference to a component that keeps its static type, so that a handler's answer is still checked by the compiler. */
export function ref<S extends TSchema>(schema: S): ReturnType<typeof Type.Unsafe<Static<S>>> {
  for (const [name, known] of components) if (known === schema) return Type.Unsafe<Static<S>>({ $ref: `${name}#` });
  throw new Error('Only components can be referred to');
}

/** Every component, as Fastify's `addSchema` wants it. */
export function allComponents(): (TSchema & { $id: string })[] {
  return Array.from(components, ([name, schema]) => ({ ...schema, $id: name }));
}

export function nullable<S extends TSchema>(schema: S) {
  return Type.Union([schema, Type.Null()]);
}

export function id(kind: IdKind, description?: string) {
  const prefix = ID_PREFIX[kind];
  return Type.String({
    pattern: `^${prefix}_[0-9a-hjkmnp-tv-z]{26}$`,
    examples: [`${prefix}_01j9z3k5m7p9r2t4v6w8y0a1b2`],
    ...(description === undefined ? {} : { description }),
  });
}

export const dateTime = (description: string) => Type.String({ format: 'date-time', description });
export const sha256 = (description: string) => Type.String({ pattern: '^[0-9a-f]{64}$', description });
export const bytes = (description: string) => Type.Integer({ minimum: 0, description });
export const name = Type.String({
  minLength: 1,
  maxLength: 200,
  pattern: '^[^\\u0000-\\u001f\\u007f]+$',
  description: 'For people; it need not be unique.',
});

export const Page = {
  pageSize: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, description: 'At most so many items; 50 by default.' })),
  pageToken: Type.Optional(Type.String({ minLength: 1, maxLength: 1000, description: '`nextPageToken` of the page before.' })),
};

export function pageOf<S extends TSchema>(componentName: string, item: S) {
  return component(
    componentName,
    Type.Object({
      items: Type.Array(ref(item)),
      nextPageToken: nullable(Type.String({ description: 'Give it as `pageToken` for the next page; null on the last one.' })),
    }),
  );
}

/** Parameters of a path with one id. Any string is let through here, so that an id of the wrong form is a 404 like any other that is not there. */
export const IdParams = (kind: IdKind) =>
  Type.Object({ id: Type.String({ maxLength: 200, description: `Of the form ${ID_PREFIX[kind]}_…` }) });

export const Problem = component(
  'Problem',
  Type.Object(
    {
      type: Type.String({ description: 'urn:halftone:problem: and the code.' }),
      title: Type.String(),
      status: Type.Integer(),
      detail: Type.String({ description: 'What exactly happened.' }),
      code: Type.Enum(Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]]),
      remedy: Type.String({ description: 'What to do about it.' }),
      errors: Type.Array(Type.Object({ pointer: Type.String({ description: 'A JSON pointer into the request.' }), detail: Type.String() })),
      instance: Type.String({ description: 'The request’s id, as in the X-Request-Id header and in the logs.' }),
    },
    { description: 'An error, by RFC 9457.' },
  ),
);
export type Problem = Static<typeof Problem>;

const STATUS_WORDS: Record<number, string> = {
  400: 'The request could not be read.',
  401: 'No valid API key.',
  403: 'The key lacks the scope.',
  404: 'There is no such thing.',
  406: 'None of the accepted types can be produced.',
  408: 'The upload stalled.',
  409: 'The state of the thing does not allow it, or a request with this Idempotency-Key is in flight.',
  412: 'The precondition does not hold.',
  413: 'The body is over the limit.',
  415: 'The content type is not taken here.',
  416: 'The range lies outside the content.',
  422: 'The request is well-formed but cannot be done; `code` and `errors` say why.',
  429: 'Too many requests.',
  500: 'Something went wrong on our side.',
  503: 'The service cannot do this now.',
  507: 'The storage is full.',
};

/** The answers of a route: what goes well, and the problems it may meet beside those that any route may. */
export function answers(success: Record<number, unknown>, problems: number[] = []): Record<number, unknown> {
  const all = new Set([400, 401, 403, 429, 500, 503, ...problems]);
  return { ...success, ...Object.fromEntries(Array.from(all, (status) => [status, problemAnswer(status)])) };
}

/** The problem that an answer of this status is. */
export function problemAnswer(status: number) {
  return { description: STATUS_WORDS[status] ?? 'A problem.', content: { 'application/problem+json': { schema: ref(Problem) } } };
}

/** A JSON answer with a description and, for the document, its headers. */
export function json(description: string, schema: TSchema, headers?: Record<string, { description: string; type: string }>) {
  return { description, ...(headers ? { headers } : {}), content: { 'application/json': { schema } } };
}

/** A header of a request that only some routes know. */
export const IdempotencyHeader = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 255,
      description: 'Any string of your choice: the same key with the same payload gives the first answer again, for 24 hours.',
    }),
  ),
});

/** Has the compiler check that what a service shows fits what the document says of it. */
export function shows<_View extends Documented, Documented>(): void {}
