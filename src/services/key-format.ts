/** API keys: `hft_`, 43 characters of base62 (256 random bits), 6 characters of checksum. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';

const PREFIX = 'hft_';
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const SECRET_LENGTH = 43;
const CHECKSUM_LENGTH = 6;
const PATTERN = new RegExp(`^${PREFIX}[0-9A-Za-z]{${SECRET_LENGTH + CHECKSUM_LENGTH}}$`);

function base62(value: bigint, length: number): string {
  let text = '';
  for (let rest = value, i = 0; i < length; i++, rest /= 62n) text = BASE62[Number(rest % 62n)] + text;
  return text;
}

/** CRC-32 of what goes before it: it keeps mistyped keys from the database and lets secret scanners tell a key from noise. */
function checksum(text: string): string {
  return base62(BigInt(crc32(text)), CHECKSUM_LENGTH);
}

/** A new key. It is shown to its owner once and never stored. */
export function newApiKey(): string {
  const start = PREFIX + base62(BigInt(`0x${randomBytes(32).toString('hex')}`), SECRET_LENGTH);
  return start + checksum(start);
}

/** Whether a string that looks like one of our keys was mistyped or cut off. Keys of another form (HALFTONE_API_KEY may be any string) are never called so. */
export function isMistypedKey(key: string): boolean {
  if (!PATTERN.test(key)) return false;
  return checksum(key.slice(0, -CHECKSUM_LENGTH)) !== key.slice(-CHECKSUM_LENGTH);
}

/** SHA-256 in hex. A plain hash is enough: a key holds 256 random bits, there is nothing to guess that a slow hash would protect. */
export function hashApiKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/** Compares two hashes in constant time. */
export function sameHash(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}

/** The first characters, by which an owner recognises a key in a list. */
export function keyHint(key: string): string {
  return PATTERN.test(key) ? key.slice(0, PREFIX.length + 6) : `${key.slice(0, 4)}…`;
}
