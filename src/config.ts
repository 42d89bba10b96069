/** Environment → one frozen, typed object. The only reader of process.env. */
import os from 'node:os';
import path from 'node:path';
import { LIMITS } from './domain/limits.ts';

/** One setting: its variable, how it is read, its default and meaning. */
interface Setting<T> {
  variable: string;
  /** As the table of the README shows it. */
  default: string;
  meaning: string;
  /** The default itself; called only where the variable is not set. */
  fallback: () => T;
  /** Throws an Error that says what the value must be. */
  read: (text: string) => T;
}

function setting<T>(variable: string, shown: string, meaning: string, fallback: () => T, read: (text: string) => T): Setting<T> {
  return { variable, default: shown, meaning, fallback, read };
}

const text = (value: string) => value;
const count = (min: number, max: number) => (value: string) => {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < min || number > max) throw new Error(`must be a whole number from ${min} to ${max}`);
  return number;
};
const seconds = count(1, 30 * 86_400);
/** `20000000000`, `20GB`, `512MiB`. */
const bytes = (value: string) => {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$/i.exec(value);
  if (!match) throw new Error('must be a size in bytes, as 20000000000, 20GB or 512MiB');
  const power = ['', 'k', 'm', 'g', 't'].indexOf(match[2]!.toLowerCase());
  const size = Math.round(Number(match[1]) * (match[3] ? 1024 : 1000) ** power);
  if (!Number.isSafeInteger(size) || size < 1) throw new Error('must be a size of at least one byte');
  return size;
};
const url =
  (...protocols: string[]) =>
  (value: string) => {
    const parsed = URL.canParse(value) ? new URL(value) : null;
    if (!parsed || !protocols.includes(parsed.protocol))
      throw new Error(`must be a URL that begins with ${protocols.map((name) => `${name}//`).join(' or ')}`);
    return value;
  };
const list = (value: string) =>
  value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
const oneOf =
  <T extends string>(...values: T[]) =>
  (value: string) => {
    if (!(values as string[]).includes(value)) throw new Error(`must be one of ${values.join(', ')}`);
    return value as T;
  };

/** Every setting by its name in the program. The README's table and the tests are made from it. */
const SETTINGS = {
  port: setting('PORT', '8080', 'Port of the API; 0 takes a free one.', () => 8080, count(0, 65_535)),
  host: setting('HOST', '0.0.0.0', 'Address that the API listens on.', () => '0.0.0.0', text),
  dataDir: setting(
    'DATA_DIR',
    './data',
    'Folder of everything that is kept: embedded database, objects, work in progress.',
    () => path.resolve('data'),
    (value) => path.resolve(value),
  ),
  databaseUrl: setting<string | null>(
    'DATABASE_URL',
    'embedded',
    'PostgreSQL 14 or newer, postgresql://…; without it one is embedded, under DATA_DIR.',
    () => null,
    url('postgresql:', 'postgres:'),
  ),
  redisUrl: setting<string | null>(
    'REDIS_URL',
    'the database',
    'Redis for the queue, redis://…, with `appendonly yes` and `noeviction`; without it the queue is in the database.',
    () => null,
    url('redis:', 'rediss:'),
  ),
  s3Endpoint: setting<string | null>(
    'S3_ENDPOINT',
    'the disk',
    'S3 server for the objects, http(s)://…; without it they are under DATA_DIR.',
    () => null,
    url('http:', 'https:'),
  ),
  s3PublicEndpoint: setting<string | null>(
    'S3_PUBLIC_ENDPOINT',
    'S3_ENDPOINT',
    'The S3 server’s address as clients reach it: downloads are redirected there.',
    () => null,
    url('http:', 'https:'),
  ),
  s3Bucket: setting('S3_BUCKET', 'halftone', 'Bucket of the objects; made where there is none.', () => 'halftone', text),
  s3Region: setting('S3_REGION', 'us-east-1', 'Region of the bucket.', () => 'us-east-1', text),
  s3AccessKeyId: setting<string | null>('S3_ACCESS_KEY_ID', '', 'Access key; needed with S3_ENDPOINT.', () => null, text),
  s3SecretAccessKey: setting<string | null>('S3_SECRET_ACCESS_KEY', '', 'Secret key; needed with S3_ENDPOINT.', () => null, text),
  apiKey: setting<string | null>(
    'HALFTONE_API_KEY',
    'made and printed once',
    'First admin key, 16 characters or more, taken as it is.',
    () => null,
    (value) => {
      if (value.length < 16) throw new Error('must have 16 characters or more');
      if (!/^[\x21-\x7e]+$/.test(value)) throw new Error('must consist of visible ASCII characters, as it is sent in a header');
      return value;
    },
  ),
  maxModelBytes: setting('MAX_MODEL_BYTES', '20GB', 'Largest model, all its files together.', () => LIMITS.modelBytes, bytes),
  maxDatasetBytes: setting('MAX_DATASET_BYTES', '50GB', 'Largest data set.', () => LIMITS.datasetBytes, bytes),
  uploadStallSeconds: setting('UPLOAD_STALL_SECONDS', '60', 'An upload that sends nothing for so long is cut off.', () => 60, seconds),
  workerConcurrency: setting(
    'WORKER_CONCURRENCY',
    '1',
    'Jobs that a worker runs at once. Benchmarks run alone on the machine however many there are.',
    () => 1,
    count(1, 256),
  ),
  workerLabels: setting<string[]>(
    'WORKER_LABELS',
    '',
    'Labels of this worker, comma-separated: it takes the jobs of profiles that ask for no label it lacks.',
    () => [],
    (value) => {
      const labels = list(value);
      for (const label of labels)
        if (!/^[\w.-]{1,64}$/.test(label))
          throw new Error('must be names of letters, digits, `_`, `-` and `.`, at most 64 characters each');
      return labels;
    },
  ),
  jobLeaseSeconds: setting(
    'JOB_LEASE_SECONDS',
    '20',
    'A worker that has not been heard of for so long is lost, and its jobs go to others.',
    () => 20,
    count(3, 3600),
  ),
  jobDeadlineSeconds: setting(
    'JOB_DEADLINE_SECONDS',
    '14400',
    'How long a job’s process may take, each time that it is started.',
    () => 14_400,
    seconds,
  ),
  jobMemoryBytes: setting(
    'JOB_MEMORY_BYTES',
    '80% of the memory',
    'Resident memory that a job’s process may take, its own children included.',
    () => Math.floor(memoryBytes() * 0.8),
    bytes,
  ),
  shutdownGraceSeconds: setting(
    'SHUTDOWN_GRACE_SECONDS',
    '10',
    'How long a running job may go on after a signal to stop; it is then queued again.',
    () => 10,
    count(0, 3600),
  ),
  machineLock: setting(
    'MACHINE_LOCK',
    'machine.lock in DATA_DIR',
    'File that all workers of this machine lock while they measure; the same for all of them.',
    () => '',
    text,
  ),
  onnxRuntimeLibrary: setting<string | null>(
    'ONNXRUNTIME_LIBRARY',
    'the package’s own',
    'Another build of the same ONNX Runtime version for jobs’ processes to load, as one that is masked to run a lesser processor’s kernels; what it needs preloaded is named by LD_PRELOAD.',
    () => null,
    (value) => path.resolve(value),
  ),
  webhookAllow: setting<string[]>(
    'WEBHOOK_ALLOW',
    '',
    'Origins that webhooks may go to although they are not public or not https, comma-separated, as `http://127.0.0.1:9000` or, for any port, `http://127.0.0.1:*`; for tests.',
    () => [],
    list,
  ),
  rateLimit: setting('RATE_LIMIT', '600', 'Requests a minute that a key may make; 0 = no limit.', () => 600, count(0, 1_000_000)),
  trustProxy: setting(
    'TRUST_PROXY',
    'no',
    'yes where a proxy in front of the API may say whose request it is (X-Forwarded-For).',
    () => false,
    (value) => oneOf('yes', 'no')(value) === 'yes',
  ),
  logLevel: setting(
    'LOG_LEVEL',
    'info',
    'trace, debug, info, warn, error, fatal or silent.',
    () => 'info' as const,
    oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'),
  ),
};

type Values = { [K in keyof typeof SETTINGS]: (typeof SETTINGS)[K] extends Setting<infer T> ? T : never };
export type Config = Readonly<Values>;

/** The settings as a table: name, default, meaning. */
export const SETTINGS_TABLE: readonly { variable: string; default: string; meaning: string }[] = Object.values(SETTINGS).map(
  ({ variable, default: shown, meaning }) => ({ variable, default: shown, meaning }),
);

/** One or more settings that cannot be; the message names each with its reason, for people. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** Reads the environment. An empty variable counts as not set, as compose files make them. */
export function readConfig(environment: Record<string, string | undefined> = process.env): Config {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, { variable, fallback, read }] of Object.entries(SETTINGS) as [string, Setting<unknown>][]) {
    const value = environment[variable]?.trim();
    try {
      values[name] = value ? read(value) : fallback();
    } catch (error) {
      // The value is not shown: it may be a secret.
      problems.push(`${variable} ${(error as Error).message}`);
    }
  }
  const config = values as unknown as Values;
  if (config.s3Endpoint) {
    if (!config.s3AccessKeyId) problems.push('S3_ACCESS_KEY_ID must be set where S3_ENDPOINT is');
    if (!config.s3SecretAccessKey) problems.push('S3_SECRET_ACCESS_KEY must be set where S3_ENDPOINT is');
  }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'));
  config.machineLock = path.resolve(config.machineLock || path.join(config.dataDir, 'machine.lock'));
  config.workerLabels = Object.freeze(config.workerLabels) as string[];
  config.webhookAllow = Object.freeze(config.webhookAllow) as string[];
  return Object.freeze(config);
}

/** All that a job's process sees of the environment: what programs need to run, no secret, and that a user's models are nobody else's (runtime/library.ts). */
const PASSED_ON = ['PATH', 'HOME', 'LANG', 'LC_ALL', 'LC_CTYPE', 'TZ', 'LD_LIBRARY_PATH', 'LD_PRELOAD'];
export function childEnvironment(environment: Record<string, string | undefined> = process.env): Record<string, string> {
  const passed = Object.fromEntries(PASSED_ON.flatMap((name) => (environment[name] === undefined ? [] : [[name, environment[name]]])));
  return { ...passed, ORT_DISABLE_TELEMETRY: '1' };
}

/** The machine's memory, or the container's where that is less. */
function memoryBytes(): number {
  const constrained = process.constrainedMemory?.() ?? 0;
  const total = os.totalmem();
  return constrained > 0 && constrained < total ? constrained : total;
}
