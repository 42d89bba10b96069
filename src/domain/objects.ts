/**
 * The port to stored bytes: objects addressed by their SHA-256 (hex). `store/objects` has two drivers, disk and S3.
 * Bytes come in two steps, staged (hashed on the way, not yet visible) and committed under their hash, because a row
 * may only point at bytes that are there: `publish` of store/publish.ts commits and writes the rows together.
 */
import type { Readable } from 'node:stream';

/** First and last byte, both included, as in HTTP's Range. */
export interface ByteRange {
  start: number;
  end: number;
}

export interface StageOptions {
  /** More bytes than this end in `payload-too-large`. */
  maxBytes?: number;
  /** Another hash ends in `upload-incomplete`. */
  expectedSha256?: string;
  /** Fewer or more bytes than this end in `upload-incomplete`. */
  expectedBytes?: number;
  /** Ends the staging with the signal's reason. */
  signal?: AbortSignal;
}

/** Bytes that are stored, but not yet under their hash. `discard` it in every case; what was committed stays. */
export interface StagedObject {
  readonly sha256: string;
  readonly sizeBytes: number;
  /** Where the bytes lie on this machine; null where they are elsewhere. */
  readonly localPath: string | null;
  read(range?: ByteRange): Promise<Readable>;
  /** Puts the bytes under their hash, durably. May be called again: bytes that are there are left as they are. */
  commit(): Promise<void>;
  /** Removes the staged bytes. May be called again; never throws (a stale staged object is removed later). */
  discard(): Promise<void>;
}

export interface ObjectInfo {
  sha256: string;
  sizeBytes: number;
  modifiedAt: Date;
}

export interface ObjectStore {
  readonly kind: 'disk' | 's3';
  /**
   * Stages a stream. Nothing of it is left where it throws: `storage-full` where there is no room, `payload-too-large`,
   * `upload-incomplete`, or the source's own error.
   */
  stage(source: AsyncIterable<Uint8Array>, options?: StageOptions): Promise<StagedObject>;
  /** Size and time; null where there is no such object. */
  stat(sha256: string): Promise<ObjectInfo | null>;
  /** The object's bytes, or a range of them (within the size). `not-found` where there is none. */
  read(sha256: string, range?: ByteRange): Promise<Readable>;
  /** Where the object lies on this machine, not to be written to; null where it is elsewhere or not there. */
  localPath(sha256: string): Promise<string | null>;
  /** A URL that gives the object for `seconds` without credentials; null where the driver has none. */
  presign(sha256: string, seconds: number, response?: { filename?: string; contentType?: string }): Promise<string | null>;
  /** Removes an object; nothing happens where there is none. Go through `collect` of store/publish.ts. */
  delete(sha256: string): Promise<void>;
  list(): AsyncIterable<ObjectInfo>;
  /** Removes what was staged more than `olderThanMs` ago, or by a process known to be dead, and never finished. Returns how many. */
  abortStale(olderThanMs: number): Promise<number>;
  /** Throws where the store cannot be reached or written to. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
