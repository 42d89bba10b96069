/**
 * Where a webhook may go. A user names the address and this service calls it from inside its own network, so that without
 * a guard every internal address (a cloud's metadata service, the database, a neighbour's admin page) could be reached
 * through it. Rules:
 * 1. https only, no user or password in the URL.
 * 2. Every address must be public, those that a name resolves to as well as literal ones.
 * 3. The address that was checked is the address that is connected to: the check sits in the connector, so that a name
 *    that resolves to something else a moment later (DNS rebinding) gains nothing.
 * 4. Origins of the allow-list are exempt from 1 and 2; it is empty unless the operator fills it.
 */
import { lookup as dnsLookup } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { Agent, buildConnector } from 'undici';
import { HalftoneError } from '../domain/errors.ts';

/** A refusal by the guard; its message goes into the delivery's log. */
class WebhookTargetError extends Error {
  override readonly name = 'WebhookTargetError';
}

/**
 * Whether an address is a public unicast one. IPv4 addresses inside IPv6 ones (mapped, NAT64, 6to4, Teredo) are not: the
 * first is unwrapped and judged, the others are refused, since what they lead to depends on the network.
 */
export function isPublicAddress(address: string): boolean {
  const bare = address.startsWith('[') && address.endsWith(']') ? address.slice(1, -1) : address;
  if (isIP(bare) === 0) return false;
  const parsed = ipaddr.process(bare);
  // A scope (fe80::1%eth0) names an interface of this machine.
  if (bare.includes('%')) return false;
  return parsed.range() === 'unicast';
}

/**
 * What the operator exempts: an origin (`http://127.0.0.1:9000`; `http://127.0.0.1:*` for any port), a host
 * (`hooks.internal`, `127.0.0.1`), or a range of addresses (`10.0.0.0/8`). Hosts and ranges may be reached by http, too.
 */
export type WebhookAllowList = readonly string[];

const portOf = (protocol: string, port: string) => port || (protocol === 'https:' ? '443' : '80');

/** Whether an entry of the list is a range that holds this address. */
function inAllowedRange(address: string, allow: WebhookAllowList): boolean {
  const bare = address.replace(/^\[|\]$/g, '');
  if (isIP(bare) === 0 || bare.includes('%')) return false;
  const parsed = ipaddr.process(bare);
  return allow.some((entry) => {
    if (!ipaddr.isValidCIDR(entry)) return false;
    const range = ipaddr.parseCIDR(entry);
    return range[0].kind() === parsed.kind() && parsed.match(range);
  });
}

function isAllowed(protocol: string, hostname: string, port: string, allow: WebhookAllowList): boolean {
  const listed = allow.some((entry) => {
    if (!entry.includes('://')) return entry.toLowerCase() === hostname.replace(/^\[|\]$/g, '');
    const anyPort = entry.endsWith(':*');
    const origin = anyPort ? entry.slice(0, -2) : entry;
    if (!URL.canParse(origin)) return false;
    const url = new URL(origin);
    return url.protocol === protocol && url.hostname === hostname && (anyPort || portOf(url.protocol, url.port) === portOf(protocol, port));
  });
  return listed || inAllowedRange(hostname, allow);
}

/**
 * Checks what can be known of an address without resolving it, when an endpoint is made and again before each delivery.
 * @throws HalftoneError `webhook-target`
 */
export function checkWebhookUrl(address: string, allow: WebhookAllowList): URL {
  if (!URL.canParse(address)) throw new HalftoneError('webhook-target', 'The address is not an absolute URL.');
  const url = new URL(address);
  if (url.username || url.password) throw new HalftoneError('webhook-target', 'The URL must not hold a user or a password.');
  if (isAllowed(url.protocol, url.hostname, url.port, allow)) return url;
  if (url.protocol !== 'https:') throw new HalftoneError('webhook-target', `The scheme must be https, not ${url.protocol.slice(0, -1)}.`);
  const literal = url.hostname.startsWith('[') || isIP(url.hostname) !== 0;
  if (literal && !isPublicAddress(url.hostname)) throw new HalftoneError('webhook-target', `${url.hostname} is not a public address.`);
  return url;
}

/** Resolves a name and refuses it when one of its addresses is not public: a name with one foot inside is not trusted with the other. */
const guardedLookup =
  (allow: WebhookAllowList): LookupFunction =>
  (hostname, options, callback) => {
    dnsLookup(hostname, { ...options, all: true, verbatim: true }, (error, addresses) => {
      if (error) return callback(error, '', 0);
      const inside = addresses.find(({ address }) => !isPublicAddress(address) && !inAllowedRange(address, allow));
      if (inside !== undefined || addresses.length === 0)
        return callback(
          new WebhookTargetError(`${hostname} resolves to ${inside?.address ?? 'nothing'}, which is not a public address.`),
          '',
          0,
        );
      if (options.all) return callback(null, addresses);
      callback(null, addresses[0]!.address, addresses[0]!.family);
    });
  };

/**
 * A dispatcher that connects to public addresses only. undici calls `lookup` for names alone, so that literal addresses are
 * checked in the connector itself; connections are not kept, since an endpoint gets a delivery once in a while.
 */
export function guardedAgent(allow: WebhookAllowList, connectTimeoutMs: number): Agent {
  const open = buildConnector({ timeout: connectTimeoutMs });
  const guarded = buildConnector({ timeout: connectTimeoutMs, lookup: guardedLookup(allow) });
  return new Agent({
    pipelining: 0,
    keepAliveTimeout: 1,
    connect(options, callback) {
      if (isAllowed(options.protocol, options.hostname, options.port ?? '', allow)) return open(options, callback);
      const literal = options.hostname.startsWith('[') || isIP(options.hostname) !== 0;
      if (literal && !isPublicAddress(options.hostname))
        return callback(new WebhookTargetError(`${options.hostname} is not a public address.`), null);
      if (options.protocol !== 'https:') return callback(new WebhookTargetError('The scheme must be https.'), null);
      guarded(options, callback);
    },
  });
}
