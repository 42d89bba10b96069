/** Runs a job's child process to its end and says how it ended. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type JobResult, type ProblemSummary, STAGES, type Stage } from '../domain/job.ts';
import type { Task, TaskCommand, TaskEvent } from '../domain/task.ts';
import { killGroup, offerToOomKiller, oomKills, treeMemory } from './process-tree.ts';

/**
 * How a child ended.
 * - `done`, `failed`: it said so.
 * - `stopped`: we ended it, by `stop`.
 * - `killed`: someone outside sent it a deadly signal. That is not its fault.
 * - `died`: by its own doing: a crash, the memory limit, the deadline.
 */
export type ChildEnd =
  | { kind: 'done'; result: JobResult }
  | { kind: 'failed'; error: ProblemSummary; stage: Stage }
  | { kind: 'stopped' }
  | { kind: 'killed'; signal: NodeJS.Signals }
  | { kind: 'died'; code: 'child-crashed' | 'child-memory' | 'child-deadline'; detail: string; stage: Stage };

export interface ChildOptions {
  task: Task;
  deadlineSeconds: number;
  memoryBytes: number;
  /** What the child says, but for `done` and `failed`. */
  onEvent: (event: Exclude<TaskEvent, { type: 'done' | 'failed' }>) => void;
  /** All of its environment: no credentials. TMPDIR is added. */
  environment: Record<string, string>;
  /** Told its id once it runs. */
  onStart?: (pid: number) => void;
  /** Lines of its stderr. */
  onStderr?: (line: string) => void;
  /** The child's program; child.js beside this file by default. */
  script?: string;
}

export interface Child {
  readonly ended: Promise<ChildEnd>;
  /** Asks it to end and kills it `graceMs` later. With 0 it is killed at once. */
  stop(graceMs: number): void;
}

const MEMORY_POLL_MS = 500;
/** What a person, an orchestrator or a shutdown sends. A process that crashes gets others. */
const OUTSIDE_SIGNALS: readonly NodeJS.Signals[] = ['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'];
/** After its result has come a child gets so long to end by itself. */
const FAREWELL_MS = 5000;
/** How long after its exit its last words may take. */
const CLOSE_MS = 2000;

