/** How a process lives and ends: what every program of this folder is wrapped in. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Config, ConfigError, readConfig } from '../config.ts';
import { createLogger, type Logger } from '../telemetry/logger.ts';

/** One step of a shutdown. A step that takes longer than its cap, or throws, does not hold the next one up. */
export interface Phase {
  name: string;
  capMs: number;
  run: () => Promise<unknown> | unknown;
}

export interface Lifetime {
  config: Config;
  log: Logger;
  /** Adds a phase in front of those that were added before: what was opened last is closed first. */
  onShutdown(phase: Phase): void;
  /** Begins the shutdown, as a signal does. */
  shutdown(why: string, exitCode?: number): void;
}

/**
 * Runs a program: reads the settings, starts it, and waits. SIGINT or SIGTERM begin the shutdown, phase by phase; a second
 * one (of those that a person can send: not the one that a terminal gives to the whole group at the same time) exits at once.
 */
export async function main(name: string, start: (lifetime: Lifetime) => Promise<void>): Promise<void> {
  let config: Config;
  try {
    config = readConfig();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`The settings cannot be used:\n${error.message}\n`);
    process.exit(2);
  }
  const secrets = [
    config.apiKey,
    config.s3SecretAccessKey,
    config.s3AccessKeyId,
    passwordOf(config.databaseUrl),
    passwordOf(config.redisUrl),
  ];
  const log = createLogger({ level: config.logLevel, name, secrets });

  const phases: Phase[] = [];
  let shuttingDown: Promise<void> | null = null;
  const shutdown = (why: string, exitCode = 0) => {
    shuttingDown ??= (async () => {
      log.info({ why }, 'shutting down');
      const started = Date.now();
      // Not a snapshot: a start that is still going on may add phases while others run.
      for (let phase = phases.shift(); phase; phase = phases.shift()) await runPhase(phase, log);
      log.info({ ms: Date.now() - started }, 'bye');
      await new Promise<void>((resolve) => log.flush(() => resolve()));
      process.exit(exitCode);
    })();
  };

  let signaledAt = 0;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (signaledAt > 0 && Date.now() - signaledAt > 100) process.exit(130);
      signaledAt ||= Date.now();
      shutdown(signal);
    });
  }
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'a bug: an error that nothing caught');
    shutdown('a bug', 1);
  });

  try {
    await start({ config, log, onShutdown: (phase) => phases.unshift(phase), shutdown });
  } catch (error) {
    if (shuttingDown) return;
    log.fatal({ err: error }, `could not start: ${(error as Error).message}`);
    shutdown('a failed start', 1);
  }
}

async function runPhase({ name, capMs, run }: Phase, log: Logger): Promise<void> {
  const capped = new AbortController();
  try {
    const late = sleep(capMs, 'late' as const, { signal: capped.signal, ref: true });
    late.catch(() => {});
    if ((await Promise.race([run(), late])) === 'late') log.warn({ phase: name, capMs }, 'this took too long; going on');
  } catch (error) {
    log.warn({ phase: name, err: error }, 'this failed; going on');
  } finally {
    capped.abort();
  }
}

function passwordOf(url: string | null): string | null {
  if (!url || !URL.canParse(url)) return null;
  const { password } = new URL(url);
  return password === '' ? null : decodeURIComponent(password);
}
