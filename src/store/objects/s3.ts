/**
 * Objects in an S3 bucket: prefix/objects/aa/bb/<sha256>, staged ones under prefix/staging. A key holds the bytes that
 * its name says or nothing: uploads become visible whole, and the copy from the staged key is the server's own.
 */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { HalftoneError } from '../../domain/errors.ts';
import type { ByteRange, ObjectInfo, ObjectStore, StagedObject, StageOptions } from '../../domain/objects.ts';
import { checkSha256, Meter, missing } from './hashing.ts';

export interface S3Options {
  endpoint: string;
  /** The endpoint as clients reach it, for presigned URLs; `endpoint` by default. */
  publicEndpoint?: string | null;
  bucket: string;
  region: string;
  accessKeyId: string;
  secretAccessKey: string;
  /** In front of all keys, without a slash at its ends; none by default. */
  prefix?: string;
}

/** Bytes held in memory a part. With S3's 10 000 parts an object may take 160 GB. */
const PART_BYTES = 16 * 1024 * 1024;
/** Parts on their way at once: the next one fills while these are sent. */
const PARTS_IN_FLIGHT = 2;
/** CopyObject takes at most 5 GB; beyond that it goes in parts of this size. */
const COPY_WHOLE_BYTES = 4 * 1024 ** 3;
const COPY_PART_BYTES = 1024 ** 3;

