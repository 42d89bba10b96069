import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfigError, childEnvironment, readConfig, SETTINGS_TABLE } from '../../src/config.ts';

const problems = (environment: Record<string, string>): string => {
  try {
    readConfig(environment);
    return '';
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
};

describe('the configuration', () => {
  it('needs nothing to be set', () => {
    const config = readConfig({});
    expect(config).toMatchObject({
      port: 8080,
      databaseUrl: null,
      redisUrl: null,
      s3Endpoint: null,
      apiKey: null,
      workerConcurrency: 1,
      workerLabels: [],
    });
    expect(config.dataDir).toBe(path.resolve('data'));
    expect(config.machineLock).toBe(path.resolve('data/machine.lock'));
    expect(config.jobMemoryBytes).toBeGreaterThan(1e8);
    expect(Object.isFrozen(config) && Object.isFrozen(config.workerLabels)).toBe(true);
  });

  it('takes an empty variable for one that is not set', () => {
    const empty = Object.fromEntries(SETTINGS_TABLE.map(({ variable }) => [variable, ' ']));
    expect(readConfig(empty)).toEqual(readConfig({}));
  });

  it('reads sizes, lists and paths', () => {
    const config = readConfig({
      MAX_MODEL_BYTES: '1.5 GB',
      MAX_DATASET_BYTES: '512MiB',
      JOB_MEMORY_BYTES: '4096',
      WORKER_LABELS: ' pi5, arm ,',
      DATA_DIR: '/srv/x/../halftone',
      TRUST_PROXY: 'yes',
    });
    expect([config.maxModelBytes, config.maxDatasetBytes, config.jobMemoryBytes]).toEqual([1.5e9, 512 * 1024 ** 2, 4096]);
    expect([config.workerLabels, config.dataDir, config.machineLock, config.trustProxy]).toEqual([
      ['pi5', 'arm'],
      '/srv/halftone',
      '/srv/halftone/machine.lock',
      true,
    ]);
  });

  it('names every setting that cannot be, with what it must be, and shows no value', () => {
    const message = problems({
      PORT: '99999',
      DATABASE_URL: 'mysql://root:hunter2@db/x',
      REDIS_URL: 'not a url',
      HALFTONE_API_KEY: 'tooshort',
      MAX_MODEL_BYTES: '-5',
      WORKER_CONCURRENCY: '0',
      WORKER_LABELS: 'a:b',
      LOG_LEVEL: 'loud',
      S3_ENDPOINT: 'http://127.0.0.1:8333',
    });
    const lines = message.split('\n');
    for (const variable of [
      'PORT',
      'DATABASE_URL',
      'REDIS_URL',
      'HALFTONE_API_KEY',
      'MAX_MODEL_BYTES',
      'WORKER_CONCURRENCY',
      'WORKER_LABELS',
      'LOG_LEVEL',
      'S3_ACCESS_KEY_ID',
      'S3_SECRET_ACCESS_KEY',
    ]) {
      expect(lines.filter((line) => line.startsWith(`${variable} must`)).length).toBe(1);
    }
    expect(message).not.toMatch(/hunter2|tooshort/);
  });

  it('refuses every text that is not a number where one is needed', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (value) => {
        fc.pre(value.trim() !== '' && !/^\d+$/.test(value.trim()));
        expect(problems({ PORT: value })).toContain('PORT must be a whole number');
      }),
    );
  });

  it('has a table with every setting once', () => {
    const names = SETTINGS_TABLE.map((row) => row.variable);
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBe(Object.keys(readConfig({})).length);
    for (const row of SETTINGS_TABLE) expect(row.meaning).toMatch(/\.$/);
  });

  it('hands no secret on to the processes of jobs', () => {
    const environment = {
      PATH: '/bin',
      HOME: '/root',
      DATABASE_URL: 'x',
      REDIS_URL: 'x',
      S3_SECRET_ACCESS_KEY: 'x',
      HALFTONE_API_KEY: 'x',
      AWS_SECRET_ACCESS_KEY: 'x',
      NODE_OPTIONS: '--inspect',
    };
    expect(childEnvironment(environment)).toEqual({ PATH: '/bin', HOME: '/root', ORT_DISABLE_TELEMETRY: '1' });
  });
});
