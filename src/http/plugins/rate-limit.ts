import rateLimit from '@fastify/rate-limit';
import type { FastifyRequest } from 'fastify';
import { HalftoneError } from '../../domain/errors.ts';
import type { App } from '../types.ts';
import type { Identify } from './auth.ts';

export interface RateLimitOptions {
  /** Requests a window, by API key (by address without a valid one). */
  max: number;
  windowSeconds: number;
  /** An ioredis client, where several processes count together. */
  redis?: unknown;
}

const OLD_HEADERS = ['x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset'] as const;

/**
 * Counts requests and says how many are left, as draft-ietf-httpapi-ratelimit-headers has it: the plugin still writes the
 * three headers of older drafts, which are turned into `RateLimit-Policy` and `RateLimit` on the way out.
 * Routes without a scope (health, documents) are not counted.
 */
export async function registerRateLimit(app: App, identify: Identify, options: RateLimitOptions): Promise<void> {
  await app.register(rateLimit, {
    global: true,
    max: options.max,
    timeWindow: options.windowSeconds * 1000,
    skipOnError: true,
    ...(options.redis ? { redis: options.redis, nameSpace: 'halftone:rate:' } : {}),
    allowList: (request: FastifyRequest) => request.routeOptions.config.scope === undefined,
    async keyGenerator(request: FastifyRequest) {
      if (request.routeOptions.config.scope === undefined) return '';
      const who = await identify(request);
      return who instanceof HalftoneError ? `address:${request.ip}` : `key:${who.id}`;
    },
    errorResponseBuilder: (_request, context) =>
      new HalftoneError(
        'rate-limited',
        `${context.max} requests in ${options.windowSeconds} s are allowed; try again in ${Math.ceil(context.ttl / 1000)} s.`,
      ),
  });
  app.addHook('onSend', async (_request, reply) => {
    const remaining = reply.getHeader('x-ratelimit-remaining');
    const reset = reply.getHeader('x-ratelimit-reset');
    if (remaining === undefined) return;
    for (const name of OLD_HEADERS) reply.removeHeader(name);
    reply.header('RateLimit-Policy', `"default";q=${options.max};w=${options.windowSeconds}`);
    reply.header('RateLimit', `"default";r=${remaining};t=${reset}`);
  });
}
