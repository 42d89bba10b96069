/** Uploaded bytes on their way into the object store, with a copy on this machine where headers must be read and the store is elsewhere. */
import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { StagedObject, StageOptions } from '../domain/objects.ts';
import type { ServiceContext } from './context.ts';

/** Staged bytes that can be read as a local file until `discard`. */
export interface LocalStagedObject extends StagedObject {
  readonly localPath: string;
}

async function* tee(source: AsyncIterable<Uint8Array>, file: FileHandle): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten;
    yield chunk;
  }
}

/**
 * Stages a stream so that it can be read from a local path. A store on this machine has one already; for another the bytes
 * are written to a file on their way, as reading them back would cost the transfer twice.
 */
export async function stageLocally(
  context: Pick<ServiceContext, 'objects' | 'scratchDir'>,
  source: AsyncIterable<Uint8Array>,
  options: StageOptions,
): Promise<LocalStagedObject> {
  if (context.objects.kind === 'disk') {
    const staged = await context.objects.stage(source, options);
    if (staged.localPath !== null) return staged as LocalStagedObject;
    await staged.discard();
    throw new Error('the disk store staged an object without a path');
  }
  await mkdir(context.scratchDir, { recursive: true });
  const path = join(context.scratchDir, `upload-${process.pid}-${randomBytes(8).toString('hex')}`);
  const remove = () => unlink(path).catch(() => undefined);
  const file = await open(path, 'wx', 0o600);
  let staged: StagedObject;
  try {
    staged = await context.objects.stage(tee(source, file), options);
  } catch (error) {
    await file.close();
    await remove();
    throw error;
  }
  await file.close();
  const remote = staged;
  return {
    sha256: remote.sha256,
    sizeBytes: remote.sizeBytes,
    localPath: path,
    read: (range) => remote.read(range),
    commit: () => remote.commit(),
    async discard() {
      await remove();
      await remote.discard();
    },
  };
}
