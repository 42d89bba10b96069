import { Type } from 'typebox';
import { component, problemAnswer, ref } from '../schemas/common.ts';
import type { App } from '../types.ts';
import type { RouteDeps } from './deps.ts';

const Readiness = component(
  'Readiness',
  Type.Object({
    status: Type.Enum(['ready', 'unready', 'stopping']),
    parts: Type.Array(Type.Object({ name: Type.String(), ok: Type.Boolean(), ms: Type.Integer(), error: Type.Optional(Type.String()) })),
  }),
);

export interface HealthDeps extends RouteDeps {
  metrics: { render(): Promise<{ contentType: string; body: string }> };
  /** True once the process has begun to stop: a balancer then sends nothing new. */
  stopping: () => boolean;
}

export async function healthRoutes(app: App, { services, metrics, stopping }: HealthDeps): Promise<void> {
  app.get(
    '/livez',
    {
      schema: {
        operationId: 'getLiveness',
        tags: ['Service'],
        summary: 'Whether the process runs',
        security: [],
        response: { 200: { description: 'It does.', content: { 'text/plain': { schema: Type.String() } } }, 400: problemAnswer(400) },
      },
    },
    async (_request, reply) => reply.header('content-type', 'text/plain; charset=utf-8').serializer(String).send('ok'),
  );

  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'getReadiness',
        tags: ['Service'],
        summary: 'Whether requests can be served: database, queue, storage',
        security: [],
        response: {
          200: { description: 'They can.', content: { 'application/json': { schema: ref(Readiness) } } },
          400: problemAnswer(400),
          503: { description: 'They cannot; `parts` says why.', content: { 'application/json': { schema: ref(Readiness) } } },
        },
      },
    },
    async (_request, reply) => {
      const parts = await services.health.check();
      const status = stopping() ? 'stopping' : parts.every((part) => part.ok) ? 'ready' : 'unready';
      return reply
        .code(status === 'ready' ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({ status, parts });
    },
  );

  app.get(
    '/metrics',
    {
      schema: {
        operationId: 'getMetrics',
        tags: ['Service'],
        summary: 'Figures for Prometheus',
        security: [],
        response: {
          200: { description: 'In Prometheus’ text format.', content: { 'text/plain': { schema: Type.String() } } },
          400: problemAnswer(400),
        },
      },
    },
    async (_request, reply) => {
      const { contentType, body } = await metrics.render();
      return reply.header('content-type', contentType).serializer(String).send(body);
    },
  );
}
