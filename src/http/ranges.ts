/** Range, If-Range and conditional requests on bytes that never change (RFC 9110, sections 13 and 14). */
import { HalftoneError } from '../domain/errors.ts';
import type { ByteRange } from '../domain/objects.ts';

type Header = string | string[] | undefined;
const one = (header: Header): string | undefined => (Array.isArray(header) ? header.join(', ') : header);

/** Whether a list of entity tags, or *, names this one. Weak tags are equal to strong ones only where `weak` says so. */
function names(list: string, etag: string, weak: boolean): boolean {
  if (list.trim() === '*') return true;
  return (list.match(/(?:W\/)?"[^"]*"/g) ?? []).some((tag) => (weak && tag.startsWith('W/') ? tag.slice(2) : tag) === etag);
}

export interface RequestedContent {
  /** 200: all of it; 206: `range`; 304: the client has it. */
  status: 200 | 206 | 304;
  range: ByteRange;
}

/**
 * What a client wants of `size` bytes with this strong tag. Several ranges at once are answered with the whole, as the RFC
 * allows: who fetches models fetches one piece or continues one.
 * @throws HalftoneError `range-not-satisfiable`, `precondition-failed`
 */
export function requestedContent(
  headers: { range?: Header; 'if-range'?: Header; 'if-none-match'?: Header; 'if-match'?: Header },
  etag: string,
  size: number,
): RequestedContent {
  const whole: RequestedContent = { status: 200, range: { start: 0, end: size - 1 } };
  const ifMatch = one(headers['if-match']);
  if (ifMatch !== undefined && !names(ifMatch, etag, false)) {
    throw new HalftoneError('precondition-failed', `The content’s ETag is ${etag}.`);
  }
  const ifNoneMatch = one(headers['if-none-match']);
  if (ifNoneMatch !== undefined && names(ifNoneMatch, etag, true)) return { ...whole, status: 304 };
  const range = one(headers.range);
  if (range === undefined) return whole;
  const ifRange = one(headers['if-range']);
  // A date cannot be a strong validator here; only our own tag lets the range through.
  if (ifRange !== undefined && ifRange.trim() !== etag) return whole;
  const match = /^\s*bytes\s*=\s*(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))\s*$/i.exec(range);
  // Another unit, several ranges, or nonsense: a server that does not understand a range ignores it.
  if (!match) return whole;
  const unsatisfiable = () =>
    new HalftoneError('range-not-satisfiable', `The content has ${size} bytes.`, { headers: { 'content-range': `bytes */${size}` } });
  if (match[3] !== undefined) {
    const last = Number(match[3]);
    if (last === 0 || size === 0) throw unsatisfiable();
    return { status: 206, range: { start: Math.max(0, size - last), end: size - 1 } };
  }
  const start = Number(match[1]);
  const end = match[2] === '' ? size - 1 : Math.min(Number(match[2]), size - 1);
  if (match[2] !== '' && Number(match[2]) < start) return whole;
  if (start >= size) throw unsatisfiable();
  return { status: 206, range: { start, end } };
}
