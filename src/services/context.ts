import type { ObjectStore } from '../domain/objects.ts';
import type { Database } from '../store/db/index.ts';

/** What the use cases write their log lines with; pino's shape. */
export interface Log {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** What every use case works on. */
export interface ServiceContext {
  db: Database;
  objects: ObjectStore;
  log: Log;
  /** Folder for copies of uploads whose headers must be read while the bytes go to a store elsewhere. */
  scratchDir: string;
  maxModelBytes: number;
  maxDatasetBytes: number;
}
