/** The API, apart from the process that runs it: `buildApp` opens no port and reads no environment. */
import { randomBytes } from 'node:crypto';
import underPressure from '@fastify/under-pressure';
import Fastify, { type FastifyBaseLogger, LogController } from 'fastify';
import { HalftoneError } from '../domain/errors.ts';
import type { Services } from '../services/index.ts';
import { nestsTooDeep } from './json.ts';
import { registerDocs, registerOpenApi } from './openapi.ts';
import { identifier, registerAuth } from './plugins/auth.ts';
import { onClientError, registerErrors, sendProblem } from './plugins/errors.ts';
import { registerLifetime } from './plugins/lifetime.ts';
import { type RateLimitOptions, registerRateLimit } from './plugins/rate-limit.ts';
import { registerValidation } from './plugins/validation.ts';
import { toHalftoneError } from './problem.ts';
import type { HealthDeps } from './routes/health.ts';
import { healthRoutes } from './routes/health.ts';
import { apiKeyRoutes } from './routes/v1/api-keys.ts';
import { artifactRoutes } from './routes/v1/artifacts.ts';
import { benchmarkRoutes } from './routes/v1/benchmarks.ts';
import { datasetRoutes } from './routes/v1/datasets.ts';
import { deviceProfileRoutes } from './routes/v1/device-profiles.ts';
import { jobRoutes } from './routes/v1/jobs.ts';
import { modelRoutes } from './routes/v1/models.ts';
import { webhookRoutes } from './routes/v1/webhook-endpoints.ts';
import type { App } from './types.ts';
import { UPLOAD_LIMITS, type UploadLimits } from './upload.ts';

export interface AppOptions {
  services: Services;
  /** pino, or false for none. */
  logger: FastifyBaseLogger | false;
  /** Counts requests and renders /metrics; src/telemetry's `Metrics`. */
  metrics: {
    request(event: { method: string; route: string; status: number; ms: number }): void;
    render(): Promise<{ contentType: string; body: string }>;
  };
  /** Of the service, in the document. */
  version: string;
  maxModelBytes: number;
  maxDatasetBytes: number;
  /** Null = no limit of requests. */
  rateLimit: RateLimitOptions | null;
  /** When uploads are cut; see http/upload.ts. */
  uploads?: UploadLimits;
  /** True once the process has begun to stop: /readyz says so. */
  stopping?: () => boolean;
  /** Whether a proxy in front may say whose request it is (X-Forwarded-For). */
  trustProxy?: boolean;
  /** An event loop later than this, in ms, refuses requests; 0 = never. */
  maxEventLoopDelayMs?: number;
}

/** Bodies of JSON: the largest sensible job, with a thousand excluded layers in each of 32 recipes, stays well below. */
const JSON_BYTES = 4 * 1024 * 1024;

/** Builds the API. Listen on it, or `inject` into it; `close` ends streams and waits first. */
export async function buildApp(options: AppOptions): Promise<App> {
  const app: App = Fastify({
    ...(options.logger ? { loggerInstance: options.logger } : { logger: false }),
    // Fastify's own two lines a request are replaced by the one below.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: () => `req_${randomBytes(12).toString('hex')}`,
    requestIdHeader: false,
    bodyLimit: JSON_BYTES,
    trustProxy: options.trustProxy ?? false,
    // Uploads take hours; what stalls is cut by the upload itself.
    requestTimeout: 0,
    keepAliveTimeout: 65_000,
    forceCloseConnections: 'idle',
    // Fastify's answer while closing is no problem+json; what still comes in is served.
    return503OnClosing: false,
    clientErrorHandler: onClientError,
    frameworkErrors: (error, _request, reply) => {
      sendProblem(reply, toHalftoneError(error));
    },
    routerOptions: { maxParamLength: 2500 },
  });

  const plainJson = app.getDefaultJsonParser('error', 'error');
  app.removeContentTypeParser(['application/json', 'text/plain']);
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    // Clients that set the type on every request send it with none, too; a route that needs a body says so by its schema.
    if (body === '') done(null, undefined);
    else if (nestsTooDeep(body as string))
      done(new HalftoneError('malformed-body', 'The JSON nests deeper than any request does.'), undefined);
    else plainJson(request, body as string, done);
  });

  registerValidation(app);
  registerErrors(app);
  registerLifetime(app);
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id);
  });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'unknown';
    options.metrics.request({ method: request.method, route, status: reply.statusCode, ms: reply.elapsedTime });
    const { scope } = request.routeOptions.config;
    // Health checks come every few seconds and say nothing.
    request.log[scope === undefined ? 'debug' : 'info'](
      { method: request.method, route, url: request.url.split('?', 1)[0], status: reply.statusCode, ms: Math.round(reply.elapsedTime) },
      'request',
    );
  });
  if (options.maxEventLoopDelayMs !== 0) {
    await app.register(underPressure, {
      maxEventLoopDelay: options.maxEventLoopDelayMs ?? 3000,
      pressureHandler(request) {
        // Health must be seen, above all now.
        if (request.routeOptions.config.scope === undefined) return;
        throw new HalftoneError('service-unavailable', 'The service is under too much load.', { headers: { 'retry-after': '10' } });
      },
    });
  }

  await registerOpenApi(app, options.version);
  const identify = identifier(() => options.services.keys);
  if (options.rateLimit) await registerRateLimit(app, identify, options.rateLimit);
  registerAuth(app, identify);

  const deps: HealthDeps = {
    services: options.services,
    uploads: options.uploads ?? UPLOAD_LIMITS,
    maxModelBytes: options.maxModelBytes,
    maxDatasetBytes: options.maxDatasetBytes,
    metrics: options.metrics,
    stopping: options.stopping ?? (() => false),
  };
  for (const routes of [
    modelRoutes,
    datasetRoutes,
    deviceProfileRoutes,
    jobRoutes,
    artifactRoutes,
    benchmarkRoutes,
    apiKeyRoutes,
    webhookRoutes,
  ]) {
    await app.register((instance) => routes(instance as App, deps));
  }
  await app.register((instance) => healthRoutes(instance as App, deps));
  await registerDocs(app);
  return app;
}
