import type { FastifyRequest } from 'fastify';
import { HalftoneError } from '../../domain/errors.ts';
import { covers } from '../../domain/keys.ts';
import type { KeyService, Principal } from '../../services/keys.ts';
import type { App } from '../types.ts';

/** Whom a request is from: asked once a request, by the rate limit first (which counts failures too) and then by the guard. */
export type Identify = (request: FastifyRequest) => Promise<Principal | HalftoneError>;

export function identifier(keys: () => KeyService): Identify {
  const known = new WeakMap<FastifyRequest, Promise<Principal | HalftoneError>>();
  return (request) => {
    const before = known.get(request);
    if (before) return before;
    const asked = keys()
      .authenticate(request.headers.authorization)
      .catch((error: unknown) => {
        if (error instanceof HalftoneError && error.code === 'unauthenticated') return error;
        throw error;
      });
    known.set(request, asked);
    return asked;
  };
}

/**
 * Lets through who has a key with the route's scope. Register it after the rate limit, which hangs itself on each route: a hook
 * of the whole app would run before it, and keys could be guessed without being counted.
 */
export function registerAuth(app: App, identify: Identify): void {
  app.decorateRequest('principal', null);
  const guard = async (request: FastifyRequest): Promise<void> => {
    const need = request.routeOptions.config.scope;
    if (need === undefined) return;
    const who = await identify(request);
    if (who instanceof HalftoneError) throw who;
    if (!covers(who.scopes, need)) {
      throw new HalftoneError('forbidden', `This needs the scope ${need}; the key ${who.id} has ${who.scopes.join(', ') || 'none'}.`);
    }
    request.principal = who;
    request.log = request.log.child({ apiKey: who.id });
  };
  app.addHook('onRoute', (route) => {
    const before = [route.onRequest ?? []].flat();
    // A GET's HEAD comes with the hooks of the GET.
    if (!before.includes(guard)) route.onRequest = [...before, guard];
  });
}

/** The key's owner, on a route that needs a key. */
export function principalOf(request: FastifyRequest): Principal {
  if (request.principal === null) throw new Error('the route asks for no scope');
  return request.principal;
}
