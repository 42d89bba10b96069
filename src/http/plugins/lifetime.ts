import type { App } from '../types.ts';

/** Gives each request a signal that ends when its client goes away or the server begins to close, so that waits and streams do not hold the close up. */
export function registerLifetime(app: App): { closing: AbortSignal } {
  const closing = new AbortController();
  app.decorateRequest('gone', { getter: () => closing.signal });
  app.addHook('onRequest', async (request, reply) => {
    const gone = new AbortController();
    const end = () => {
      closing.signal.removeEventListener('abort', end);
      gone.abort();
    };
    if (closing.signal.aborted) gone.abort();
    closing.signal.addEventListener('abort', end);
    reply.raw.once('close', end);
    Object.defineProperty(request, 'gone', { value: gone.signal });
  });
  app.addHook('preClose', async () => closing.abort());
  return { closing: closing.signal };
}
