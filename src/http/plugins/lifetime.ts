import { HalftoneError } from '../../domain/errors.ts';
import type { App } from '../types.ts';

/** Gives each request a signal that ends when its client goes away or the server begins to close, so that waits and streams do not hold the close up. */
export function registerLifetime(app: App): { closing: AbortSignal } {
  const closing = new AbortController();
  app.decorateRequest('gone', { getter: () => closing.signal });
  app.addHook('onRequest', async (request, reply) => {
    const gone = new AbortController();
    const shutdown = () =>
      gone.abort(new HalftoneError('service-unavailable', 'The service is shutting down.', { headers: { 'retry-after': '5' } }));
    if (closing.signal.aborted) shutdown();
    closing.signal.addEventListener('abort', shutdown);
    reply.raw.once('close', () => {
      closing.signal.removeEventListener('abort', shutdown);
      gone.abort(new HalftoneError('upload-incomplete', 'The client went away.'));
    });
    Object.defineProperty(request, 'gone', { value: gone.signal });
  });
  let sweep: NodeJS.Timeout | undefined;
  app.addHook('preClose', async () => {
    closing.abort();
    // `close` ends the connections that are idle when it is called; those that finish what they had come after it.
    sweep = setInterval(() => app.server.closeIdleConnections(), 100);
    sweep.unref();
  });
  app.addHook('onClose', async () => clearInterval(sweep));
  return { closing: closing.signal };
}
