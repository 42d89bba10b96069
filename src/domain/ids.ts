import { randomBytes } from 'node:crypto';

/** Prefix of each kind of id the API hands out. */
export const ID_PREFIX = {
  model: 'mdl',
  dataset: 'dst',
  profile: 'prf',
  job: 'job',
  variant: 'var',
  artifact: 'art',
  webhookEndpoint: 'whe',
  webhookDelivery: 'msg',
  apiKey: 'key',
} as const;
export type IdKind = keyof typeof ID_PREFIX;

const CROCKFORD = '0123456789abcdefghjkmnpqrstvwxyz';

/**
 * A new id: `prefix_` and 26 characters of Crockford base32, 48 bits of milliseconds first (as in a ULID),
 * so that ids sort by the time they were made; the other 80 bits are random.
 */
export function newId(kind: IdKind, now: number = Date.now()): string {
  let time = '';
  for (let rest = now, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) time = CROCKFORD[rest % 32] + time;
  const random = Array.from(randomBytes(16), (byte) => CROCKFORD[byte & 31]).join('');
  return `${ID_PREFIX[kind]}_${time}${random}`;
}
