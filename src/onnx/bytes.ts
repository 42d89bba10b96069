/** How a file's bytes come into memory: mapped, so that a model of many gigabytes costs address space and page cache, not heap. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

/**
 * A stretch of a file as bytes. They must never be written to: where they are mapped a write ends the process.
 * Throws Node's own error (ENOENT, …) where the file can't be opened, and RangeError where the stretch lies outside of it.
 */
export function fileBytes(path: string, offset = 0, length?: number): Uint8Array {
  const fd = openSync(path, 'r');
  try {
    const size = fstatSync(fd).size;
    const wanted = length ?? size - offset;
    if (offset < 0 || wanted < 0 || offset + wanted > size)
      throw new RangeError(`bytes ${offset} to ${offset + wanted} of ${path}, which has ${size}`);
    const bytes = new Uint8Array(wanted);
    for (let done = 0; done < wanted; ) {
      const got = readSync(fd, bytes, done, Math.min(wanted - done, 1 << 28), offset + done);
      if (got === 0) throw new RangeError(`${path} became shorter while it was read`);
      done += got;
    }
    return bytes;
  } finally {
    closeSync(fd);
  }
}
