import { createHmac } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { DISABLE_AFTER_MS, RETRY_DELAYS_MS, retryDelayMs } from '../../../src/webhooks/schedule.ts';
import { newWebhookSecret, signedHeaders } from '../../../src/webhooks/sign.ts';

describe('signatures', () => {
  it('are HMAC-SHA256 of id, time and body under the decoded secret', () => {
    const secret = newWebhookSecret();
    const at = new Date(1_700_000_000_500);
    const headers = signedHeaders('msg_1', at, '{"ä":1}', [secret]);
    const expected = createHmac('sha256', Buffer.from(secret.slice(6), 'base64'))
      .update('msg_1.1700000000.{"ä":1}')
      .digest('base64');
    expect(headers).toEqual({ 'webhook-id': 'msg_1', 'webhook-timestamp': '1700000000', 'webhook-signature': `v1,${expected}` });
  });

  it('verify under either of two live secrets', () => {
    const secrets = [newWebhookSecret(), newWebhookSecret()];
    const headers = signedHeaders('msg_1', new Date(), '{}', secrets);
    for (const secret of secrets) expect(new Webhook(secret).verify('{}', headers)).toEqual({});
    expect(() => new Webhook(newWebhookSecret()).verify('{}', headers)).toThrow();
  });

  it('secrets are long and differ', () => {
    expect(newWebhookSecret()).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect(newWebhookSecret()).not.toBe(newWebhookSecret());
  });
});

describe('the schedule', () => {
  it('is that of the service’s conventions, with up to a fifth more', () => {
    const hours = [0, 5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24];
    expect(RETRY_DELAYS_MS.map((ms) => ms / 3_600_000)).toEqual(hours);
    for (let attempts = 1; attempts < hours.length; attempts++) {
      expect(retryDelayMs(attempts, 0, () => 0)).toBe(RETRY_DELAYS_MS[attempts]);
      expect(retryDelayMs(attempts, 0, () => 1)).toBe(Math.round(RETRY_DELAYS_MS[attempts]! * 1.2));
    }
    expect(retryDelayMs(hours.length)).toBeNull();
    expect(DISABLE_AFTER_MS).toBe(5 * 24 * 3_600_000);
  });

  it('waits longer where asked to, within a day', () => {
    expect(retryDelayMs(1, 60_000, () => 0)).toBe(60_000);
    expect(retryDelayMs(4, 60_000, () => 0)).toBe(2 * 3_600_000);
    expect(retryDelayMs(1, 1e12, () => 0)).toBe(24 * 3_600_000);
  });
});
