import { type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { ERRORS, HalftoneError } from '../../domain/errors.ts';
import { PROBLEM_TYPE, problemBody, toHalftoneError } from '../problem.ts';
import type { App } from '../types.ts';

/** Sends an error as problem+json. */
export function sendProblem(reply: FastifyReply, error: HalftoneError): FastifyReply {
  return (
    reply
      .code(ERRORS[error.code].status)
      .headers(error.headers)
      .header('content-type', PROBLEM_TYPE)
      // Set by a hook as a rule; what Fastify refuses before routing meets none.
      .header('x-request-id', reply.request.id)
      .serializer((body: unknown) => JSON.stringify(body))
      .send(problemBody(error, reply.request.id))
  );
}

/** How long the rest of a refused body is read and thrown away. */
const LINGER_MS = 10_000;

/**
 * Lets a client that is still sending its body see the answer. Closing at once would reset the connection, and most
 * clients then report a broken pipe in place of the answer; reading the rest for ever would give them our bandwidth.
 */
function linger(request: FastifyRequest, reply: FastifyReply): void {
  const { raw } = request;
  if (raw.complete || raw.destroyed) return;
  // Fastify sets `close` where a parser gave up; Node then ends the connection under the client's hands.
  reply.removeHeader('connection');
  reply.raw.once('finish', () => {
    raw.unpipe();
    raw.resume();
    const timer = setTimeout(() => raw.socket.destroy(), LINGER_MS);
    timer.unref();
    const stop = () => clearTimeout(timer);
    raw.once('end', stop).once('close', stop);
  });
}

/** Every error leaves as problem+json: what handlers throw, what Fastify finds, unknown paths and methods. */
export function registerErrors(app: App): void {
  const routes: { pattern: RegExp; methods: Set<string> }[] = [];
  app.addHook('onRoute', (route) => {
    const pattern = new RegExp(
      `^${route.url
        .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
        .replace(/:[^/]+/g, '[^/]+')
        .replace(/\*/g, '.*')}$`,
    );
    const known = routes.find((r) => r.pattern.source === pattern.source);
    const methods = Array.isArray(route.method) ? route.method : [route.method];
    if (known) for (const method of methods) known.methods.add(method);
    else routes.push({ pattern, methods: new Set(methods) });
  });

  app.setErrorHandler((error, request, reply) => {
    const problem = toHalftoneError(error);
    if (ERRORS[problem.code].status >= 500) request.log.error({ err: problem.cause ?? problem }, problem.message);
    else request.log.info({ code: problem.code, detail: problem.detail }, 'refused');
    linger(request, reply);
    return sendProblem(reply, problem);
  });

  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0]!;
    const allowed = routes.filter(({ pattern }) => pattern.test(path)).flatMap(({ methods }) => [...methods]);
    linger(request, reply);
    if (allowed.length === 0) return sendProblem(reply, new HalftoneError('not-found', `There is nothing at ${path}.`));
    const allow = [...new Set(allowed)].sort().join(', ');
    return sendProblem(reply, new HalftoneError('method-not-allowed', `${path} takes ${allow}.`, { headers: { allow } }));
  });
}

/** What Node's parser refuses never becomes a request: it is answered on the socket. */
export function onClientError(error: Error & { code?: string }, socket: Socket & { _httpMessage?: ServerResponse }): void {
  // An answer has begun already (the client broke off its upload): nothing may be written between its bytes.
  if (!socket.writable || error.code === 'ECONNRESET' || socket._httpMessage?.headersSent) {
    socket.destroy(error);
    return;
  }
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400;
  const problem = new HalftoneError('malformed-body', 'The request is not well-formed HTTP.');
  const body = JSON.stringify({ ...problemBody(problem, ''), status });
  const phrase = STATUS_CODES[status];
  socket.end(
    `HTTP/1.1 ${status} ${phrase}\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
