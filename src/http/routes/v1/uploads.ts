/** What the two kinds of uploads share: bodies that reach their handler as streams. */
import multipart, { type MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { HalftoneError } from '../../../domain/errors.ts';
import { LIMITS } from '../../../domain/limits.ts';
import type { UploadedFile } from '../../../services/models.ts';
import type { App } from '../../types.ts';
import { promisedBytes, type UploadLimits, watched } from '../../upload.ts';

/** Types of bodies that are taken as they are. */
const RAW_TYPES = ['application/octet-stream', 'application/zip', 'application/x-npz', 'application/onnx'];

/** Gives the routes of this context bodies that are streams. The limits of sizes are the services', which count while they write. */
export async function takeStreams(app: App, withParts: boolean): Promise<void> {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(RAW_TYPES, (_request, payload, done) => done(null, payload));
  app.addHook('preParsing', async (request) => {
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity') {
      throw new HalftoneError('unsupported-media-type', `The body must come as it is, not with Content-Encoding ${encoding}.`);
    }
  });
  if (!withParts) return;
  await app.register(multipart, {
    throwFileSizeLimit: true,
    limits: {
      // Field names are paths of external data files.
      fieldNameSize: 2048,
      fieldSize: 4096,
      fields: 16,
      fileSize: Number.MAX_SAFE_INTEGER,
      files: LIMITS.modelFiles + 1,
      parts: LIMITS.modelFiles + 17,
      headerPairs: 100,
    },
  });
}

/** The files of a request, in their order: one, or a multipart body's parts. */
export async function* uploadedFiles(request: FastifyRequest, limits: UploadLimits): AsyncGenerator<UploadedFile> {
  if (!request.isMultipart?.()) {
    const expectedBytes = promisedBytes(request);
    yield { path: null, body: watched(request.raw, limits), ...(expectedBytes === undefined ? {} : { expectedBytes }) };
    return;
  }
  let first = true;
  const parts = request.parts()[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await parts.next().catch((error: unknown) => {
        throw multipartError(error);
      });
      if (next.done) break;
      const part = next.value;
      if (part.type !== 'file') {
        throw new HalftoneError('malformed-body', `The part ${JSON.stringify(part.fieldname)} is not a file: give it a filename.`);
      }
      if (first !== (part.fieldname === 'model')) {
        throw new HalftoneError('malformed-body', 'The first part, and no other, must be called `model`.');
      }
      first = false;
      yield { path: part.fieldname === 'model' ? null : part.fieldname, body: partBody(part, limits) };
    }
  } finally {
    // Whoever stops reading early leaves a part half read: its end is awaited by nobody.
    request.raw.unpipe();
  }
}

async function* partBody(part: MultipartFile, limits: UploadLimits): AsyncGenerator<Uint8Array> {
  try {
    yield* watched(part.file, limits);
  } catch (error) {
    throw multipartError(error);
  }
}

/** busboy's words for a body that breaks off or is no multipart at all. */
function multipartError(error: unknown): unknown {
  if (error instanceof HalftoneError) return error;
  const message = error instanceof Error ? error.message : String(error);
  if (/unexpected end|premature/i.test(message))
    return new HalftoneError('upload-incomplete', 'The multipart body broke off.', { cause: error });
  if (/boundary|multipart|malformed/i.test(message)) return new HalftoneError('malformed-body', message, { cause: error });
  return error;
}
