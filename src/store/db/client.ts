import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { Prisma, PrismaClient } from './generated/client.ts';

/** What the repositories work on: the client itself (each call its own transaction) or an open transaction. */
export type Tx = Prisma.TransactionClient;

export interface DatabaseOptions {
  /** postgresql://… */
  url: string;
  /** Connections of this process's pool; 10 by default. */
  poolSize?: number;
  /** Told of connections that break while idle; the pool replaces them by itself. */
  onError?: (error: Error) => void;
}

export interface Database {
  readonly url: string;
  /** For single calls outside a transaction. */
  readonly client: Tx;
  /** One transaction, read committed; rolled back when `work` throws. At most a minute. */
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /**
   * Calls `handler` with the payload of each notification on the channel, on a connection of its own that is opened
   * again when it breaks; `handler('')` is called after each reopening, as something may have been missed.
   * Resolves to a function that stops listening.
   */
  listen(channel: Channel, handler: (payload: string) => void): Promise<() => Promise<void>>;
  /** Throws when the database does not answer within 2 s. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** Notifications, sent when the transaction commits. `halftone_job`: a job's row or events changed (payload: its id). `halftone_outbox`: the outbox has rows. */
export type Channel = 'halftone_job' | 'halftone_outbox';

/** Notifies listeners of the channel when the transaction commits. */
export async function notify(tx: Tx, channel: Channel, payload = ''): Promise<void> {
  await tx.$executeRaw`select pg_notify(${channel}, ${payload})`;
}

/** A text on its way into a text column: details hold names from users' files, PostgreSQL's text has no NUL, and nobody reads more than a page. */
export function storable(text: string): string {
  return text.replaceAll('\0', '\uFFFD').slice(0, 8000);
}

/** A value on its way into a JSON column. `undefined` members are dropped, as JSON has none. */
export function json(value: unknown): Prisma.InputJsonValue {
  return value as Prisma.InputJsonValue;
}
/** As `json`, where the column may be SQL's NULL. */
export function jsonOrNull(value: unknown): Prisma.InputJsonValue | typeof Prisma.DbNull {
  return value === null || value === undefined ? Prisma.DbNull : json(value);
}

/** Opens the pool. Connecting waits at most 5 s (adapter-pg would wait for ever), so that a lost database shows as an error. */
export function openDatabase(options: DatabaseOptions): Database {
  let closed = false;
  // A server that stops while our connections say goodbye is no loss.
  const onError = (error: Error) => {
    if (!closed) options.onError?.(error);
  };
  const adapter = new PrismaPg(
    {
      connectionString: options.url,
      max: options.poolSize ?? 10,
      connectionTimeoutMillis: 5000,
      idleTimeoutMillis: 60_000,
      keepAlive: true,
    },
    { onPoolError: onError, onConnectionError: onError },
  );
  const client = new PrismaClient({ adapter, transactionOptions: { maxWait: 10_000, timeout: 60_000 } });
  const listeners = new Set<() => Promise<void>>();
  return {
    url: options.url,
    client,
    transaction: (work) => client.$transaction(work),
    async listen(channel, handler) {
      const stop = await keepListening(options.url, channel, handler, onError);
      const stopOnce = async () => {
        listeners.delete(stopOnce);
        await stop();
      };
      listeners.add(stopOnce);
      return stopOnce;
    },
    async ping() {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error('the database did not answer within 2 s')), 2000);
      });
      try {
        await Promise.race([client.$queryRaw`select 1`, late]);
      } finally {
        clearTimeout(timer);
      }
    },
    async close() {
      closed = true;
      await Promise.all([...listeners].map((stop) => stop()));
      await client.$disconnect();
    },
  };
}

async function keepListening(url: string, channel: Channel, handler: (payload: string) => void, onError: (error: Error) => void) {
  let current: pg.Client | null = null;
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  const connect = async () => {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000, keepAlive: true });
    client.on('notification', (message) => handler(message.payload ?? ''));
    client.on('error', onError);
    client.on('end', () => {
      if (current === client) current = null;
      if (!stopped) retry();
    });
    try {
      await client.connect();
      await client.query(`listen ${channel}`);
    } catch (error) {
      client.removeAllListeners('end');
      await client.end().catch(() => {});
      throw error;
    }
    if (stopped) await client.end();
    else current = client;
  };
  const retry = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      connect().then(
        () => handler(''),
        (error) => {
          onError(error);
          if (!stopped) retry();
        },
      );
    }, 500);
    timer.unref();
  };
  await connect();
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await current?.end().catch(() => {});
  };
}
