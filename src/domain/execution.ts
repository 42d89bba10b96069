/**
 * The port through which a worker runs a job: every call is a compare-and-set on the job's row by the lease's owner, and
 * says whether the job is still the owner's. The store implements it (store/execution.ts); a worker imports no store.
 */
import type { HalftoneError } from './errors.ts';
import type { JobResult, ProblemSummary, Stage, StageRun } from './job.ts';
import type { DeviceProfile } from './profile.ts';
import type { Task } from './task.ts';

/** What a job's stream of events consists of. */
export type JobEventType =
  | 'queued'
  | 'started'
  | 'progress'
  | 'stage'
  | 'variant'
  | 'requeued'
  | 'cancel-requested'
  | 'succeeded'
  | 'failed'
  | 'canceled';

/** One stored file under the relative path that the job's folder must have it at. */
export interface InputFile {
  path: string;
  sha256: string;
  sizeBytes: number;
}

/** A job that was taken: what its task needs, the files still to be fetched. */
export interface ClaimedJob extends Pick<Task, 'recipes' | 'metric' | 'maxAccuracyDrop' | 'shapes' | 'seed' | 'statistics'> {
  jobId: string;
  /** The model file first. */
  model: InputFile[];
  calibration: InputFile | null;
  evaluation: InputFile | null;
  /** All that the job asks for; the first is the target. */
  deviceProfiles: DeviceProfile[];
}

export interface Snapshot {
  stage: Stage | null;
  progress: number;
  etaSeconds: number | null;
  stages: StageRun[];
}

export interface Execution {
  /** Takes a queued job. Null where it is not queued any more (another worker has it, it ended) or is to be canceled. */
  claim(jobId: string, owner: string): Promise<ClaimedJob | null>;
  /** Renews the lease. */
  renew(jobId: string, owner: string): Promise<{ held: boolean; cancelRequested: boolean }>;
  /** Writes where the job is, with its events. False where it is lost. */
  report(jobId: string, owner: string, at: Snapshot, events: { type: JobEventType; data: Record<string, unknown> }[]): Promise<boolean>;
  /** Keeps a measurement for later jobs on the model. */
  keepStatistic(modelSha256: string, key: string, value: unknown): Promise<void>;
  /** Gives the job back to the queue without using up an attempt. A job that is to be canceled is canceled. */
  requeue(jobId: string, owner: string, reason: string): Promise<boolean>;
  /** The child died by its own doing: one attempt less. At the third at one stage the job fails. */
  failAttempt(
    jobId: string,
    owner: string,
    death: { stage: Stage; code: HalftoneError['code']; detail: string },
  ): Promise<'queued' | 'failed' | 'canceled' | 'lost'>;
  fail(jobId: string, owner: string, error: ProblemSummary): Promise<boolean>;
  cancel(jobId: string, owner: string): Promise<boolean>;
  /**
   * Stores the variants' files, which must lie inside `workDir`, then writes everything and the job's end in one
   * transaction. False where the job is lost: nothing is kept then. Throws `storage-full`.
   */
  succeed(jobId: string, owner: string, workDir: string, result: JobResult): Promise<boolean>;
  /** Gives back all jobs whose owner begins with `prefix`: a worker that is known to be dead. Returns their ids. */
  requeueOwnedBy(prefix: string, reason: string): Promise<string[]>;
}
