import { Type } from 'typebox';
import type { DatasetView } from '../../../services/datasets.ts';
import type { Answer } from '../../../services/idempotency.ts';
import { answerOnce } from '../../idempotent.ts';
import { answers, IdempotencyHeader, IdParams, json, name, Page, ref } from '../../schemas/common.ts';
import { Dataset, DatasetPage } from '../../schemas/dataset.ts';
import type { App } from '../../types.ts';
import { promisedBytes, refuseTooLarge, watched } from '../../upload.ts';
import type { RouteDeps } from '../deps.ts';
import { takeStreams } from './uploads.ts';

const made = (dataset: DatasetView, created: boolean): Answer => ({
  status: created ? 201 : 200,
  header: { location: `/v1/datasets/${dataset.id}` },
  body: dataset,
});

export async function datasetRoutes(app: App, { services, uploads, maxDatasetBytes }: RouteDeps): Promise<void> {
  await app.register(async (streamed: App) => {
    await takeStreams(streamed, false);
    streamed.post(
      '/v1/datasets',
      {
        config: {
          scope: 'write',
          documentedBody: { description: 'The .npz file.', required: true, content: { 'application/octet-stream': { schema: {} } } },
        },
        schema: {
          operationId: 'createDataset',
          tags: ['Data sets'],
          summary: 'Upload a data set',
          description:
            'An .npz whose arrays are named as the model’s inputs, first axis = sample, and `labels`: integers [N], or sequences [N, L] padded with −1. The same bytes twice give the same data set: 201 the first time, 200 afterwards.',
          security: [{ apiKey: [] }],
          querystring: Type.Object({ name: Type.Optional(name) }, { additionalProperties: false }),
          headers: IdempotencyHeader,
          response: answers(
            { 201: json('The data set.', ref(Dataset)), 200: json('The data set that was there with the same bytes.', ref(Dataset)) },
            [400, 408, 409, 413, 415, 422, 507],
          ),
        },
      },
      async (request, reply) => {
        refuseTooLarge(request, maxDatasetBytes);
        const datasetName = request.query.name ?? 'data set';
        const expectedBytes = promisedBytes(request);
        const received = await services.datasets.receive({
          body: watched(request.raw, uploads),
          ...(expectedBytes === undefined ? {} : { expectedBytes }),
          signal: request.gone,
        });
        try {
          return await answerOnce(services, request, reply, received.sha256, async (remember) => {
            const { dataset, created } = await services.datasets.accept(received, datasetName, (tx, shown, isNew) =>
              remember(tx, made(shown, isNew)),
            );
            return made(dataset, created);
          });
        } finally {
          await received.discard();
        }
      },
    );
  });

  app.get(
    '/v1/datasets',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listDatasets',
        tags: ['Data sets'],
        summary: 'List data sets, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of data sets.', ref(DatasetPage)) }, [422]),
      },
    },
    async (request) => services.datasets.list(request.query),
  );

  app.get(
    '/v1/datasets/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getDataset',
        tags: ['Data sets'],
        summary: 'Get a data set',
        security: [{ apiKey: [] }],
        params: IdParams('dataset'),
        response: answers({ 200: json('The data set.', ref(Dataset)) }, [404]),
      },
    },
    async (request) => services.datasets.get(request.params.id),
  );

  app.delete(
    '/v1/datasets/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteDataset',
        tags: ['Data sets'],
        summary: 'Delete a data set and its bytes',
        description: 'Not while a job on it has not ended. Jobs that have ended keep its id.',
        security: [{ apiKey: [] }],
        params: IdParams('dataset'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404, 409]),
      },
    },
    async (request, reply) => {
      await services.datasets.remove(request.params.id);
      return reply.code(204).send();
    },
  );
}
