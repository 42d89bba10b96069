import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseIdempotencyKey } from '../../../src/services/idempotency.ts';
import { hashApiKey, isMistypedKey, keyHint, newApiKey, sameHash } from '../../../src/services/key-format.ts';
import { decodePageToken, encodePageToken } from '../../../src/services/pages.ts';

describe('API keys', () => {
  it('have a prefix, 256 random bits and a checksum', () => {
    const keys = new Set(Array.from({ length: 200 }, newApiKey));
    expect(keys.size).toBe(200);
    for (const key of keys) {
      expect(key).toMatch(/^hft_[0-9A-Za-z]{49}$/);
      expect(isMistypedKey(key)).toBe(false);
    }
  });

  it('any one character changed, or two neighbours swapped, is noticed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 52 }), fc.constantFrom(...'0aZ9m'), (at, letter) => {
        const key = newApiKey();
        const changed = key.slice(0, at) + letter + key.slice(at + 1);
        expect(isMistypedKey(changed)).toBe(changed !== key);
        const swapped = at < 52 ? key.slice(0, at) + key[at + 1] + key[at] + key.slice(at + 2) : key;
        expect(isMistypedKey(swapped)).toBe(swapped !== key);
      }),
    );
  });

  it('of another form are taken as they are', () => {
    expect(isMistypedKey('a-key-of-the-environment')).toBe(false);
    expect(isMistypedKey('hft_short')).toBe(false);
    expect(keyHint('a-key-of-the-environment')).toBe('a-ke…');
  });

  it('are compared by hashes of equal length', () => {
    expect(sameHash(hashApiKey('a'), hashApiKey('a'))).toBe(true);
    expect(sameHash(hashApiKey('a'), hashApiKey('b'))).toBe(false);
    expect(sameHash(hashApiKey('a'), '')).toBe(false);
  });
});

describe('page tokens', () => {
  it('come back as they went, for the same list only', () => {
    const id = fc.stringMatching(/^[a-z]{3}_[0-9a-z]{26}$/);
    fc.assert(
      fc.property(fc.string(), fc.string(), id, (list, other, last) => {
        const token = encodePageToken(list, last);
        expect(decodePageToken(list, token)).toBe(last);
        if (other !== list) expect(() => decodePageToken(other, token)).toThrow(/another list/);
      }),
    );
  });

  it('anything else is refused with the same code', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.base64String(),
          fc.json().map((text) => Buffer.from(text).toString('base64url')),
        ),
        (token) => {
          expect(() => decodePageToken('jobs', token)).toThrow(expect.objectContaining({ code: 'page-token-invalid' }));
        },
      ),
    );
    const forged = Buffer.from(JSON.stringify([1, 'x', "'; drop table jobs"])).toString('base64url');
    expect(() => decodePageToken('jobs', forged)).toThrow();
  });
});

describe('Idempotency-Key', () => {
  it('is the same quoted and bare', () => {
    expect(parseIdempotencyKey('abc')).toBe('abc');
    expect(parseIdempotencyKey('"abc"')).toBe('abc');
    expect(parseIdempotencyKey('"a\\"b\\\\c"')).toBe('a"b\\c');
    expect(parseIdempotencyKey(undefined)).toBeUndefined();
  });
  it('has 1 to 255 printable characters', () => {
    for (const bad of ['', '""', 'a'.repeat(256), 'ä', 'a\tb']) expect(() => parseIdempotencyKey(bad), bad).toThrow();
  });
});
