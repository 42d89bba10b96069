/**
 * Applies prisma/migrations with Prisma's own schema engine, compiled to WebAssembly: its native build would have to be
 * downloaded at install time, which a closed network does not allow.
 */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PrismaPg } from '@prisma/adapter-pg';
import {
  bindMigrationAwareSqlAdapterFactory,
  type ErrorCapturingSqlMigrationAwareDriverAdapterFactory,
} from '@prisma/driver-adapter-utils';
import type * as EngineModule from '@prisma/schema-engine-wasm';
import pg from 'pg';

/** Held while migrating, so that several processes can start at once. Any number that nothing else in the database uses. */
const LOCK = 7_205_759_403;

/** The package's root, from src/ as well as from dist/src/. */
function packageRoot(): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!existsSync(path.join(folder, 'prisma', 'schema.prisma'))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error('prisma/schema.prisma is not beside the program');
    folder = parent;
  }
  return folder;
}

/** What is used of the global; @types/node does not declare it. */
declare const WebAssembly: {
  instantiate(bytes: Uint8Array, imports: Record<string, object>): Promise<{ instance: { exports: Record<string, unknown> } }>;
};

let engineModule: Promise<typeof EngineModule> | null = null;
/** The engine's package expects a bundler that turns `import …wasm` into an instance; Node 20 does not, so it is done here. */
function loadEngine(): Promise<typeof EngineModule> {
  engineModule ??= (async () => {
    const bindings = (await import('@prisma/schema-engine-wasm/schema_engine_bg')) as unknown as {
      __wbg_set_wasm(exports: unknown): void;
    };
    const file = createRequire(import.meta.url)
      .resolve('@prisma/schema-engine-wasm/schema_engine_bg')
      .replace(/\.js$/, '.wasm');
    const { instance } = await WebAssembly.instantiate(await readFile(file), { './schema_engine_bg.js': bindings });
    bindings.__wbg_set_wasm(instance.exports);
    (instance.exports.__wbindgen_start as () => void)();
    return bindings as unknown as typeof EngineModule;
  })();
  return engineModule;
}

async function withEngine<T>(url: string, datamodel: string | null, work: (engine: EngineModule.SchemaEngine) => Promise<T>): Promise<T> {
  const { SchemaEngine } = await loadEngine();
  const factory: ErrorCapturingSqlMigrationAwareDriverAdapterFactory = bindMigrationAwareSqlAdapterFactory(
    new PrismaPg({ connectionString: url, connectionTimeoutMillis: 5000, max: 2 }),
  );
  const engine = await SchemaEngine.new({ datamodels: datamodel === null ? undefined : [['schema.prisma', datamodel]] }, () => {}, factory);
  try {
    return await work(engine);
  } finally {
    engine.free();
  }
}

const NO_FILTER = { externalTables: [], externalEnums: [] };

async function readMigrations(folder: string): Promise<EngineModule.MigrationList> {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  names.sort();
  const migrationDirectories = await Promise.all(
    names.map(async (name) => {
      const content = await readFile(path.join(folder, name, 'migration.sql'), 'utf8');
      return { path: name, migrationFile: { path: 'migration.sql', content: { tag: 'ok' as const, value: content } } };
    }),
  );
  const lockfile = await readFile(path.join(folder, 'migration_lock.toml'), 'utf8').catch(() => null);
  return { baseDir: folder, lockfile: { path: 'migration_lock.toml', content: lockfile }, shadowDbInitScript: '', migrationDirectories };
}

/** Brings the database to the schema. Waits while another process does the same. Returns the names of the migrations applied now. */
export async function migrate(url: string): Promise<string[]> {
  const list = await readMigrations(path.join(packageRoot(), 'prisma', 'migrations'));
  const lock = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 });
  // Without a listener a connection that breaks while it is held would end the process.
  lock.on('error', () => {});
  await lock.connect();
  try {
    await lock.query('select pg_advisory_lock($1)', [LOCK]);
    // The engine takes half a second to load: not at every start.
    if (await isUpToDate(lock, list)) return [];
    const { appliedMigrationNames } = await withEngine(url, null, (engine) =>
      engine.applyMigrations({ migrationsList: list, filters: NO_FILTER }),
    );
    return appliedMigrationNames;
  } finally {
    await lock.end().catch(() => {});
  }
}

async function isUpToDate(client: pg.Client, list: EngineModule.MigrationList): Promise<boolean> {
  const table = await client.query(`select to_regclass('_prisma_migrations') is not null as there`);
  if (!table.rows[0]?.there) return false;
  const done = await client.query('select migration_name from _prisma_migrations where finished_at is not null and rolled_back_at is null');
  const names = new Set(done.rows.map((row: { migration_name: string }) => row.migration_name));
  const failed = await client.query('select 1 from _prisma_migrations where finished_at is null and rolled_back_at is null');
  return failed.rows.length === 0 && list.migrationDirectories.every((directory) => names.has(directory.path));
}

/** The SQL that leads from an empty database to prisma/schema.prisma: what all migrations together must come to. */
export async function schemaSql(url: string): Promise<string> {
  const file = path.join(packageRoot(), 'prisma', 'schema.prisma');
  const content = await readFile(file, 'utf8');
  const to = { tag: 'schemaDatamodel' as const, files: [{ path: file, content }] };
  const result = await withEngine(url, content, (engine) =>
    engine.diff({ from: { tag: 'empty' }, to, script: true, exitCode: null, filters: NO_FILTER }),
  );
  return result.stdout ?? '';
}
