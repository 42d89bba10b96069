/**
 * Runs jobs: takes one by its row, brings its files, forks one child, follows it, and writes how it ended. What is
 * written is a compare-and-set by the lease's owner, so whatever happens to this process, a job ends once.
 */
import fs from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HalftoneError, isOutOfRoom } from '../domain/errors.ts';
import type { ClaimedJob, Execution } from '../domain/execution.ts';
import type { JobResult, JobStatus, StageRun } from '../domain/job.ts';
import type { ObjectStore } from '../domain/objects.ts';
import type { Task, TaskEvent } from '../domain/task.ts';
import { fetchInputs } from './inputs.ts';
import { Reporter } from './reporter.ts';
import { type ChildEnd, startChild } from './supervise.ts';

export interface WorkerOptions {
  execution: Execution;
  objects: ObjectStore;
  /** Begins the owner of this worker's leases. */
  workerId: string;
  /** This worker's own folder; each run of a job gets one inside. */
  folder: string;
  /** Notes a child in its job's folder, so that it can be ended should this process die. */
  noteChild?: (jobFolder: string, pid: number) => Promise<void>;
  concurrency: number;
  labels: readonly string[];
  /** The child's environment: no credentials. */
  childEnvironment: Record<string, string>;
  deadlineSeconds: number;
  memoryBytes: number;
  /** Leases are renewed four times as often as they would run out. */
  leaseSeconds: number;
  /** How long a canceled child gets to end by itself. */
  cancelGraceMs?: number;
  machineLockPath: string;
  /** Which ONNX Runtime the job's process loads; the package's own by default. */
  onnxRuntimeLibrary?: string | null;
  log: Log;
  /** The child's program, for tests. */
  childScript?: string;
  onStage?: (run: StageRun) => void;
  onEnded?: (status: JobStatus) => void;
}

interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface JobWorker {
  /** Runs a job if it is there to be run. Waits for a free place first. False where this worker is stopping: the message must come again. */
  run(jobId: string): Promise<boolean>;
  /** Looks at once whether a job that runs here is to be canceled. */
  look(jobId: string): void;
  /** Takes nothing more, gives running jobs `graceMs` to end, then ends their children and gives the jobs back. */
  stop(graceMs: number): Promise<void>;
}

/** An end that cannot be written (the database or the store is away) is tried again for so long. */
const PUBLISH_PATIENCE_MS = 2 * 60_000;

export function createWorker(options: WorkerOptions): JobWorker {
  const runs = new Set<Run>();
  const waiting: (() => void)[] = [];
  let free = options.concurrency;
  let stopping = false;
  let count = 0;

  const acquire = async () => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
  };
  const release = () => {
    const next = waiting.shift();
    if (next) next();
    else free++;
  };

  return {
    async run(jobId) {
      await acquire();
      try {
        if (stopping) return false;
        const owner = `${options.workerId}/${++count}`;
        const job = await options.execution.claim(jobId, owner);
        if (!job) return true;
        const run = new Run(options, job, owner, path.join(options.folder, `${jobId}-${count}`));
        runs.add(run);
        if (stopping) run.stop(0);
        try {
          await run.finished;
        } finally {
          runs.delete(run);
        }
        return true;
      } finally {
        release();
      }
    },
    look(jobId) {
      for (const run of runs) if (run.jobId === jobId) void run.heartbeat();
    },
    async stop(graceMs) {
      stopping = true;
      for (const resume of waiting.splice(0)) resume();
      const all = [...runs];
      const late = setTimeout(() => {
        for (const run of all) run.stop(0);
      }, graceMs);
      await Promise.all(all.map((run) => run.finished));
      clearTimeout(late);
    },
  };
}

/** Why a run is being ended by us. */
type Stop = 'canceled' | 'lost' | 'shutdown';

/** One run of one job by this worker. */
class Run {
  readonly jobId: string;
  readonly finished: Promise<void>;
  readonly #options: WorkerOptions;
  readonly #job: ClaimedJob;
  readonly #owner: string;
  readonly #folder: string;
  readonly #log: object;
  readonly #aborted = new AbortController();
  readonly #reporter: Reporter;
  #stop: Stop | null = null;
  #stopChild: ((graceMs: number) => void) | null = null;
  #beating: Promise<void> | null = null;

