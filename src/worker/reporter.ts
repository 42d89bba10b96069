import type { Execution, JobEventType, Snapshot } from '../domain/execution.ts';
import { newId } from '../domain/ids.ts';
import { STAGES } from '../domain/job.ts';
import type { TaskEvent } from '../domain/task.ts';

/** Progress alone is written at most so often; stages and variants at once. */
const QUIET_MS = 500;
const RETRY_MS = 1000;
/** A job of 32 recipes that reports every percent of every stage stays below. */
const MOST_EVENTS = 50_000;

const isStage = (name: unknown): boolean => (STAGES as readonly unknown[]).includes(name);

/**
 * Writes what a child says into its job's row and events, in order, one write at a time. A write that fails is tried
 * again with whatever has come since. `onLost` is called once when the job turns out to be someone else's.
 */
export class Reporter {
  readonly #write: (at: Snapshot, events: { type: JobEventType; data: Record<string, unknown> }[]) => Promise<boolean>;
  readonly #onLost: () => void;
  readonly #onError: (error: unknown) => void;
  #at: Snapshot = { stage: null, progress: 0, etaSeconds: null, stages: [] };
  #events: { type: JobEventType; data: Record<string, unknown> }[] = [];
  /** The latest progress that has no event yet: those in between are dropped. */
  #progress: Record<string, unknown> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  #lastWrite = 0;
  #closed = false;
  #left = MOST_EVENTS;
  readonly #ids = new Map<unknown, string>();

  constructor(execution: Execution, jobId: string, owner: string, hooks: { onLost: () => void; onError: (error: unknown) => void }) {
    this.#write = (at, events) => execution.report(jobId, owner, at, events);
    this.#onLost = hooks.onLost;
    this.#onError = hooks.onError;
  }

  add(event: Exclude<TaskEvent, { type: 'done' | 'failed' | 'statistic' }>): void {
    // What comes from the child may be anything: only what the row can hold goes on, and not without end.
    if (this.#closed || this.#left-- <= 0) return;
    if (event.type === 'progress') {
      const { stage, variant, message } = event;
      if (!isStage(stage)) return;
      const progress = Math.min(1, Math.max(0, Number(event.progress) || 0));
      const etaSeconds = typeof event.etaSeconds === 'number' && event.etaSeconds >= 0 ? event.etaSeconds : null;
      const moved = stage !== this.#at.stage;
      this.#at = { ...this.#at, stage, progress: Math.max(progress, this.#at.progress), etaSeconds };
      this.#progress = { stage, variant, progress: this.#at.progress, etaSeconds, message };
      this.#schedule(moved ? 0 : QUIET_MS - (Date.now() - this.#lastWrite));
      return;
    }
    this.#takeProgress();
    if (event.type === 'stage') {
      if (!isStage(event.run?.name)) return;
      this.#at = { ...this.#at, stages: [...this.#at.stages, event.run] };
      this.#events.push({ type: 'stage', data: { ...event.run } });
    } else {
      // Paths are of this machine, the manifest is the artifact's. The id is given here, so that a variant keeps it when
      // the job ends and its row is written.
      const { files, manifest: _, ...variant } = event.variant;
      this.#events.push({
        type: 'variant',
        data: { ...variant, id: this.#idOf(variant.index), sizeBytes: files?.reduce((sum, file) => sum + file.sizeBytes, 0) ?? null },
      });
    }
    this.#schedule(0);
  }

  /** Writes what is left, once, and takes nothing more. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer) clearTimeout(this.#timer);
    await this.#writing;
    await this.#flush(false);
  }

  /** One id for each variant, which is told of more than once: when it is evaluated, and when it is measured. */
  #idOf(index: unknown): string {
    const id = this.#ids.get(index) ?? newId('variant');
    this.#ids.set(index, id);
    return id;
  }

  #takeProgress(): void {
    if (this.#progress) this.#events.push({ type: 'progress', data: this.#progress });
    this.#progress = null;
  }

  #schedule(ms: number): void {
    if (this.#closed || this.#writing) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        this.#writing = this.#flush(true).finally(() => {
          this.#writing = null;
          if (this.#events.length > 0 || this.#progress) this.#schedule(QUIET_MS);
        });
      },
      Math.max(0, ms),
    );
  }

  async #flush(retry: boolean): Promise<void> {
    this.#takeProgress();
    const events = this.#events;
    if (events.length === 0) return;
    this.#events = [];
    this.#lastWrite = Date.now();
    try {
      if (!(await this.#write(this.#at, events))) {
        this.#closed = true;
        this.#onLost();
      }
    } catch (error) {
      this.#onError(error);
      if (!retry) return;
      this.#events = [...events, ...this.#events];
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
