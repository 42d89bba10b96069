import { expect, it } from 'vitest';
import { newId } from '../../../src/domain/ids.ts';

it('ids are prefixed, sort by the time they were made, within a millisecond too, and never repeat', () => {
  const now = Date.UTC(2026, 10, 24);
  const burst = Array.from({ length: 5000 }, () => newId('job', now));
  const ids = [newId('job', now - 1), ...burst, newId('job', now + 1)];
  expect([...burst].sort()).toEqual(burst);
  expect(new Set(ids).size).toBe(ids.length);
  expect([...ids].sort()).toEqual(ids);
  for (const id of ids) expect(id).toMatch(/^job_[0-9a-hjkmnp-tv-z]{26}$/);
  expect(newId('variant')).toMatch(/^var_/);
});
