import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { Content } from '../../../services/artifacts.ts';
import { requestedContent } from '../../ranges.ts';
import { Artifact } from '../../schemas/artifact.ts';
import { answers, IdParams, json, ref } from '../../schemas/common.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

/** A presigned URL is good for so long: enough to begin a download, too short to be passed around. */
const PRESIGNED_SECONDS = 300;

/** Sends content by what the client asks for: all, a range, nothing because it has it, or the way to the store that has it. */
async function sendContent(request: FastifyRequest, reply: FastifyReply, content: Content): Promise<FastifyReply> {
  const etag = `"${content.sha256}"`;
  const wanted = requestedContent(request.headers, etag, content.sizeBytes);
  reply
    .header('etag', etag)
    .header('accept-ranges', 'bytes')
    // Bytes never change under an artifact's id. A proxy that compresses them would break the tag and the ranges.
    .header('cache-control', 'private, max-age=86400, immutable, no-transform');
  if (wanted.status === 304) return reply.code(304).send();
  const { start, end } = wanted.range;
  const length = end - start + 1;
  reply
    .header('content-type', content.contentType)
    .header('content-disposition', `attachment; filename="${content.filename.replace(/[^\w.-]/g, '_')}"`)
    .header('x-content-type-options', 'nosniff');
  if (wanted.status === 206) reply.header('content-range', `bytes ${start}-${end}/${content.sizeBytes}`);
  // An empty stream, as Fastify writes a length of 0 where nothing is sent.
  if (request.method === 'HEAD') return reply.code(wanted.status).header('content-length', length).send(Readable.from([]));
  const elsewhere = await content.presign(PRESIGNED_SECONDS);
  if (elsewhere !== null) {
    for (const name of ['content-type', 'content-disposition', 'content-range', 'accept-ranges']) reply.removeHeader(name);
    return reply.header('cache-control', 'no-store').redirect(elsewhere, 302);
  }
  reply.code(wanted.status).header('content-length', length);
  return length === 0 ? reply.send(Buffer.alloc(0)) : reply.send(await content.open(wanted.range));
}

const binary = (description: string) => ({
  description,
  headers: {
    ETag: { description: 'The SHA-256 of all bytes, quoted: a strong tag.', type: 'string' },
    'Content-Range': { description: 'With 206.', type: 'string' },
  },
  content: { 'application/octet-stream': { schema: {} }, 'application/x-tar': { schema: {} } },
});
const contentAnswers = answers(
  {
    200: binary('All bytes.'),
    206: binary('The range asked for.'),
    302: {
      description: 'The bytes are in the object store: a URL that is good for some minutes.',
      headers: { Location: { type: 'string', description: 'Where.' } },
    },
    304: { description: 'The client has them.' },
  },
  [404, 412, 416],
);
const contentHeaders = Type.Object({
  range: Type.Optional(Type.String({ description: 'bytes=start-end' })),
  'if-range': Type.Optional(Type.String({ description: 'An ETag: the range is meant only if the bytes are still these.' })),
  'if-none-match': Type.Optional(Type.String()),
});

export async function artifactRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.get(
    '/v1/artifacts/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getArtifact',
        tags: ['Artifacts'],
        summary: 'Get an artifact’s manifest',
        security: [{ apiKey: [] }],
        params: IdParams('artifact'),
        response: answers({ 200: json('The artifact.', ref(Artifact)) }, [404]),
      },
    },
    async (request) => services.artifacts.get(request.params.id),
  );

  app.get(
    '/v1/artifacts/:id/content',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getArtifactContent',
        tags: ['Artifacts'],
        summary: 'Download an artifact',
        description: 'The .onnx file; where it has external data, one .tar of `model.onnx` and its files.',
        security: [{ apiKey: [] }],
        params: IdParams('artifact'),
        headers: contentHeaders,
        response: contentAnswers,
      },
    },
    async (request, reply) => sendContent(request, reply, await services.artifacts.content(request.params.id)),
  );

  app.get(
    '/v1/artifacts/:id/content/*',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getArtifactPart',
        tags: ['Artifacts'],
        summary: 'Download one file of an artifact',
        security: [{ apiKey: [] }],
        params: Type.Object({
          id: Type.String({ minLength: 1, maxLength: 200, description: 'art_…' }),
          '*': Type.String({ minLength: 1, maxLength: 2048, description: 'The file’s path, as the manifest names it.' }),
        }),
        headers: contentHeaders,
        response: contentAnswers,
      },
    },
    async (request, reply) => sendContent(request, reply, await services.artifacts.part(request.params.id, request.params['*'])),
  );

  app.delete(
    '/v1/artifacts/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteArtifact',
        tags: ['Artifacts'],
        summary: 'Delete an artifact’s bytes',
        description: 'The variant and its figures stay with the job.',
        security: [{ apiKey: [] }],
        params: IdParams('artifact'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404]),
      },
    },
    async (request, reply) => {
      await services.artifacts.remove(request.params.id);
      return reply.code(204).send();
    },
  );
}
