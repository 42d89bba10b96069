import { rmSync } from 'node:fs';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbedded } from '../../../src/store/db/embedded.ts';
import { migrate, schemaSql } from '../../../src/store/db/migrate.ts';
import { temporaryFolder } from './support.ts';

let server: EmbeddedPostgres;
const folder = temporaryFolder();
beforeAll(async () => {
  server = await startEmbedded({ dataDir: folder });
});
afterAll(async () => {
  await server?.release();
  rmSync(folder, { recursive: true, force: true });
});

async function database(
  name: string,
): Promise<{ url: string; query: (sql: string) => Promise<Record<string, unknown>[]>; close: () => Promise<void> }> {
  const admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  await admin.query(`create database ${name}`);
  await admin.end();
  const url = server.url.replace(/\/[^/]*$/, `/${name}`);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return { url, query: async (sql) => (await client.query(sql)).rows, close: () => client.end() };
}

/** All that the schema consists of, as PostgreSQL itself tells. */
const CATALOGUE = [
  `select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns where table_schema = 'public' and table_name <> '_prisma_migrations' order by 1, 2`,
  `select tablename, indexname, indexdef from pg_indexes where schemaname = 'public' and tablename <> '_prisma_migrations' order by 2`,
  `select conrelid::regclass::text as t, conname, pg_get_constraintdef(oid) as def from pg_constraint where connamespace = 'public'::regnamespace and conrelid::regclass::text <> '_prisma_migrations' order by 1, 2`,
  `select typname, enumlabel from pg_enum join pg_type on pg_type.oid = enumtypid order by 1, enumsortorder`,
];

it('applies every migration once, whoever starts first', async () => {
  const { url, query, close } = await database('together');
  const applied = await Promise.all([migrate(url), migrate(url), migrate(url)]);
  expect(applied.filter((names) => names.length > 0).length).toBe(1);
  expect(await migrate(url)).toEqual([]);
  expect((await query('select migration_name from _prisma_migrations')).length).toBe(applied.flat().length);
  await close();
});

it('comes with migrations that lead to schema.prisma', async () => {
  const migrated = await database('migrated');
  await migrate(migrated.url);
  const wanted = await database('wanted');
  await wanted.query(await schemaSql(wanted.url));
  for (const sql of CATALOGUE) expect(await migrated.query(sql)).toEqual(await wanted.query(sql));
  await migrated.close();
  await wanted.close();
});
