/** The engine's Runner port on ONNX Runtime. */
import { readFile, rm } from 'node:fs/promises';
import { benchInterleaved, Observer as NativeObserver, OrtSession } from '../../native/index.ts';
import type { Observer, ObserverOptions, ProfiledNode, Runner, Session, SessionOptions, TensorValue } from '../domain/runner.ts';
import { type Library, loadLibrary } from './library.ts';
import { physicalCores } from './machine.ts';
import { parseProfile } from './profile.ts';
import { TURNS } from './turns.ts';

/**
 * Pool threads of a session spin for some 35 ms after its last run, by default, and take the cores from whatever runs next: the
 * observers, JavaScript, another session of an interleaved pair. Told to stop they cost about 10 µs more a run.
 */
const QUIET: Record<string, string> = { 'session.force_spinning_stop': '1' };

class RuntimeObserver implements Observer {
  readonly native: NativeObserver;
  constructor(options: ObserverOptions) {
    this.native = new NativeObserver(options);
  }
  merge(other: Observer) {
    if (!(other instanceof RuntimeObserver)) throw new TypeError('the other observer was not made by this runner');
    this.native.merge(other.native);
  }
  result() {
    return this.native.result();
  }
}

class RuntimeSession implements Session {
  readonly native: OrtSession;
  #profiling: boolean;
  readonly inputs;
  readonly outputs;
  readonly loadMs;
  constructor(session: OrtSession, profiling: boolean) {
    this.native = session;
    this.#profiling = profiling;
    this.inputs = session.inputs;
    this.outputs = session.outputs;
    this.loadMs = session.loadMs;
  }

  run(feeds: Record<string, TensorValue>, fetches?: string[]): Promise<Record<string, TensorValue>> {
    return this.native.run(feeds, fetches);
  }

  async observe(
    feeds: Record<string, TensorValue>,
    observers: Record<string, Observer>,
    fetches: string[] = [],
  ): Promise<Record<string, TensorValue>> {
    const handles = Object.entries(observers).map(([name, observer]): [string, object] => {
      if (!(observer instanceof RuntimeObserver)) throw new TypeError(`the observer of '${name}' was not made by this runner`);
      return [name, observer.native.handle];
    });
    return this.native.observe(feeds, Object.fromEntries(handles), fetches);
  }

  async endProfile(): Promise<ProfiledNode[]> {
    if (!this.#profiling) throw new Error('the session was opened without profilePrefix, or its profile has ended');
    this.#profiling = false;
    const path = await this.native.endProfiling();
    try {
      return parseProfile(await readFile(path, 'utf8'));
    } finally {
      await rm(path, { force: true });
    }
  }

  close(): void {
    // A session that is freed while it profiles leaves its file behind.
    if (this.#profiling)
      void this.endProfile()
        .catch(() => undefined)
        .then(() => this.native.close());
    else this.native.close();
  }
}

/**
 * A Runner on the ONNX Runtime library that `library` loads (default: the one inside onnxruntime-node). Its sessions run off the
 * main thread, sequentially between operators. What the runtime refuses is thrown as native/ort.ts' OrtError, whose `ortMessage`
 * is the runtime's own text; wrong feeds are refused, by name, before they reach it.
 */
export function createRunner(library: Library = loadLibrary()): Runner {
  return {
    version: library.version,
    cores: physicalCores(),
    async open(model: string | Uint8Array, options: SessionOptions): Promise<Session> {
      const config = { ...QUIET, ...options.config };
      if (options.disabledOptimizers?.length) config['optimization.disable_specified_optimizers'] = options.disabledOptimizers.join(';');
      const session = await OrtSession.open(library.path, model, {
        threads: options.threads === 0 ? physicalCores() : options.threads,
        optimization: options.optimization,
        config,
        profilePrefix: options.profilePrefix,
        optimizedModelPath: options.optimizedModelPath,
      });
      return new RuntimeSession(session, options.profilePrefix !== undefined);
    },
    observer: (options) => new RuntimeObserver(options),
    interleave(sessions, feeds, { blocks, seconds }) {
      const natives = sessions.map((session) => {
        if (!(session instanceof RuntimeSession)) throw new TypeError('a session was not opened by this runner');
        return session.native;
      });
      return benchInterleaved(natives, feeds, { ...TURNS, blocks, secondsPerBlock: seconds / blocks, minRuns: 1, maxRuns: 20_000 });
    },
  };
}