/** Opens the store; makes the bucket where there is none. */
export async function openS3Store(options: S3Options): Promise<ObjectStore> {
  const settings: S3ClientConfig = {
    region: options.region,
    credentials: { accessKeyId: options.accessKeyId, secretAccessKey: options.secretAccessKey },
    // Servers other than Amazon's have no names for their buckets.
    forcePathStyle: true,
    // By default the SDK puts the CRC32 of an empty body into presigned requests, and checksums into trailers that other servers refuse.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    maxAttempts: 5,
  };
  const client = new S3Client({ ...settings, endpoint: options.endpoint });
  const presigner = options.publicEndpoint ? new S3Client({ ...settings, endpoint: options.publicEndpoint }) : client;
  const Bucket = options.bucket;
  const prefix = options.prefix ? `${options.prefix}/` : '';
  const stagingPrefix = `${prefix}staging/`;
  const objectsPrefix = `${prefix}objects/`;
  const keyOf = (sha256: string) => {
    checkSha256(sha256);
    return `${objectsPrefix}${sha256.slice(0, 2)}/${sha256.slice(2, 4)}/${sha256}`;
  };

  await ensureBucket(client, Bucket);

  const head = async (Key: string) => {
    try {
      return await client.send(new HeadObjectCommand({ Bucket, Key }));
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  };
  const read = async (Key: string, range: ByteRange | undefined, gone: () => Error): Promise<Readable> => {
    try {
      const Range = range && `bytes=${range.start}-${range.end}`;
      const answer = await client.send(new GetObjectCommand({ Bucket, Key, Range }));
      return answer.Body as Readable;
    } catch (error) {
      if (isMissing(error)) throw gone();
      // A range of an empty object is refused; the port promises its zero bytes.
      if (statusOf(error) === 416) return Readable.from([]);
      throw error;
    }
  };

  const copy = async (from: string, to: string, sizeBytes: number) => {
    const CopySource = `${Bucket}/${from}`;
    if (sizeBytes <= COPY_WHOLE_BYTES) {
      await client.send(new CopyObjectCommand({ Bucket, Key: to, CopySource }));
      return;
    }
    await multipart(client, Bucket, to, async (UploadId) => {
      const parts: { PartNumber: number; ETag: string | undefined }[] = [];
      for (let start = 0; start < sizeBytes; start += COPY_PART_BYTES) {
        const CopySourceRange = `bytes=${start}-${Math.min(start + COPY_PART_BYTES, sizeBytes) - 1}`;
        const PartNumber = parts.length + 1;
        const answer = await client.send(new UploadPartCopyCommand({ Bucket, Key: to, UploadId, PartNumber, CopySource, CopySourceRange }));
        parts.push({ PartNumber, ETag: answer.CopyPartResult?.ETag });
      }
      return parts;
    });
  };

  return {
    kind: 's3',

    async stage(source, stageOptions: StageOptions = {}): Promise<StagedObject> {
      const key = stagingPrefix + randomBytes(16).toString('hex');
      const meter = new Meter(stageOptions);
      let sha256: string;
      const discard = async () => {
        await client.send(new DeleteObjectCommand({ Bucket, Key: key })).catch(() => {});
      };
      try {
        await upload(client, Bucket, key, source, meter);
        sha256 = meter.finish();
      } catch (error) {
        await discard();
        throw storageError(error);
      }
      return {
        sha256,
        sizeBytes: meter.sizeBytes,
        localPath: null,
        read: (range) => read(key, range, () => new Error('the staged object was discarded')),
        async commit() {
          const final = keyOf(sha256);
          if ((await head(final))?.ContentLength === meter.sizeBytes) return;
          try {
            await copy(key, final, meter.sizeBytes);
          } catch (error) {
            throw storageError(error);
          }
        },
        discard,
      };
    },

    async stat(sha256) {
      const answer = await head(keyOf(sha256));
      return answer && { sha256, sizeBytes: answer.ContentLength ?? 0, modifiedAt: answer.LastModified ?? new Date() };
    },

    read: async (sha256, range) => read(keyOf(sha256), range, () => missing(sha256)),
    localPath: async () => null,

    presign: async (sha256, seconds, response = {}) =>
      getSignedUrl(
        presigner,
        new GetObjectCommand({
          Bucket,
          Key: keyOf(sha256),
          ResponseContentType: response.contentType,
          ResponseContentDisposition: response.filename && `attachment; filename="${response.filename.replace(/[^\w.-]/g, '_')}"`,
        }),
        { expiresIn: seconds },
      ),

    async delete(sha256) {
      await client.send(new DeleteObjectCommand({ Bucket, Key: keyOf(sha256) }));
    },

    async *list() {
      for await (const object of listKeys(client, Bucket, objectsPrefix)) {
        const sha256 = object.key.slice(object.key.lastIndexOf('/') + 1);
        if (/^[0-9a-f]{64}$/.test(sha256))
          yield { sha256, sizeBytes: object.sizeBytes, modifiedAt: object.modifiedAt } satisfies ObjectInfo;
      }
    },

    async abortStale(olderThanMs) {
      const before = Date.now() - olderThanMs;
      let count = 0;
      for await (const object of listKeys(client, Bucket, stagingPrefix)) {
        if (object.modifiedAt.getTime() > before) continue;
        await client.send(new DeleteObjectCommand({ Bucket, Key: object.key }));
        count++;
      }
      for (let KeyMarker: string | undefined, UploadIdMarker: string | undefined; ; ) {
        const page = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, KeyMarker, UploadIdMarker }));
        for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
          if (!Key?.startsWith(prefix) || (Initiated?.getTime() ?? 0) > before) continue;
          await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })).catch(() => {});
          count++;
        }
        if (!page.IsTruncated) return count;
        KeyMarker = page.NextKeyMarker;
        UploadIdMarker = page.NextUploadIdMarker;
      }
    },

    async ping() {
      await client.send(new HeadBucketCommand({ Bucket }), { abortSignal: AbortSignal.timeout(2000) });
    },
    async close() {
      client.destroy();
      if (presigner !== client) presigner.destroy();
    },
  };
}

