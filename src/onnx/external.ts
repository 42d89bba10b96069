/**
 * External data: tensors whose bytes lie in files beside the model (ONNX's ExternalData.md). A location is untrusted text that names a
 * file, so it may only ever lead to a regular file inside the model's own folder.
 */
import { realpathSync, statSync } from 'node:fs';
import { isAbsolute, join, relative, sep } from 'node:path';
import { HalftoneError } from '../domain/errors.ts';

/**
 * A location in its normal form (`weights/a.bin`), or `external-data-path` where it is empty, absolute (in the manner of any
 * system), or leaves the folder.
 */
export function normalLocation(location: string, tensor: string): string {
  const refuse = (why: string) =>
    new HalftoneError(
      'external-data-path',
      `Tensor '${tensor}' has its data at '${location.slice(0, 200)}', ${why}. Save the model with relative paths inside its folder.`,
    );
  if (location === '' || location.includes('\0')) throw refuse('which is not a path');
  if (isAbsolute(location) || location.startsWith('\\') || /^[A-Za-z]:/.test(location)) throw refuse('an absolute path');
  const parts: string[] = [];
  for (const part of location.split(/[\\/]/)) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      if (parts.length === 0) throw refuse('which climbs out of the model’s folder');
      parts.pop();
    } else parts.push(part);
  }
  if (parts.length === 0) throw refuse('which names no file');
  return parts.join('/');
}

/** Finds external files of one folder; each file is looked at once. */
export class ExternalFiles {
  readonly dir: string;
  #seen = new Map<string, { path: string; size: number }>();
  #root: string | undefined;

  constructor(dir: string) {
    this.dir = dir;
  }

  /** Real path and size of the file at a normalised location, which must be a regular file inside the folder, links followed. */
  find(location: string, tensor: string): { path: string; size: number } {
    const known = this.#seen.get(location);
    if (known) return known;
    const missing = (cause?: unknown) =>
      new HalftoneError('external-data-missing', `Tensor '${tensor}' has its data in '${location}', which was not sent with the model.`, {
        cause,
      });
    let path: string;
    let size: number;
    try {
      this.#root ??= realpathSync(this.dir);
      path = realpathSync(join(this.#root, location));
      const inside = relative(this.#root, path);
      if (inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)) {
        throw new HalftoneError(
          'external-data-path',
          `'${location}', where tensor '${tensor}' has its data, is a link that leads out of the model’s folder.`,
        );
      }
      const stat = statSync(path);
      if (!stat.isFile()) throw missing();
      size = stat.size;
    } catch (error) {
      if (error instanceof HalftoneError) throw error;
      throw missing(error);
    }
    const found = { path, size };
    this.#seen.set(location, found);
    return found;
  }
}