export function startChild(options: ChildOptions): Child {
  const { task, deadlineSeconds, memoryBytes, onEvent } = options;
  const script = options.script ?? fileURLToPath(new URL('./child.js', import.meta.url));
  const child = fork(script, [String(process.pid)], {
    cwd: task.workDir,
    env: { ...options.environment, TMPDIR: task.workDir },
    execArgv: [],
    // Leader of a group of its own: Ctrl-C in a terminal is for the worker to act on, and its own children go with it.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });

  let stage: Stage = 'read';
  let said: { kind: 'done'; result: JobResult } | { kind: 'failed'; error: ProblemSummary; stage: Stage } | null = null;
  let ours: 'stop' | 'memory' | 'deadline' | null = null;
  let memorySeen = 0;
  let exited = false;
  const kill = (why: 'stop' | 'memory' | 'deadline') => {
    // Its id may be another's by now.
    if (exited || child.pid === undefined) return;
    ours ??= why;
    killGroup(child.pid);
  };

  const hear = (event: TaskEvent) => {
    if (said) return;
    if (event.type === 'done') said = { kind: 'done', result: event.result };
    else if (event.type === 'failed') {
      const { code, detail } = event.error;
      said = { kind: 'failed', error: { code: String(code), detail: String(detail) }, stage: event.error.stage };
    } else {
      if (event.type === 'progress' && STAGES.includes(event.stage)) stage = event.stage;
      onEvent(event);
    }
    if (said) setTimeout(() => kill('stop'), FAREWELL_MS).unref();
  };
  child.on('message', (message) => {
    // A hostile model may have taken the child over: what it says must not be able to throw here.
    try {
      hear(message as TaskEvent);
    } catch (error) {
      options.onStderr?.(`it said what cannot be understood: ${(error as Error).message}`);
    }
  });

  const stderr = lastLines(child, options.onStderr);
  const deadline = setTimeout(() => kill('deadline'), Math.min(deadlineSeconds * 1000, 2 ** 31 - 1));
  let looking = false;
  const memory = setInterval(async () => {
    if (looking || child.pid === undefined) return;
    looking = true;
    try {
      memorySeen = (await treeMemory(child.pid)) || memorySeen;
      if (memorySeen > memoryBytes) kill('memory');
    } catch (error) {
      options.onStderr?.(`its memory could not be read: ${(error as Error).message}`);
    } finally {
      looking = false;
    }
  }, MEMORY_POLL_MS);

  const oomBefore = oomKills();
  const ended = new Promise<ChildEnd>((resolve) => {
    const conclude = async (code: number | null, signal: NodeJS.Signals | null) => resolve(said ?? (await judge(code, signal)));
    const leave = () => {
      exited = true;
      clearTimeout(deadline);
      clearInterval(memory);
    };
    child.once('error', (error) => {
      // A failed start has no exit: no memory, no more processes.
      if (child.pid !== undefined) return;
      leave();
      resolve({ kind: 'died', code: 'child-crashed', detail: `it could not be started: ${error.message}`, stage });
    });
    child.once('exit', (code, signal) => {
      leave();
      killGroup(child.pid!);
      // 'close' comes when stderr has been read to its end, too; not at all where a stranger holds it open.
      setTimeout(() => void conclude(code, signal), CLOSE_MS).unref();
    });
    child.once('close', (code, signal) => void conclude(code, signal));
  });

  async function judge(code: number | null, signal: NodeJS.Signals | null): Promise<ChildEnd> {
    if (ours === 'stop') return { kind: 'stopped' };
    const died = (reason: 'child-crashed' | 'child-memory' | 'child-deadline', detail: string): ChildEnd => ({
      kind: 'died',
      code: reason,
      detail,
      stage,
    });
    if (ours === 'deadline') return died('child-deadline', `it had not ended after ${deadlineSeconds} s, in stage ${stage}`);
    if (ours === 'memory') return died('child-memory', `it held ${memorySeen} bytes, and ${memoryBytes} are allowed, in stage ${stage}`);
    if (/heap out of memory/.test(stderr())) return died('child-memory', `JavaScript’s heap was full, in stage ${stage}`);
    if (signal === 'SIGKILL' && ((await oomKills()) > (await oomBefore) || memorySeen > memoryBytes * 0.95))
      return died('child-memory', `the system killed it for want of memory; it held ${memorySeen} bytes, in stage ${stage}`);
    if (signal && OUTSIDE_SIGNALS.includes(signal)) return { kind: 'killed', signal };
    return died('child-crashed', `${signal ? `it got ${signal}` : `it ended with code ${code}`} in stage ${stage}`);
  }

  child.once('spawn', () => {
    void offerToOomKiller(child.pid!);
    options.onStart?.(child.pid!);
    send(child, { type: 'start', task });
  });

  return {
    ended,
    stop(graceMs) {
      if (graceMs > 0) send(child, { type: 'cancel' });
      setTimeout(() => kill('stop'), graceMs).unref();
      // Should it end by itself within the grace, that is our doing too.
      ours ??= 'stop';
    },
  };
}

function send(child: ChildProcess, command: TaskCommand): void {
  // Where it died in this moment its exit tells.
  if (child.connected) child.send(command, () => {});
}

/** Hands stderr's lines on and keeps the last ones. */
function lastLines(child: ChildProcess, onLine: ((line: string) => void) | undefined): () => string {
  let tail = '';
  let rest = '';
  child.stderr?.setEncoding('utf8');
  child.stderr?.on('data', (text: string) => {
    tail = (tail + text).slice(-8192);
    const lines = (rest + text).split('\n');
    rest = (lines.pop() ?? '').slice(-8192);
    for (const line of lines) if (line.trim() !== '') onLine?.(line.slice(0, 2000));
  });
  return () => tail;
}
