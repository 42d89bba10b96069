/** The database: one namespace a table (or a few that belong together), and the connection they work on. */

export { type Database, openDatabase, type Tx } from './client.ts';
export * as datasets from './datasets.ts';
export * as events from './events.ts';
export * as idempotency from './idempotency.ts';
export * as jobs from './jobs.ts';
export * as keys from './keys.ts';
export * as lifecycle from './lifecycle.ts';
export * as models from './models.ts';
export * as outbox from './outbox.ts';
export * as profiles from './profiles.ts';
export type * from './records.ts';
export * as references from './references.ts';
export * as results from './results.ts';
export * as statistics from './statistics.ts';
export * as webhooks from './webhooks.ts';
export * as workers from './workers.ts';
