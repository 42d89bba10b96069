/**
 * The sandboxed side of a job: a process of its own that gets paths and plain data over IPC, computes, says what it
 * learns, and ends. It may be killed at any moment.
 */
import { statfsSync } from 'node:fs';
import { HalftoneError, isOutOfRoom } from '../domain/errors.ts';
import type { Stage } from '../domain/job.ts';
import type { Task, TaskCommand, TaskEvent } from '../domain/task.ts';
import { dieWithParent } from './guard.ts';

dieWithParent(Number(process.argv[2]));

/** Less than any job's files take. */
const LEAST_ROOM = 1 << 20;

const canceled = new AbortController();
let stage: Stage = 'read';

const unsent = new Set<Promise<void>>();

function say(event: TaskEvent): void {
  if (event.type === 'progress') stage = event.stage;
  const sent = new Promise<void>((resolve) => {
    if (process.send) process.send(event, undefined, undefined, () => resolve());
    else resolve();
  });
  unsent.add(sent);
  void sent.then(() => unsent.delete(sent));
}

async function run(task: Task): Promise<void> {
  try {
    // Loaded late: the guard stands before the engine's addon is opened.
    const { runTask } = await import('../search/run-task.ts');
    let done = false;
    const emit = (event: TaskEvent) => {
      done ||= event.type === 'done';
      say(event);
    };
    const result = await runTask(task, emit, canceled.signal);
    if (!done) say({ type: 'done', result });
  } catch (error) {
    say({ type: 'failed', error: { ...problem(error), stage } });
  }
  // What was said last must be out before the end. Which comes here and not by itself: native threads may hold the
  // process, and their teardown has crashed before.
  await Promise.all(unsent);
  process.exit(0);
}

function problem(error: unknown): { code: string; detail: string } {
  if (canceled.signal.aborted) return { code: 'canceled', detail: 'the job was canceled' };
  if (error instanceof HalftoneError) return { code: error.code, detail: error.detail };
  // Its stack goes to the log through stderr.
  console.error(error);
  if (isOutOfRoom(error) || !hasRoom()) return { code: 'storage-full', detail: `the worker’s disk is full, in stage ${stage}` };
  // A bug: the user gets no more than that it is one.
  return { code: 'internal-error', detail: `in stage ${stage}` };
}

/** The runtime writes its profiles without looking whether they could be written: what then fails is whoever reads half of one. */
function hasRoom(): boolean {
  try {
    const { bavail, bsize } = statfsSync(process.cwd());
    return bavail * bsize >= LEAST_ROOM;
  } catch {
    return true;
  }
}

process.on('message', (command: TaskCommand) => {
  if (command.type === 'cancel') canceled.abort(new HalftoneError('canceled', 'the job was canceled'));
  else void run(command.task);
});
