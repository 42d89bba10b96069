import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WebhookSender } from '../../../src/webhooks/deliver.ts';
import { checkWebhookUrl, isPublicAddress } from '../../../src/webhooks/guard.ts';

describe('isPublicAddress', () => {
  it('knows the registries of special addresses (IANA, RFC 6890 and after)', () => {
    const inside = [
      '0.0.0.0',
      '0.1.2.3',
      '10.0.0.1',
      '100.64.0.1',
      '100.127.255.255',
      '127.0.0.1',
      '127.255.255.254',
      '169.254.169.254',
      '172.16.0.1',
      '172.31.255.255',
      '192.0.0.1',
      '192.0.2.1',
      '192.168.1.1',
      '198.18.0.1',
      '198.19.255.255',
      '198.51.100.1',
      '203.0.113.1',
      '224.0.0.1',
      '239.255.255.255',
      '240.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
      '[::1]',
      '::127.0.0.1',
      '::ffff:10.0.0.1',
      '::ffff:7f00:1',
      '64:ff9b::a00:1',
      '64:ff9b:1::1',
      '100::1',
      '2001::1',
      '2001:db8::1',
      '2002:7f00:1::',
      'fc00::1',
      'fd12:3456::1',
      'fe80::1',
      'fe80::1%eth0',
      'fec0::1',
      'ff02::1',
      '3fff::1',
      '5f00::1',
      'example.com',
      '',
      '1.2.3',
      '1.2.3.4.5',
      '0x7f.0.0.1',
      '127.1',
    ];
    for (const address of inside) expect(isPublicAddress(address), address).toBe(false);
    for (const address of [
      '1.1.1.1',
      '8.8.8.8',
      '93.184.216.34',
      '172.32.0.1',
      '100.128.0.1',
      '2606:4700::1111',
      '[2a00:1450:4001::1]',
      '::ffff:8.8.8.8',
    ]) {
      expect(isPublicAddress(address), address).toBe(true);
    }
  });

  it('judges an IPv4 address the same inside IPv6', () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        expect(isPublicAddress(`::ffff:${address}`)).toBe(isPublicAddress(address));
      }),
    );
  });

  it('never throws', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.ipV6(), fc.webAuthority()), (text) => typeof isPublicAddress(text) === 'boolean'));
  });
});

describe('checkWebhookUrl', () => {
  const allows = (url: string, allow: string[]) => {
    try {
      checkWebhookUrl(url, allow);
      return true;
    } catch {
      return false;
    }
  };

  it('lets the operator’s list through, and nothing beside it', () => {
    expect(allows('http://127.0.0.1:9000/x', ['http://127.0.0.1:9000'])).toBe(true);
    expect(allows('http://127.0.0.1:9001/x', ['http://127.0.0.1:9000'])).toBe(false);
    expect(allows('https://127.0.0.1:9000/x', ['http://127.0.0.1:9000'])).toBe(false);
    expect(allows('http://127.0.0.1:9001/x', ['http://127.0.0.1:*'])).toBe(true);
    expect(allows('http://127.0.0.2:9001/x', ['http://127.0.0.1:*'])).toBe(false);
    expect(allows('http://127.0.0.1.example.com/', ['http://127.0.0.1:*'])).toBe(false);
    expect(allows('http://hooks.internal/', ['hooks.internal'])).toBe(true);
    expect(allows('http://evil.hooks.internal/', ['hooks.internal'])).toBe(false);
    expect(allows('http://10.1.2.3/', ['10.0.0.0/8'])).toBe(true);
    expect(allows('http://11.1.2.3/', ['10.0.0.0/8'])).toBe(false);
    expect(allows('https://[fd00::5]/', ['fd00::/8'])).toBe(true);
    expect(allows('https://[::1]/', ['::1'])).toBe(true);
    expect(allows('http://user@127.0.0.1:9000/', ['http://127.0.0.1:9000'])).toBe(false);
    expect(allows('https://example.com/', [''])).toBe(true);
  });

  it('sees through other ways of writing an address', () => {
    for (const host of ['0x7f000001', '2130706433', '017700000001', '127.1', '0', '①②⑦.0.0.1', '[::ffff:7f00:1]', '127.0.0.1.']) {
      expect(allows(`https://${host}/`, []), host).toBe(false);
    }
  });
});

describe('WebhookSender', () => {
  it('does not connect to a literal inside address, for which undici asks no lookup', async () => {
    let hits = 0;
    const server = createServer((_, response) => {
      hits++;
      response.end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const sender = new WebhookSender({ allow: [] });
    const secrets = ['whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'];
    try {
      for (const host of ['127.0.0.1', '[::ffff:127.0.0.1]', 'localhost']) {
        const outcome = await sender.deliver({ id: 'msg_1', url: `https://${host}:${port}/`, body: '{}', secrets });
        expect(outcome).toMatchObject({ ok: false, status: null, error: expect.stringMatching(/not a public address/) });
      }
      expect(hits).toBe(0);
    } finally {
      await sender.close();
      server.close();
    }
  });

  it('waits no longer than its time, for the answer and for its body', async () => {
    const server = createServer((request, response) => {
      if (request.url === '/silent') return;
      response.writeHead(request.url === '/bad' ? 500 : 200);
      response.write('the beginning');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const sender = new WebhookSender({ allow: [origin], timeoutMs: 400 });
    const deliver = (path: string) =>
      sender.deliver({ id: 'msg_1', url: origin + path, body: '{}', secrets: ['whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'] });
    try {
      const started = performance.now();
      expect(await deliver('/silent')).toMatchObject({ ok: false, status: null, error: 'No complete answer within 0.4 s.' });
      // The status is the answer: what a receiver does with the body is not looked at.
      expect(await deliver('/half')).toMatchObject({ ok: true, status: 200 });
      expect(await deliver('/bad')).toMatchObject({ ok: false, status: 500 });
      expect(performance.now() - started).toBeLessThan(4000);
    } finally {
      await sender.close();
      server.closeAllConnections();
      server.close();
    }
  });
});
