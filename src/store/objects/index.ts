import type { ObjectStore } from '../../domain/objects.ts';
import type { S3Options } from './s3.ts';

export { openDiskStore } from './disk.ts';
export type { S3Options } from './s3.ts';
export { tarSha256, tarSize, tarStream } from './tar.ts';

/** Opens the S3 store; makes the bucket where there is none. Loaded when it is needed: the SDK costs half a second and 20 MB. */
export async function openS3Store(options: S3Options): Promise<ObjectStore> {
  return (await import('./s3.ts')).openS3Store(options);
}
