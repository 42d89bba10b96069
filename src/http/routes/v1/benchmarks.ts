import { Type } from 'typebox';
import { BenchmarkPage } from '../../schemas/benchmark.ts';
import { answers, json, Page, ref } from '../../schemas/common.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

export async function benchmarkRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.get(
    '/v1/benchmarks',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listBenchmarks',
        tags: ['Benchmarks'],
        summary: 'List what was measured, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(
          {
            ...Page,
            deviceProfile: Type.Optional(Type.String({ maxLength: 200, description: 'Name or id.' })),
            model: Type.Optional(Type.String({ maxLength: 200, description: 'mdl_…' })),
          },
          { additionalProperties: false },
        ),
        response: answers({ 200: json('A page of benchmarks.', ref(BenchmarkPage)) }, [404, 422]),
      },
    },
    async (request) => services.benchmarks.list(request.query),
  );
}
