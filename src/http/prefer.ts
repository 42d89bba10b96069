/** Longest that a request is held. */
export const LONGEST_WAIT_SECONDS = 60;

/** The seconds of `Prefer: wait=n` (RFC 7240), at most a minute; 0 without it. */
export function preferredWait(header: string | string[] | undefined): number {
  const text = Array.isArray(header) ? header.join(',') : (header ?? '');
  const match = /(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])/i.exec(text);
  return match ? Math.min(Number(match[1]), LONGEST_WAIT_SECONDS) : 0;
}
