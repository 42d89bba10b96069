import { createHash } from 'node:crypto';
import { HalftoneError } from '../../domain/errors.ts';
import type { StageOptions } from '../../domain/objects.ts';

/** Counts and hashes a stream on its way and holds it to the options; both drivers read their source through it. */
export class Meter {
  sizeBytes = 0;
  readonly #hash = createHash('sha256');
  readonly #options: StageOptions;
  constructor(options: StageOptions) {
    this.#options = options;
  }

  add(chunk: Uint8Array): void {
    this.#options.signal?.throwIfAborted();
    this.sizeBytes += chunk.byteLength;
    const { maxBytes, expectedBytes } = this.#options;
    if (maxBytes !== undefined && this.sizeBytes > maxBytes)
      throw new HalftoneError('payload-too-large', `more than the ${maxBytes} bytes that are allowed were sent`);
    if (expectedBytes !== undefined && this.sizeBytes > expectedBytes)
      throw new HalftoneError('upload-incomplete', `more than the ${expectedBytes} bytes that were announced were sent`);
    this.#hash.update(chunk);
  }

  /** The hash, once all bytes have come and are as many and as they should be. */
  finish(): string {
    this.#options.signal?.throwIfAborted();
    const { expectedBytes, expectedSha256 } = this.#options;
    if (expectedBytes !== undefined && this.sizeBytes !== expectedBytes)
      throw new HalftoneError('upload-incomplete', `${this.sizeBytes} of ${expectedBytes} bytes came`);
    const sha256 = this.#hash.digest('hex');
    if (expectedSha256 !== undefined && sha256 !== expectedSha256)
      throw new HalftoneError('upload-incomplete', `the bytes’ SHA-256 is ${sha256}, not ${expectedSha256}`);
    return sha256;
  }
}

/** Hashes come from rows and from paths: what is not one must never become part of a path or key. */
export function checkSha256(sha256: string): void {
  if (!/^[0-9a-f]{64}$/.test(sha256)) throw new HalftoneError('not-found', `${JSON.stringify(sha256)} is not a SHA-256`);
}

export function missing(sha256: string): HalftoneError {
  return new HalftoneError('not-found', `the stored bytes ${sha256} are gone`);
}
