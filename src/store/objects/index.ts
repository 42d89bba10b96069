export { openDiskStore } from './disk.ts';
export { openS3Store } from './s3.ts';
export { tarSha256, tarSize, tarStream } from './tar.ts';
