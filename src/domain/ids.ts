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

let lastTime = Number.NaN;
let lastDigits = new Uint8Array(16);

/**
 * A new id: `prefix_` and 26 characters of Crockford base32, 48 bits of milliseconds first (as in a ULID),
 * so that ids sort by the time they were made; the other 80 bits are random. Those of one process and millisecond count up
 * from the first, so that they sort too: a list by id would otherwise shuffle what came in one burst.
 */
export function newId(kind: IdKind, now: number = Date.now()): string {
  if (now === lastTime) {
    let i = lastDigits.length - 1;
    while (i > 0 && lastDigits[i] === 31) lastDigits[i--] = 0;
    lastDigits[i]!++;
  } else {
    lastTime = now;
    // The first digit stays below the middle, so that counting never carries out of it.
    lastDigits = Uint8Array.from(randomBytes(16), (byte, i) => byte & (i === 0 ? 15 : 31));
  }
  let time = '';
  for (let rest = now, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) time = CROCKFORD[rest % 32] + time;
  return `${ID_PREFIX[kind]}_${time}${Array.from(lastDigits, (digit) => CROCKFORD[digit]).join('')}`;
}