  constructor(options: WorkerOptions, job: ClaimedJob, owner: string, folder: string) {
    this.jobId = job.jobId;
    this.#options = options;
    this.#job = job;
    this.#owner = owner;
    this.#folder = folder;
    this.#log = { job: job.jobId };
    this.#reporter = new Reporter(options.execution, job.jobId, owner, {
      onLost: () => this.#end('lost', 0),
      onError: (error) => options.log.warn({ ...this.#log, err: error }, 'progress could not be written'),
    });
    this.finished = this.#run();
  }

  stop(graceMs: number): void {
    this.#end('shutdown', graceMs);
  }

  /** Renews the lease and sees whether the job is to be canceled. One at a time. */
  heartbeat(): Promise<void> {
    this.#beating ??= (async () => {
      try {
        const { held, cancelRequested } = await this.#options.execution.renew(this.#job.jobId, this.#owner);
        if (!held) this.#end('lost', 0);
        else if (cancelRequested) this.#end('canceled', this.#options.cancelGraceMs ?? 10_000);
      } catch (error) {
        // The child goes on: should the lease run out meanwhile, the next renewal that comes through says so.
        this.#options.log.warn({ ...this.#log, err: error }, 'the lease could not be renewed');
      } finally {
        this.#beating = null;
      }
    })();
    return this.#beating;
  }

  #end(why: Stop, graceMs: number): void {
    // A loss outweighs everything: nothing may be written any more.
    if (this.#stop === null || why === 'lost') this.#stop = why;
    this.#aborted.abort(new Error(why));
    this.#stopChild?.(graceMs);
  }

  async #run(): Promise<void> {
    const { log, leaseSeconds } = this.#options;
    log.info(this.#log, 'the job runs');
    const heart = setInterval(() => void this.heartbeat(), (leaseSeconds * 1000) / 4);
    try {
      const end = await this.#compute();
      await this.#reporter.close();
      await this.#settle(end);
    } catch (error) {
      if (!(error instanceof HalftoneError)) log.error({ ...this.#log, err: error }, 'the job could not be run');
      // Where this fails too, the lease runs out and the job is run again.
      await this.#finish(() => this.#options.execution.fail(this.#job.jobId, this.#owner, problem(error)), 'failed').catch(() => {});
    } finally {
      clearInterval(heart);
      await fs.rm(this.#folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }).catch((error: unknown) => {
        log.warn({ ...this.#log, err: error }, 'the job’s folder could not be removed; the next start does it');
      });
    }
  }

  async #compute(): Promise<ChildEnd> {
    const { options, job } = { options: this.#options, job: this.#job };
    const inputFolder = path.join(this.#folder, 'input');
    const workDir = path.join(this.#folder, 'work');
    await fs.mkdir(inputFolder, { recursive: true });
    await fs.mkdir(workDir);
    let task: Task;
    try {
      const { recipes, metric, maxAccuracyDrop, shapes, seed, statistics } = job;
      task = {
        jobId: job.jobId,
        workDir,
        ...(await fetchInputs(options.objects, job, inputFolder, this.#aborted.signal)),
        modelSha256: job.model[0]!.sha256,
        calibrationSha256: job.calibration?.sha256 ?? null,
        evaluationSha256: job.evaluation?.sha256 ?? null,
        recipes,
        metric,
        maxAccuracyDrop,
        shapes,
        seed,
        statistics,
        deviceProfiles: job.deviceProfiles.filter((profile) => profile.workers.every((label) => options.labels.includes(label))),
        machineLockPath: options.machineLockPath,
        onnxRuntimeLibrary: options.onnxRuntimeLibrary ?? null,
      };
    } catch (error) {
      if (this.#stop !== null) return { kind: 'stopped' };
      if (error instanceof HalftoneError) return { kind: 'failed', error: { code: error.code, detail: error.detail }, stage: 'read' };
      throw error;
    }
    if (this.#stop !== null) return { kind: 'stopped' };
    const child = startChild({
      task,
      deadlineSeconds: options.deadlineSeconds,
      memoryBytes: options.memoryBytes,
      script: options.childScript,
      environment: options.childEnvironment,
      onEvent: (event) => this.#hear(event),
      onStart: (pid) => {
        options.log.debug({ ...this.#log, pid }, 'the job’s process runs');
        options.noteChild?.(this.#folder, pid).catch(() => {});
      },
      onStderr: (line) => options.log.warn({ ...this.#log, line }, 'the job’s process says'),
    });
    this.#stopChild = (graceMs) => child.stop(graceMs);
    return child.ended;
  }

  #hear(event: Exclude<TaskEvent, { type: 'done' | 'failed' }>): void {
    if (event.type === 'statistic') {
      this.#options.execution.keepStatistic(this.#job.model[0]!.sha256, event.key, event.value).catch((error: unknown) => {
        this.#options.log.warn({ ...this.#log, err: error }, 'a measurement could not be kept');
      });
      return;
    }
    if (event.type === 'stage') this.#options.onStage?.(event.run);
    this.#reporter.add(event);
  }

  async #settle(end: ChildEnd): Promise<void> {
    const { execution, log } = this.#options;
    const { jobId } = this;
    if (this.#stop === 'lost') {
      log.warn(this.#log, 'the job is another worker’s now');
      return;
    }
    if (this.#stop === 'canceled' && end.kind !== 'done') return this.#finish(() => execution.cancel(jobId, this.#owner), 'canceled');
    switch (end.kind) {
      case 'done':
        return this.#publish(end.result);
      case 'failed':
        log.info({ ...this.#log, error: end.error }, 'the job failed');
        return this.#finish(() => execution.fail(jobId, this.#owner, end.error), 'failed');
      case 'stopped':
        return this.#finish(() => execution.requeue(jobId, this.#owner, 'the worker was stopped'), null);
      case 'killed':
        log.warn({ ...this.#log, signal: end.signal }, 'the job’s process was killed from outside; the job is queued again');
        return this.#finish(() => execution.requeue(jobId, this.#owner, `its process was killed from outside (${end.signal})`), null);
      case 'died':
        log.warn({ ...this.#log, code: end.code, detail: end.detail }, 'the job’s process died');
        return this.#finish(async () => {
          const outcome = await execution.failAttempt(jobId, this.#owner, end);
          if (outcome === 'failed' || outcome === 'canceled') this.#options.onEnded?.(outcome);
          return true;
        }, null);
    }
  }

  #publish(result: JobResult): Promise<void> {
    const { jobId, execution } = { jobId: this.jobId, execution: this.#options.execution };
    return this.#finish(() => execution.succeed(jobId, this.#owner, path.join(this.#folder, 'work'), result), 'succeeded');
  }

  /** Writes the run's end, again and again while database or store are away. Errors that time does not mend are thrown. */
  async #finish(write: () => Promise<boolean>, status: JobStatus | null): Promise<void> {
    const { log, onEnded } = this.#options;
    const deadline = Date.now() + PUBLISH_PATIENCE_MS;
    for (let pause = 250; ; pause = Math.min(pause * 2, 5000)) {
      try {
        if (!(await write())) log.warn(this.#log, 'the job was another worker’s when it ended here');
        else if (status) {
          log.info({ ...this.#log, status }, 'the job ended');
          onEnded?.(status);
        }
        return;
      } catch (error) {
        if (this.#stop === 'lost') return;
        if (staysTrue(error) || Date.now() > deadline) throw error;
        log.warn({ ...this.#log, err: error }, 'the job’s end could not be written yet');
        await sleep(pause);
      }
    }
  }
}

/** Errors of the program, of the file system and of a row's shape stay the same however often they are met; those of servers pass. */
function staysTrue(error: unknown): boolean {
  const { name, code } = error as { name?: string; code?: unknown };
  if (error instanceof HalftoneError || error instanceof TypeError || error instanceof RangeError) return true;
  if (name === 'PrismaClientValidationError') return true;
  return typeof code === 'string' && ['ENOENT', 'EACCES', 'EISDIR', 'ELOOP', 'P2002', 'P2003', 'P2020', 'P2025'].includes(code);
}

function problem(error: unknown): { code: HalftoneError['code']; detail: string } {
  if (error instanceof HalftoneError) return { code: error.code, detail: error.detail };
  if (isOutOfRoom(error)) return { code: 'storage-full', detail: 'the worker’s disk is full' };
  return { code: 'internal-error', detail: 'the worker could not run the job' };
}
