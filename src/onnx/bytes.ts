/** How a file's bytes come into memory: mapped, so that a model of many gigabytes costs address space and page cache, not heap. */
import { mapFile } from '../../native/index.ts';

/**
 * A stretch of a file as bytes. They must never be written to (a write to a read-only mapping ends the process), and the file must
 * not become shorter while they are in use. Throws an error with Node's code (ENOENT, …) where the file can't be opened, and
 * RangeError where the stretch lies outside of it.
 */
export function fileBytes(path: string, offset?: number, length?: number): Uint8Array {
  return mapFile(path, offset, length);
}
