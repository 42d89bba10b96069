/** What `serve` and its worker process say to each other. */
import type { JobStatus, StageRun } from '../domain/job.ts';

export type FromWorker = { type: 'ready' } | { type: 'stage'; run: StageRun } | { type: 'ended'; status: JobStatus };
export type ToWorker = { type: 'stop' };
