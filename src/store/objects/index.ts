export { openDiskStore } from './disk.ts';
export { openS3Store, type S3Options } from './s3.ts';
export { type TarEntry, tarSha256, tarSize, tarStream } from './tar.ts';
