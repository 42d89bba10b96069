/** Lists, by AIP-158: an opaque, versioned cursor that holds the last id of the page before and what the list was of. */
import { createHash } from 'node:crypto';
import { HalftoneError } from '../domain/errors.ts';

export interface PageRequest {
  pageSize?: number | undefined;
  pageToken?: string | undefined;
}
export interface Page<T> {
  items: T[];
  nextPageToken: string | null;
}

const VERSION = 1;
const DEFAULT_PAGE_SIZE = 50;
const LARGEST_PAGE_SIZE = 200;

/** Few characters that tell one list (its name and filters) from another: a token is good for the list it came from only. */
function fingerprint(list: string): string {
  return createHash('sha256').update(list).digest('base64url').slice(0, 8);
}

export function encodePageToken(list: string, last: string): string {
  return Buffer.from(JSON.stringify([VERSION, fingerprint(list), last])).toString('base64url');
}

/** @throws HalftoneError `page-token-invalid` */
export function decodePageToken(list: string, token: string, form: RegExp = /^[a-z]{3}_[0-9a-z]{26}$/): string {
  const refuse = (why: string) => new HalftoneError('page-token-invalid', why, { errors: [{ pointer: '/query/pageToken', detail: why }] });
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(token, 'base64url').toString('utf8'));
  } catch {
    throw refuse('The token cannot be read.');
  }
  if (!Array.isArray(parsed) || parsed.length !== 3) throw refuse('The token cannot be read.');
  const [version, of, last] = parsed as unknown[];
  if (version !== VERSION) throw refuse('The token is of another version of this service.');
  if (of !== fingerprint(list)) throw refuse('The token belongs to another list, or to one with other filters.');
  // Whatever else stands here never came from us.
  if (typeof last !== 'string' || !form.test(last)) throw refuse('The token cannot be read.');
  return last;
}

/**
 * One page of a list that is ordered by id, newest first.
 * @param list name and filters of the list
 * @param read gives up to `limit` rows below `before`
 * @param form of the ids that the list is ordered by, where they are no prefixed ones
 */
export async function page<R extends { id: string }, T>(
  list: string,
  request: PageRequest,
  read: (query: { limit: number; before?: string }) => Promise<R[]>,
  view: (rows: R[]) => T[] | Promise<T[]>,
  form?: RegExp,
): Promise<Page<T>> {
  const size = Math.min(request.pageSize ?? DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE);
  const before = request.pageToken === undefined ? undefined : decodePageToken(list, request.pageToken, form);
  const rows = await read({ limit: size + 1, ...(before === undefined ? {} : { before }) });
  const shown = rows.slice(0, size);
  return {
    items: await view(shown),
    nextPageToken: rows.length > size ? encodePageToken(list, shown[shown.length - 1]!.id) : null,
  };
}
