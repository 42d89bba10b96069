import { Type } from 'typebox';
import type { Answer } from '../../../services/idempotency.ts';
import type { ModelView } from '../../../services/models.ts';
import { answerOnce } from '../../idempotent.ts';
import { answers, IdempotencyHeader, IdParams, json, name, Page, ref } from '../../schemas/common.ts';
import { Model, ModelPage } from '../../schemas/model.ts';
import type { App } from '../../types.ts';
import { refuseTooLarge } from '../../upload.ts';
import type { RouteDeps } from '../deps.ts';
import { takeStreams, uploadedFiles } from './uploads.ts';

const made = (model: ModelView, created: boolean): Answer => ({
  status: created ? 201 : 200,
  header: { location: `/v1/models/${model.id}` },
  body: model,
});

export async function modelRoutes(app: App, { services, uploads, maxModelBytes }: RouteDeps): Promise<void> {
  await app.register(async (streamed: App) => {
    await takeStreams(streamed, true);
    streamed.post(
      '/v1/models',
      {
        config: {
          scope: 'write',
          documentedBody: {
            description:
              'The .onnx file as the body; or, where it has external data, multipart/form-data with the part `model` first and each further file under its relative path as the part’s name.',
            required: true,
            content: {
              'application/octet-stream': { schema: {} },
              'multipart/form-data': {
                schema: {
                  type: 'object',
                  required: ['model'],
                  properties: { model: { type: 'string', format: 'binary' } },
                  additionalProperties: { type: 'string', format: 'binary' },
                },
              },
            },
          },
        },
        schema: {
          operationId: 'createModel',
          tags: ['Models'],
          summary: 'Upload a model',
          description: 'The same bytes (all files) twice give the same model: 201 the first time, 200 afterwards.',
          security: [{ apiKey: [] }],
          querystring: Type.Object({ name: Type.Optional(name) }, { additionalProperties: false }),
          headers: IdempotencyHeader,
          response: answers(
            { 201: json('The model.', ref(Model)), 200: json('The model that was there with the same files.', ref(Model)) },
            [400, 408, 409, 413, 415, 422, 507],
          ),
        },
      },
      async (request, reply) => {
        refuseTooLarge(request, maxModelBytes + (request.isMultipart?.() ? 64 * 1024 * 1024 : 0));
        const modelName = request.query.name ?? 'model';
        const received = await services.models.receive(uploadedFiles(request, uploads), request.gone);
        try {
          return await answerOnce(services, request, reply, received.contentSha256, async (remember) => {
            const { model, created } = await services.models.accept(received, modelName, (tx, shown, isNew) =>
              remember(tx, made(shown, isNew)),
            );
            return made(model, created);
          });
        } finally {
          await received.discard();
        }
      },
    );
  });

  app.get(
    '/v1/models',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listModels',
        tags: ['Models'],
        summary: 'List models, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of models.', ref(ModelPage)) }, [422]),
      },
    },
    async (request) => services.models.list(request.query),
  );

  app.get(
    '/v1/models/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getModel',
        tags: ['Models'],
        summary: 'Get a model',
        security: [{ apiKey: [] }],
        params: IdParams('model'),
        response: answers({ 200: json('The model.', ref(Model)) }, [404]),
      },
    },
    async (request) => services.models.get(request.params.id),
  );

  app.delete(
    '/v1/models/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteModel',
        tags: ['Models'],
        summary: 'Delete a model and its bytes',
        description: 'Not while a job on it has not ended. Jobs that have ended keep its id.',
        security: [{ apiKey: [] }],
        params: IdParams('model'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404, 409]),
      },
    },
    async (request, reply) => {
      await services.models.remove(request.params.id);
      return reply.code(204).send();
    },
  );
}
