/**
 * Objects in a folder: root/aa/bb/<sha256>, staged ones under root/staging. A committed object is durable (its bytes and
 * its name are synced) and read-only, and appears whole or not at all.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { HalftoneError } from '../../domain/errors.ts';
import type { ByteRange, ObjectInfo, ObjectStore, StagedObject, StageOptions } from '../../domain/objects.ts';
import { formatMark, markOf, parseMark, stateOf } from '../process.ts';
import { checkSha256, Meter, missing } from './hashing.ts';

export async function openDiskStore(root: string): Promise<ObjectStore> {
  const base = path.resolve(root);
  const staging = path.join(base, 'staging');
  const ours = formatMark(markOf()!);
  await fs.mkdir(path.dirname(base), { recursive: true });
  await fs.mkdir(staging, { recursive: true, mode: 0o700 });
  const place = (sha256: string) => {
    checkSha256(sha256);
    return path.join(base, sha256.slice(0, 2), sha256.slice(2, 4), sha256);
  };

  const commit = async (staged: string, sha256: string, sizeBytes: number) => {
    const final = place(sha256);
    const there = await fs.stat(final).catch(absent);
    if (there?.size === sizeBytes) {
      // Its age is what keeps a sweep away while rows are being written.
      await fs.utimes(final, new Date(), new Date()).catch(() => {});
      return;
    }
    try {
      const folder = path.dirname(final);
      await fs.mkdir(folder, { recursive: true });
      await linkOrCopy(staged, final);
      await syncFolder(folder);
      await syncFolder(path.dirname(folder));
      await syncFolder(base);
    } catch (error) {
      throw storageError(error);
    }
  };

  return {
    kind: 'disk',

    async stage(source, options: StageOptions = {}): Promise<StagedObject> {
      const file = path.join(staging, `${ours}.${randomBytes(12).toString('hex')}`);
      const meter = new Meter(options);
      let sha256: string;
      try {
        const handle = await fs.open(file, 'wx', 0o600);
        try {
          for await (const chunk of source) {
            meter.add(chunk);
            for (let done = 0; done < chunk.byteLength; ) done += (await handle.write(chunk, done)).bytesWritten;
          }
          sha256 = meter.finish();
          await handle.chmod(0o444);
          await handle.sync();
        } finally {
          await handle.close();
        }
      } catch (error) {
        await fs.rm(file, { force: true });
        throw storageError(error);
      }
      return {
        sha256,
        sizeBytes: meter.sizeBytes,
        localPath: file,
        read: (range) => readFile(file, range, () => new Error('the staged object was discarded')),
        commit: () => commit(file, sha256, meter.sizeBytes),
        discard: () => fs.rm(file, { force: true }).catch(() => {}),
      };
    },

    async stat(sha256) {
      const stat = await fs.stat(place(sha256)).catch(absent);
      return stat && { sha256, sizeBytes: stat.size, modifiedAt: stat.mtime };
    },

    read: async (sha256, range) => readFile(place(sha256), range, () => missing(sha256)),

    async localPath(sha256) {
      const file = place(sha256);
      return (await fs.stat(file).catch(absent)) ? file : null;
    },

    presign: async () => null,

    delete: async (sha256) => fs.rm(place(sha256), { force: true }),

    async *list() {
      for (const first of await names(base, /^[0-9a-f]{2}$/)) {
        for (const second of await names(path.join(base, first), /^[0-9a-f]{2}$/)) {
          for (const sha256 of await names(path.join(base, first, second), /^[0-9a-f]{64}$/)) {
            const stat = await fs.stat(place(sha256)).catch(absent);
            if (stat) yield { sha256, sizeBytes: stat.size, modifiedAt: stat.mtime } satisfies ObjectInfo;
          }
        }
      }
    },

    async abortStale(olderThanMs) {
      let count = 0;
      for (const name of await fs.readdir(staging)) {
        const file = path.join(staging, name);
        const stat = await fs.stat(file).catch(absent);
        if (!stat) continue;
        // A dead process finishes nothing, however young its file is.
        const mark = parseMark(name);
        const abandoned = mark !== null && stateOf(mark) === 'dead';
        if (!abandoned && stat.mtimeMs > Date.now() - olderThanMs) continue;
        await fs.rm(file, { force: true });
        count++;
      }
      return count;
    },

    ping: () => fs.access(staging, constants.R_OK | constants.W_OK | constants.X_OK),
    close: async () => {},
  };
}

async function readFile(file: string, range: ByteRange | undefined, gone: () => Error): Promise<Readable> {
  // Opened here, so that a missing file is an error of this call and not of the stream.
  const handle = await fs.open(file, 'r').catch(absent);
  if (!handle) throw gone();
  return handle.createReadStream(range ? { start: range.start, end: range.end } : {});
}

/** A hard link leaves the staged file, so that it can be committed again; file systems without links get a copy. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  // A file of another size under this name was cut off by a crash of the machine.
  await fs.rm(to, { force: true });
  try {
    await fs.link(from, to);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EEXIST') return;
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'ENOSYS' && code !== 'EMLINK') throw error;
    const draft = `${from}.copy`;
    try {
      await fs.copyFile(from, draft);
      const handle = await fs.open(draft, 'r');
      await handle.sync().finally(() => handle.close());
      await fs.rename(draft, to);
    } finally {
      await fs.rm(draft, { force: true });
    }
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await fs.open(folder, 'r');
  await handle.sync().finally(() => handle.close());
}

async function names(folder: string, pattern: RegExp): Promise<string[]> {
  const all = await fs.readdir(folder).catch(absent);
  return (all ?? []).filter((name) => pattern.test(name));
}

function absent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
  throw error;
}

function storageError(error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new HalftoneError('storage-full', 'the disk that holds the objects is full', { cause: error });
  return error;
}
