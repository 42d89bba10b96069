/** Idempotency-Key: the same key with the same payload gives the first answer again (draft-ietf-httpapi-idempotency-key-header). */
import { createHash } from 'node:crypto';
import { HalftoneError } from '../domain/errors.ts';
import { idempotency, type Tx } from '../store/db/index.ts';
import type { ServiceContext } from './context.ts';

/** What was answered: kept whole, so that a repetition gets it byte for byte. */
export interface Answer {
  status: number;
  header: Record<string, string>;
  body: unknown;
}
/** Keeps the answer, in the transaction of what the request did: either both are there or neither. */
export type Remember = (tx: Tx, answer: Answer) => Promise<void>;

/** A request that holds its key for longer has died with its process. */
const LOCK_SECONDS = 120;
const KEEP_SECONDS = 24 * 3600;

/** The header's value: a quoted string (as the draft has it) or the bare one. */
export function parseIdempotencyKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  const quoted = /^"((?:[^"\\]|\\["\\])*)"$/.exec(header.trim());
  const key = quoted ? quoted[1]!.replace(/\\(["\\])/g, '$1') : header.trim();
  if (key.length === 0 || key.length > 255 || !/^[\x20-\x7e]+$/.test(key)) {
    throw new HalftoneError('validation-failed', 'Idempotency-Key must have 1 to 255 printable ASCII characters.', {
      errors: [{ pointer: '/headers/idempotency-key', detail: 'must have 1 to 255 printable ASCII characters' }],
    });
  }
  return key;
}

/** JSON with its members in order, so that the same payload written otherwise is the same payload. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`).join(',')}}`;
  }
  return JSON.stringify(value) ?? 'null';
}

export class IdempotencyService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Does the work once for this owner and key. `work` must call what it is given inside its transaction. Without a key it
   * simply works.
   * @throws HalftoneError `idempotency-key-reused`, `idempotency-key-in-flight`, or what `work` throws (the key is free again then)
   */
  async once(
    request: { ownerId: string; key: string | undefined; operation: string; payload: unknown },
    work: (remember: Remember) => Promise<Answer>,
  ): Promise<Answer & { replayed: boolean; text?: string }> {
    const { ownerId, key } = request;
    if (key === undefined) return { ...(await work(async () => undefined)), replayed: false };
    const { db } = this.#context;
    const fingerprint = createHash('sha256')
      .update(`${request.operation}\n${canonical(request.payload)}`)
      .digest('hex');
    const { claimed, record } = await idempotency.claim(db.client, {
      ownerId,
      key,
      fingerprint,
      lockSeconds: LOCK_SECONDS,
      keepSeconds: KEEP_SECONDS,
    });
    if (!claimed) {
      if (record.fingerprint !== fingerprint) {
        throw new HalftoneError('idempotency-key-reused', 'The first request with this key had another method, path or payload.');
      }
      if (record.responseStatus === null) {
        throw new HalftoneError('idempotency-key-in-flight', 'The first request with this key has not been answered yet.', {
          headers: { 'retry-after': '1' },
        });
      }
      return {
        status: record.responseStatus,
        header: record.responseHeader ?? {},
        body: JSON.parse(record.responseBody ?? 'null'),
        text: record.responseBody ?? 'null',
        replayed: true,
      };
    }
    try {
      const answer = await work((tx, { status, header, body }) =>
        idempotency.complete(tx, ownerId, key, { status, header, body: JSON.stringify(body) }),
      );
      return { ...answer, replayed: false };
    } catch (error) {
      await idempotency
        .release(db.client, ownerId, key)
        .catch((cause) => this.#context.log.warn({ err: cause }, 'an idempotency key was not given up; it frees itself later'));
      throw error;
    }
  }
}
