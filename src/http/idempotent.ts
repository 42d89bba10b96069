import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Answer, parseIdempotencyKey, type Remember } from '../services/idempotency.ts';
import type { Services } from '../services/index.ts';
import { principalOf } from './plugins/auth.ts';

/**
 * Answers a request that may carry an Idempotency-Key: does the work once and sends its answer, or sends the answer that
 * the first request with this key got.
 * @param payload what makes two requests the same: the body, or an upload's hash
 */
export async function answerOnce(
  services: Services,
  request: FastifyRequest,
  reply: FastifyReply,
  payload: unknown,
  work: (remember: Remember) => Promise<Answer>,
): Promise<FastifyReply> {
  const header = request.headers['idempotency-key'];
  const answer = await services.idempotency.once(
    {
      ownerId: principalOf(request).id,
      key: parseIdempotencyKey(Array.isArray(header) ? header[0] : header),
      operation: `${request.method} ${request.url}`,
      payload,
    },
    work,
  );
  reply.code(answer.status).headers(answer.header);
  if (answer.replayed) reply.header('idempotency-replayed', 'true');
  return reply.send(answer.body);
}
