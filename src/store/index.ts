/** What is kept: rows (db), bytes (objects), and what holds the two together. */
export { createOutboxSource, createReconcilable } from './backlog.ts';
export { startEmbedded } from './db/embedded.ts';
export * from './db/index.ts';
export { migrate } from './db/migrate.ts';
export { createExecution } from './execution.ts';
export * from './objects/index.ts';
export { collect, publish, sweep } from './publish.ts';
export { openScratch, type Scratch } from './scratch.ts';
