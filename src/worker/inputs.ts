/** Brings a job's files into its folder. */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { HalftoneError, isOutOfRoom } from '../domain/errors.ts';
import type { ClaimedJob, InputFile } from '../domain/execution.ts';
import type { ObjectStore } from '../domain/objects.ts';

export interface Inputs {
  modelPath: string;
  calibrationPath: string | null;
  evaluationPath: string | null;
}

/**
 * Puts model and data under `folder`, each checked against its hash. Objects on this machine's disk are linked, not
 * copied: a link keeps the bytes even where the object is deleted meanwhile.
 */
export async function fetchInputs(objects: ObjectStore, job: ClaimedJob, folder: string, signal: AbortSignal): Promise<Inputs> {
  const modelFolder = path.join(folder, 'model');
  for (const file of job.model) await fetchFile(objects, file, modelFolder, 'model-deleted', signal);
  const data = async (file: InputFile | null) => {
    if (!file) return null;
    await fetchFile(objects, file, path.join(folder, 'data'), 'dataset-deleted', signal);
    return path.join(folder, 'data', file.path);
  };
  const calibrationPath = await data(job.calibration);
  return {
    modelPath: path.join(modelFolder, job.model[0]!.path),
    calibrationPath,
    // One data set may serve as both.
    evaluationPath: job.evaluation?.path === job.calibration?.path ? calibrationPath : await data(job.evaluation),
  };
}

async function fetchFile(
  objects: ObjectStore,
  file: InputFile,
  folder: string,
  gone: 'model-deleted' | 'dataset-deleted',
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const target = path.resolve(folder, file.path);
  // Checked when it was uploaded, and again where it matters.
  if (!target.startsWith(folder + path.sep)) throw new HalftoneError('external-data-path', `${file.path} leaves the model’s folder`);
  await fs.mkdir(path.dirname(target), { recursive: true });
  const hash = createHash('sha256');
  try {
    const local = await objects.localPath(file.sha256);
    if (local !== null && (await linked(local, target))) {
      for await (const chunk of createReadStream(target, { highWaterMark: 1 << 20 })) {
        signal.throwIfAborted();
        hash.update(chunk as Buffer);
      }
    } else {
      const hashing = async function* (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) {
          hash.update(chunk);
          yield chunk;
        }
      };
      await pipeline(await objects.read(file.sha256), hashing, createWriteStream(target, { flags: 'wx', mode: 0o444 }), { signal });
    }
  } catch (error) {
    if (error instanceof HalftoneError && error.code === 'not-found')
      throw new HalftoneError(gone, `${file.path} was deleted before the job ran`);
    if (isOutOfRoom(error)) throw new HalftoneError('storage-full', 'the worker’s disk has no room for the job’s files', { cause: error });
    throw error;
  }
  if (hash.digest('hex') !== file.sha256) throw new HalftoneError('internal-error', `the stored bytes of ${file.path} are damaged`);
}

/** False where files cannot be linked: the work folder is on another file system. */
async function linked(from: string, to: string): Promise<boolean> {
  try {
    await fs.link(from, to);
    return true;
  } catch (error) {
    if (['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}
