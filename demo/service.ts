/** Starts the service as its own process, on a port that is free, and waits until it is ready. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The repository's root: this file runs from demo/ (under vitest) and from dist/demo/. */
export const ROOT = (() => {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder);
  return folder;
})();

/** A TCP port of 127.0.0.1 that nothing listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export interface ServiceOptions {
  dataDir: string;
  logFile: string;
  /** One of src/bin: `serve` (API and worker in one) by default. */
  program?: 'serve' | 'api' | 'worker';
  port?: number;
  key?: string;
  env?: Record<string, string>;
}

export class Service {
  readonly url: string;
  readonly port: number;
  readonly key: string;
  readonly logFile: string;
  readonly child: ChildProcess;
  readonly exited: Promise<number | NodeJS.Signals>;
  #status: number | NodeJS.Signals | null = null;

  constructor(child: ChildProcess, port: number, key: string, logFile: string) {
    this.child = child;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.key = key;
    this.logFile = logFile;
    this.exited = new Promise((resolve) => {
      const end = (status: number | NodeJS.Signals) => {
        this.#status = status;
        resolve(status);
      };
      child.once('exit', (code, signal) => end(code ?? signal ?? 1));
      child.once('error', () => end(127));
    });
  }

  /** Exit code or signal; null while it runs. */
  get status(): number | NodeJS.Signals | null {
    return this.#status;
  }

  /** Resolves once /readyz answers 200; throws with the log's end when the process dies or `timeoutMs` pass. */
  async ready(timeoutMs = 120_000): Promise<this> {
    const deadline = Date.now() + timeoutMs;
    while (Date.now() < deadline) {
      if (this.#status !== null) throw new Error(`The service ended with ${this.#status} before it was ready.\n${this.tail()}`);
      const answer = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(5000) }).catch(() => null);
      await answer?.arrayBuffer();
      if (answer?.status === 200) return this;
      await sleep(100);
    }
    throw new Error(`The service was not ready after ${timeoutMs / 1000} s.\n${this.tail()}`);
  }

  /** Asks it to shut down (SIGTERM) and waits; a process that does not go within `graceMs` is killed. */
  async stop(graceMs = 30_000): Promise<number | NodeJS.Signals> {
    if (this.#status === null) this.child.kill('SIGTERM');
    const timer = setTimeout(() => this.killGroup(), graceMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** kill -9 of the whole process group: API, worker, children and the embedded PostgreSQL where it did not leave the group. */
  killGroup(): void {
    try {
      process.kill(-this.child.pid!, 'SIGKILL');
    } catch {
      // Gone already.
    }
  }

  /** The last lines of the log. */
  tail(lines = 30): string {
    return readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  }
}

/** Starts the service in a process group of its own. Call `ready()` on what it returns. */
export async function startService(options: ServiceOptions): Promise<Service> {
  const port = options.port ?? (await freePort());
  const key = options.key ?? `demo_${randomBytes(24).toString('base64url')}`;
  mkdirSync(options.dataDir, { recursive: true });
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = openSync(options.logFile, 'a');
  const child = spawn(process.execPath, [join(ROOT, 'dist/src/bin', `${options.program ?? 'serve'}.js`)], {
    cwd: ROOT,
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, HOST: '127.0.0.1', PORT: String(port), DATA_DIR: options.dataDir, HALFTONE_API_KEY: key, ...options.env },
  });
  closeSync(log);
  return new Service(child, port, key, options.logFile);
}
