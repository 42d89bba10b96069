import { describe, expect, it } from 'vitest';
import { isOutOfRoom } from '../../../src/domain/errors.ts';

describe('isOutOfRoom', () => {
  it.each([
    ['Node', Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })],
    ['a quota', Object.assign(new Error('x'), { code: 'EDQUOT' })],
    ['PostgreSQL', Object.assign(new Error('could not extend file'), { code: '53100' })],
    [
      'Prisma',
      Object.assign(new Error('Database error'), {
        code: 'P2039',
        meta: { modelName: 'Job', driverAdapterError: { name: 'DriverAdapterError', cause: { originalCode: '53100', kind: 'postgres' } } },
      }),
    ],
    ['words alone', new Error('write failed: No space left on device')],
    ['a cause', new Error('it failed', { cause: new Error('so did this', { cause: { code: 'ENOSPC' } }) })],
  ])('knows %s', (_, error) => {
    expect(isOutOfRoom(error)).toBe(true);
  });

  it('takes nothing else for it, whatever was thrown', () => {
    const ring = new Error('round');
    ring.cause = ring;
    for (const error of [null, undefined, 'ENOSPC', 53100, new Error('ENOENT'), { code: 'P2002' }, ring, { meta: null }])
      expect(isOutOfRoom(error)).toBe(false);
  });
});
