/** Request bodies that are files: watched while they come, never gathered in memory. */
import type { Readable } from 'node:stream';
import type { FastifyRequest } from 'fastify';
import { HalftoneError } from '../domain/errors.ts';

export interface UploadLimits {
  /** An upload that brings less than `leastBytes` in so many ms is cut. */
  stallMs: number;
  leastBytes: number;
  /** An upload that takes longer is cut, however it moves. */
  longestMs: number;
}

export const UPLOAD_LIMITS: UploadLimits = {
  // Half a minute without 16 KiB: slower than any modem, and what a client that holds connections open sends.
  stallMs: 30_000,
  leastBytes: 16 * 1024,
  // 50 GB at 1 MB/s take 14 hours.
  longestMs: 24 * 3600 * 1000,
};

/**
 * The chunks of a body, cut when it stalls and checked to have ended as it should. The source is left standing when the
 * reader stops early: destroying it would take the connection along, and with it the answer that says why.
 * @throws HalftoneError `upload-stalled`, `upload-incomplete`
 */
export async function* watched(source: Readable, limits: UploadLimits): AsyncGenerator<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let received = 0;
  let ended = false;
  let failure: unknown = null;
  let wake = () => {};
  const incomplete = (cause?: unknown) =>
    new HalftoneError('upload-incomplete', `The connection ended after ${received} bytes.`, cause === undefined ? {} : { cause });
  const onData = (chunk: Uint8Array) => {
    received += chunk.length;
    chunks.push(chunk);
    source.pause();
    wake();
  };
  const onEnd = () => {
    ended = true;
    wake();
  };
  const onError = (error: unknown) => {
    const code = (error as NodeJS.ErrnoException).code;
    failure ??= code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE' ? incomplete(error) : error;
    wake();
  };
  const onClose = () => {
    if (!ended) failure ??= incomplete();
    wake();
  };
  // Time that the store takes to write is not the client's: the clock runs only while a chunk is waited for.
  const started = performance.now();
  let waitedMs = 0;
  let waitingSince: number | null = null;
  let before = 0;
  const timer = setInterval(
    () => {
      const now = performance.now();
      const waited = waitedMs + (waitingSince === null ? 0 : now - waitingSince);
      if (now - started > limits.longestMs) {
        failure ??= new HalftoneError('upload-stalled', `The upload took longer than ${limits.longestMs / 1000} s.`);
      } else if (waited >= limits.stallMs) {
        if (received - before < limits.leastBytes) {
          failure ??= new HalftoneError(
            'upload-stalled',
            `${received - before} bytes came within ${Math.round(waited / 1000)} s; ${received} in all.`,
          );
        }
        before = received;
        waitedMs = 0;
        if (waitingSince !== null) waitingSince = now;
      }
      if (failure !== null) wake();
    },
    Math.min(1000, limits.stallMs / 4),
  );
  timer.unref();
  source.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose);
  if (source.readableEnded) ended = true;
  else if (source.destroyed) failure = incomplete();
  try {
    for (;;) {
      const chunk = chunks.shift();
      if (chunk) {
        yield chunk;
        continue;
      }
      if (failure !== null) throw failure;
      if (ended) return;
      waitingSince = performance.now();
      await new Promise<void>((resolve) => {
        wake = resolve;
        source.resume();
      });
      waitedMs += performance.now() - waitingSince;
      waitingSince = null;
    }
  } finally {
    clearInterval(timer);
    source.off('data', onData).off('end', onEnd).off('close', onClose);
    source.pause();
    // An error that comes later has nobody else to hear it.
    source.on('error', () => undefined).off('error', onError);
  }
}

/** The length that the client promises; undefined for a chunked body. */
export function promisedBytes(request: FastifyRequest): number | undefined {
  const header = request.headers['content-length'];
  return header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined;
}

/** Refuses a body over the limit before its first byte is read. */
export function refuseTooLarge(request: FastifyRequest, maxBytes: number): void {
  const promised = promisedBytes(request);
  if (promised !== undefined && promised > maxBytes) {
    throw new HalftoneError('payload-too-large', `The body has ${promised} bytes; ${maxBytes} are allowed.`);
  }
}