/** Sends a stream: one PUT where it fits into a part, else in parts. Holds at most PARTS_IN_FLIGHT + 1 parts in memory. */
async function upload(client: S3Client, Bucket: string, Key: string, source: AsyncIterable<Uint8Array>, meter: Meter): Promise<void> {
  const parts = inParts(source, meter);
  const first = await parts.next();
  const second = first.done ? first : await parts.next();
  if (second.done) {
    const Body = first.done ? Buffer.alloc(0) : first.value;
    await client.send(new PutObjectCommand({ Bucket, Key, Body, ContentLength: Body.byteLength }));
    return;
  }
  await multipart(client, Bucket, Key, async (UploadId) => {
    const done: { PartNumber: number; ETag: string | undefined }[] = [];
    const inFlight = new Set<Promise<void>>();
    const send = async (Body: Buffer) => {
      if (inFlight.size >= PARTS_IN_FLIGHT) await Promise.race(inFlight);
      const PartNumber = done.length + 1;
      const part = { PartNumber, ETag: undefined as string | undefined };
      done.push(part);
      const sending = client
        .send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber, Body, ContentLength: Body.byteLength }))
        .then((answer) => {
          part.ETag = answer.ETag;
          inFlight.delete(sending);
        });
      inFlight.add(sending);
      // Its failure is met at the next race; until then it must not count as unhandled.
      sending.catch(() => {});
    };
    try {
      await send(first.value as Buffer);
      await send(second.value as Buffer);
      for await (const part of parts) await send(part);
      await Promise.all(inFlight);
    } finally {
      await Promise.allSettled(inFlight);
    }
    return done;
  });
}

async function* inParts(source: AsyncIterable<Uint8Array>, meter: Meter): AsyncGenerator<Buffer> {
  let chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of source) {
    meter.add(chunk);
    chunks.push(chunk);
    size += chunk.byteLength;
    if (size < PART_BYTES) continue;
    const whole = Buffer.concat(chunks);
    for (let start = 0; start + PART_BYTES <= size; start += PART_BYTES) yield whole.subarray(start, start + PART_BYTES);
    const rest = whole.subarray(size - (size % PART_BYTES));
    chunks = rest.byteLength > 0 ? [rest] : [];
    size = rest.byteLength;
  }
  if (size > 0) yield Buffer.concat(chunks);
}

async function multipart(
  client: S3Client,
  Bucket: string,
  Key: string,
  send: (uploadId: string) => Promise<{ PartNumber: number; ETag: string | undefined }[]>,
): Promise<void> {
  const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
  try {
    const Parts = await send(UploadId!);
    await client.send(new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } }));
  } catch (error) {
    await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })).catch(() => {});
    throw error;
  }
}

async function* listKeys(client: S3Client, Bucket: string, Prefix: string) {
  for (let ContinuationToken: string | undefined; ; ) {
    const page = await client.send(new ListObjectsV2Command({ Bucket, Prefix, ContinuationToken }));
    for (const object of page.Contents ?? []) {
      if (object.Key) yield { key: object.Key, sizeBytes: object.Size ?? 0, modifiedAt: object.LastModified ?? new Date(0) };
    }
    if (!page.IsTruncated) return;
    ContinuationToken = page.NextContinuationToken;
  }
}

async function ensureBucket(client: S3Client, Bucket: string): Promise<void> {
  try {
    await client.send(new HeadBucketCommand({ Bucket }));
  } catch (error) {
    if (!isMissing(error)) throw error;
    await client.send(new CreateBucketCommand({ Bucket })).catch((made: unknown) => {
      if (!['BucketAlreadyOwnedByYou', 'BucketAlreadyExists'].includes((made as Error).name)) throw made;
    });
  }
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}
function isMissing(error: unknown): boolean {
  return statusOf(error) === 404;
}
function storageError(error: unknown): unknown {
  // 507 from servers that say it by status; names from MinIO, Ceph and SeaweedFS.
  const full = /StorageFull|InsufficientStorage|QuotaExceeded|no (?:writable|free) volumes/i;
  if (statusOf(error) === 507 || full.test(`${(error as Error).name} ${(error as Error).message}`))
    return new HalftoneError('storage-full', 'the object store has no room', { cause: error });
  return error;
}
