/** When a failed delivery is tried again. The times live in the database, so that a restart loses none. */

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** Delay before each try, in ms: the first goes out at once, the tenth and last some three days later. */
export const RETRY_DELAYS_MS: readonly number[] = [
  0,
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
];

/** An endpoint that has failed for so long without a single success is disabled. */
export const DISABLE_AFTER_MS = 5 * 24 * HOUR;

/** Longest wait that a receiver may ask for by Retry-After. */
const LONGEST_RETRY_AFTER_MS = 24 * HOUR;

/**
 * How long to wait after `attempts` failed tries, in ms, or null when that was the last. Each delay is lengthened by up to
 * a fifth at random, so that the deliveries of one outage do not all come back in the same second.
 * @param retryAfterMs what the receiver asked for; it lengthens the wait, never shortens it
 */
export function retryDelayMs(attempts: number, retryAfterMs = 0, random: () => number = Math.random): number | null {
  const delay = RETRY_DELAYS_MS[attempts];
  if (delay === undefined) return null;
  return Math.round(Math.max(delay * (1 + random() / 5), Math.min(retryAfterMs, LONGEST_RETRY_AFTER_MS)));
}
