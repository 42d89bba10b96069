/** Errors on the wire: RFC 9457 problem+json, made from the catalogue. */
import type { FastifyError } from 'fastify';
import { ERRORS, type ErrorCode, HalftoneError, isOutOfRoom } from '../domain/errors.ts';
import type { Problem } from './schemas/common.ts';

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** The body of an answer that tells of an error. */
export function problemBody(error: HalftoneError, requestId: string): Problem {
  const entry = ERRORS[error.code];
  return {
    type: `urn:halftone:problem:${error.code}`,
    title: entry.title,
    status: entry.status,
    detail: error.detail,
    code: error.code,
    remedy: entry.remedy,
    errors: error.errors,
    instance: requestId,
  };
}

interface SchemaError {
  keyword?: string;
  instancePath?: string;
  message?: string;
  params?: { requiredProperties?: string[]; additionalProperties?: string[]; allowedValues?: unknown[]; type?: unknown };
}

/** That a value fits no branch of a union, and is not null either, adds nothing to what a branch says of it. */
const isIdle = ({ keyword, params }: SchemaError) => keyword === 'anyOf' || (keyword === 'type' && params?.type === 'null');

const escapePointer = (part: string) => part.replaceAll('~', '~0').replaceAll('/', '~1');

/** TypeBox's errors as pointers, each said once. */
export function schemaErrors(context: string, found: readonly SchemaError[]): { pointer: string; detail: string }[] {
  const root = context === 'body' ? '' : `/${context}`;
  const out: { pointer: string; detail: string }[] = [];
  const telling = found.filter((error) => !isIdle(error)).map((error) => error.instancePath ?? '');
  for (const error of found) {
    const path = error.instancePath ?? '';
    if (isIdle(error) && telling.some((other) => other === path || other.startsWith(`${path}/`))) continue;
    if (error.keyword === 'required') {
      for (const property of error.params?.requiredProperties ?? []) {
        out.push({ pointer: `${root}${path}/${escapePointer(property)}`, detail: 'is missing' });
      }
    } else if (error.keyword === 'additionalProperties') {
      for (const property of error.params?.additionalProperties ?? []) {
        out.push({ pointer: `${root}${path}/${escapePointer(property)}`, detail: 'is not a known field' });
      }
    } else if (error.keyword === 'enum') {
      out.push({
        pointer: root + path,
        detail: `must be one of ${(error.params?.allowedValues ?? []).map((v) => JSON.stringify(v)).join(', ')}`,
      });
    } else if (error.keyword !== 'boolean') {
      out.push({ pointer: root + path, detail: error.message ?? 'is not valid' });
    }
  }
  const seen = new Set<string>();
  return out.filter((error) => {
    const key = `${error.pointer} ${error.detail}`;
    return seen.has(key) ? false : seen.add(key);
  });
}

/** Fastify's and its plugins' own errors, in the catalogue's words. */
const FASTIFY_CODES: Record<string, ErrorCode> = {
  FST_ERR_CTP_INVALID_JSON_BODY: 'malformed-body',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'malformed-body',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'malformed-body',
  FST_ERR_CTP_INVALID_TYPE: 'malformed-body',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported-media-type',
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload-too-large',
  // Nothing can be at an address that is none.
  FST_ERR_BAD_URL: 'not-found',
  FST_ERR_MAX_PARAM_LENGTH: 'not-found',
  FST_UNDER_PRESSURE: 'service-unavailable',
  FST_REQ_FILE_TOO_LARGE: 'payload-too-large',
  FST_PARTS_LIMIT: 'payload-too-large',
  FST_FILES_LIMIT: 'payload-too-large',
  FST_FIELDS_LIMIT: 'payload-too-large',
  FST_PROTO_VIOLATION: 'malformed-body',
  FST_INVALID_MULTIPART_CONTENT_TYPE: 'unsupported-media-type',
  FST_INVALID_JSON_FIELD_ERROR: 'malformed-body',
  FST_MP_PREMATURE_CLOSE: 'upload-incomplete',
};

/** Node's and PostgreSQL's codes for what passes by itself: the service cannot do it now. */
const PASSING = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ETIMEDOUT',
  'EPIPE',
  'P1001',
  'P1002',
  'P1008',
  'P1017',
  'P2024',
  'P2028',
  '57P03',
  '53300',
]);

/** What a thrown thing is to the user. Whatever is not known here is a bug and looks like one: its words stay in the log. */
export function toHalftoneError(error: unknown): HalftoneError {
  if (error instanceof HalftoneError) return error;
  const known = error as Partial<FastifyError> & { validation?: SchemaError[]; validationContext?: string };
  if (known?.validation) {
    const context = known.validationContext === 'querystring' ? 'query' : (known.validationContext ?? 'body');
    const errors = schemaErrors(context, known.validation);
    const first = errors[0];
    return new HalftoneError(
      'validation-failed',
      first ? `${first.pointer || 'the body'} ${first.detail}.` : 'The request does not match the schema.',
      {
        errors,
      },
    );
  }
  const code = typeof known?.code === 'string' ? known.code : '';
  const mapped = FASTIFY_CODES[code];
  if (mapped) {
    const headers: Record<string, string> = code === 'FST_UNDER_PRESSURE' ? { 'retry-after': '10' } : {};
    return new HalftoneError(mapped, `${known.message ?? code}`, { cause: error, headers });
  }
  if (isOutOfRoom(error)) return new HalftoneError('storage-full', 'No room is left for the data.', { cause: error });
  if (PASSING.has(code)) {
    return new HalftoneError('service-unavailable', 'A part of the service does not answer at the moment.', {
      cause: error,
      headers: { 'retry-after': '5' },
    });
  }
  if (error instanceof SyntaxError && known.statusCode === 400) return new HalftoneError('malformed-body', error.message, { cause: error });
  if (typeof known?.statusCode === 'number' && known.statusCode >= 400 && known.statusCode < 500) {
    return new HalftoneError('malformed-body', known.message ?? 'The request could not be read.', { cause: error });
  }
  return new HalftoneError('internal-error', 'The error was logged under the request’s id.', { cause: error });
}
