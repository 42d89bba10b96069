/**
 * The queue behind two backends: Redis where there is one, else the database. The only file that knows BullMQ. Nothing
 * depends on what the queue keeps: it is at-least-once at its best and may be emptied at any time; a job's row decides.
 */
import {
  type BackendFactory,
  createPostgresBackend,
  type IQueueBackend,
  Queue,
  type QueueOptions,
  UnrecoverableError,
  Worker,
  type WorkerOptions,
} from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import type { QueueKind, QueueMessage, QueuePayload } from '../domain/queue.ts';
import { JOB_KINDS, kindOf } from './catalogue.ts';

export interface BrokerOptions {
  /** Redis; null = the database. */
  redisUrl: string | null;
  databaseUrl: string;
  /** Told of broken connections; they are opened again by themselves. */
  onError?: (error: Error) => void;
}

/** Handles messages of one queue until it is closed. */
export interface Consumer {
  /** Takes nothing more, and resolves when what is being handled has been. */
  close(): Promise<void>;
}

export interface Broker {
  readonly kind: 'redis' | 'postgres';
  /**
   * Puts messages into their queues. `id` makes doubles one as long as the first is there: letters, digits, `_`, `-`.
   * Fails at once where the queue cannot be reached.
   */
  add(message: QueueMessage, id: string): Promise<void>;
  /** Handles a queue's messages of this kind. A handler that throws gets the message again later, from the reconciler. */
  consume<K extends QueueKind>(queue: string, kind: K, concurrency: number, handler: (payload: QueuePayload<K>) => Promise<void>): Consumer;
  /** Throws where the queue does not answer within 2 s. */
  ping(): Promise<void>;
  /** Closes consumers, then connections. */
  close(): Promise<void>;
}

/** What of BullMQ's classes is used, without their backends' types. */
interface Producer {
  add(name: string, data: object, options: object): Promise<unknown>;
  on(event: 'error', listener: (error: Error) => void): unknown;
  close(): Promise<void>;
}

export async function openBroker(options: BrokerOptions): Promise<Broker> {
  const onError = options.onError ?? (() => {});
  const backend = options.redisUrl ? await redisBackend(options.redisUrl, onError) : await postgresBackend(options.databaseUrl);
  const producers = new Map<string, Producer>();
  const consumers = new Set<Consumer>();

  const producer = (name: string): Producer => {
    let found = producers.get(name);
    if (!found) {
      found = backend.queue(name);
      found.on('error', onError);
      producers.set(name, found);
    }
    return found;
  };

  return {
    kind: options.redisUrl ? 'redis' : 'postgres',

    async add(message, id) {
      const { queue, delayMs } = kindOf(message);
      await within(
        5000,
        producer(queue).add(message.kind, message.payload, { jobId: id, delay: delayMs, removeOnComplete: true, removeOnFail: true }),
      );
    },

    consume(queue, kind, concurrency, handler) {
      const worker = backend.worker(queue, concurrency, async (data) => {
        const payload = JOB_KINDS[kind].parse(data);
        if (payload === null) throw new UnrecoverableError('not a message of ours');
        await handler(payload);
      });
      worker.on('error', onError);
      const consumer: Consumer = {
        close: async () => {
          consumers.delete(consumer);
          await worker.close();
        },
      };
      consumers.add(consumer);
      return consumer;
    },

    ping: () => within(2000, backend.ping()),

    async close() {
      await Promise.allSettled([...consumers].map((consumer) => consumer.close()));
      await Promise.allSettled([...producers.values()].map((queue) => queue.close()));
      await backend.close();
    },
  };
}

interface Backend {
  queue(name: string): Producer;
  worker(name: string, concurrency: number, handle: (data: unknown) => Promise<void>): Worker;
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** How often a lock is renewed and looked after. The work itself runs in other processes, so a lock that is not renewed belongs to a dead one. */
const WORKER_SETTINGS = {
  lockDuration: 30_000,
  stalledInterval: 30_000,
  // After a lost connection the loop would sleep 15 s by default.
  runRetryDelay: 2000,
  removeOnComplete: { count: 0 },
  removeOnFail: { count: 0 },
} satisfies Partial<WorkerOptions>;

async function redisBackend(url: string, onError: (error: Error) => void): Promise<Backend> {
  // Producers fail fast: what they cannot say now stays in the outbox. Consumers wait for as long as it takes.
  const producing = new Redis(url, { maxRetriesPerRequest: 1, connectTimeout: 5000, commandTimeout: 5000 });
  const consuming = new Redis(url, { maxRetriesPerRequest: null, connectTimeout: 5000 });
  for (const connection of [producing, consuming]) connection.on('error', onError);
  return {
    queue: (name) => new Queue(name, { connection: producing }),
    worker: (name, concurrency, handle) =>
      new Worker(name, (job) => handle(job.data), { connection: consuming, concurrency, ...WORKER_SETTINGS }),
    ping: async () => {
      await producing.ping();
    },
    close: async () => {
      for (const connection of [producing, consuming]) connection.disconnect();
    },
  };
}

async function postgresBackend(url: string): Promise<Backend> {
  const connection = { connectionString: url, connectionTimeoutMillis: 5000, keepAlive: true, max: 3, migrate: true };
  const pool = new pg.Pool({ connectionString: url, connectionTimeoutMillis: 2000, max: 1, idleTimeoutMillis: 10_000 });
  pool.on('error', () => {});
  const factory = createPostgresBackend as unknown as BackendFactory<IQueueBackend, typeof connection>;
  return {
    queue: (name) => new Queue(name, { connection } as unknown as QueueOptions<typeof connection>, factory) as unknown as Producer,
    worker: (name, concurrency, handle) =>
      new Worker(
        name,
        (job: { data: unknown }) => handle(job.data),
        { connection, concurrency, ...WORKER_SETTINGS } as unknown as WorkerOptions<typeof connection>,
        factory,
      ) as unknown as Worker,
    ping: async () => {
      await pool.query('select 1');
    },
    close: () => pool.end(),
  };
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the queue did not answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
