import { describe, expect, it } from 'vitest';
import { createLogger } from '../../../src/telemetry/logger.ts';

function capture(secrets: string[] = []) {
  const lines: string[] = [];
  const log = createLogger({ level: 'debug', name: 'api', secrets, destination: { write: (line) => void lines.push(line) } });
  return { log, last: () => JSON.parse(lines.at(-1)!) as Record<string, unknown>, text: () => lines.join('') };
}

describe('createLogger', () => {
  it('writes JSON lines with level, name, ISO time and bindings', () => {
    const { log, last } = capture();
    log.child({ job: 'job_1' }).info({ ms: 12 }, 'done');
    expect(last()).toMatchObject({
      level: 'info',
      name: 'api',
      job: 'job_1',
      ms: 12,
      msg: 'done',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    });
    log.error({ err: new Error('broken') }, 'failed');
    expect(last()).toMatchObject({ level: 'error', err: { message: 'broken', stack: expect.any(String) } });
  });

  it('redacts fields by name', () => {
    const { log, last } = capture();
    log.info(
      {
        req: { method: 'GET', headers: { authorization: 'Basic abcdefgh', cookie: 'sid=1' } },
        password: 'p',
        endpoint: { secret: 's', url: 'https://x' },
        s3: { secretAccessKey: 'k' },
      },
      'request',
    );
    expect(last()).toMatchObject({
      req: { method: 'GET', headers: { authorization: '[redacted]', cookie: '[redacted]' } },
      password: '[redacted]',
      endpoint: { secret: '[redacted]', url: 'https://x' },
      s3: { secretAccessKey: '[redacted]' },
    });
  });

  it.each([
    ['a bearer key', 'sent Authorization: Bearer abc.DEF-123_x, and more', 'abc.DEF-123_x'],
    ['a key of ours', 'key hft_0123456789abcdefghij refused', '0123456789abcdefghij'],
    ['a webhook secret', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
    ['a presigned URL', 'GET https://s3/b/k?X-Amz-Credential=AKIA%2F2026&X-Amz-Date=1&X-Amz-Signature=deadbeef01&x=1 failed', 'deadbeef01'],
    ['a database URL', 'connect postgresql://halftone:hunter22@db:5432/x', 'hunter22'],
    ['a Redis URL', 'connect redis://:hunter22@cache:6379', 'hunter22'],
  ])('takes %s out of messages and stacks', (_, message, secret) => {
    const { log, last, text } = capture();
    log.warn(message);
    log.warn({ err: new Error(message), deep: { er: [message] } }, 'failed');
    expect(text()).not.toContain(secret);
    expect(text()).toContain('[redacted]');
    expect(last()).toMatchObject({ msg: 'failed' });
  });

  it('takes out configured values, also those that JSON escapes, and leaves the rest alone', () => {
    const { log, last, text } = capture(['an"odd\\key of 16', 'x', '']);
    log.info({ url: 'https://user@host/path?pageToken=abc', note: 'key is an"odd\\key of 16!' }, 'x marks');
    expect(text()).not.toContain('odd');
    expect(last()).toMatchObject({ url: 'https://user@host/path?pageToken=abc', note: 'key is [redacted]!', msg: 'x marks' });
  });
});
