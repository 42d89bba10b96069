import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbedded } from '../../../src/store/db/embedded.ts';
import { built, temporaryFolder } from './support.ts';

/** For most tests: making a cluster takes longer than what is tested. */
const shared = temporaryFolder();
const folders: string[] = [];
const running = new Set<EmbeddedPostgres>();
const folder = (): string => {
  const made = temporaryFolder();
  folders.push(made);
  return made;
};
const start = async (dataDir: string): Promise<EmbeddedPostgres> => {
  const server = await startEmbedded({ dataDir, timeoutMs: 60_000 });
  running.add(server);
  return server;
};
const stop = async (server: EmbeddedPostgres): Promise<void> => {
  running.delete(server);
  await server.release();
};
async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end().catch(() => {});
  }
}
interface Cluster {
  home: string;
}
const clusterOf = (dataDir: string): Cluster => JSON.parse(readFileSync(path.join(dataDir, 'postgres', 'cluster.json'), 'utf8')) as Cluster;
const pidOf = (dataDir: string): number =>
  Number(readFileSync(path.join(clusterOf(dataDir).home, 'data', 'postmaster.pid'), 'utf8').split('\n')[0]);
const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
async function eventually(check: () => boolean, ms = 10_000): Promise<boolean> {
  for (const deadline = Date.now() + ms; Date.now() < deadline; await sleep(50)) if (check()) return true;
  return check();
}

/** A process that uses the server of a data folder, as API and worker do; it writes the URL and waits. */
const USER = path.join(import.meta.dirname, 'postgres-user.mjs');
const EMBEDDED = built('src/store/db/embedded.js');
async function startUser(dataDir: string): Promise<{ child: ChildProcess; url: string }> {
  const child = fork(USER, [EMBEDDED, dataDir], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const [message] = (await once(child, 'message')) as [{ url: string }];
  return { child, url: message.url };
}
async function kill(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

afterAll(() => {
  rmSync(shared, { recursive: true, force: true });
});
afterEach(async () => {
  for (const server of running) await stop(server);
  for (const made of folders.splice(0)) rmSync(made, { recursive: true, force: true });
});

describe('the embedded PostgreSQL', () => {
  it('keeps what is written over a restart, and is gone after the release', async () => {
    const dataDir = shared;
    const first = await start(dataDir);
    await query(first.url, 'create table kept_by_restart as select 42 as n');
    const pid = pidOf(dataDir);
    await stop(first);
    expect(isAlive(pid)).toBe(false);
    const second = await start(dataDir);
    expect(await query(second.url, 'select n from kept_by_restart')).toEqual([{ n: 42 }]);
  });

  it('is one server for several who start it at once, and ends with the last of them', async () => {
    const dataDir = shared;
    const servers = await Promise.all([start(dataDir), start(dataDir), start(dataDir)]);
    expect(new Set(servers.map((server) => server.url)).size).toBe(1);
    const pid = pidOf(dataDir);
    await stop(servers[0]!);
    await stop(servers[1]!);
    expect(await query(servers[2]!.url, 'select 1 as n')).toEqual([{ n: 1 }]);
    await stop(servers[2]!);
    expect(isAlive(pid)).toBe(false);
  });

  it('outlives the process that started it while another one uses it', async () => {
    const dataDir = shared;
    const starter = await startUser(dataDir);
    const other = await start(dataDir);
    expect(other.url).toBe(starter.url);
    await kill(starter.child, 'SIGKILL');
    await sleep(500);
    expect(await query(other.url, 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('stops by itself when its last user is killed', async () => {
    const dataDir = shared;
    const user = await startUser(dataDir);
    const pid = pidOf(dataDir);
    await kill(user.child, 'SIGKILL');
    expect(await eventually(() => !isAlive(pid))).toBe(true);
    expect(existsSync(path.join(clusterOf(dataDir).home, 'data', 'postmaster.pid'))).toBe(false);
  });

  it('recovers from kill -9 of the server and its guardian, and loses nothing that was committed', async () => {
    const dataDir = shared;
    const user = await startUser(dataDir);
    await query(user.url, 'create table kept as select generate_series(1, 1000) as n');
    const pid = pidOf(dataDir);
    // The guardian leads the server's group.
    const group = Number(
      readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[2],
    );
    user.child.kill('SIGKILL');
    process.kill(-group, 'SIGKILL');
    const again = await start(dataDir);
    expect(await query(again.url, 'select count(*)::int as n from kept')).toEqual([{ n: 1000 }]);
  });

  it('stops a server that has lost its guardian, and starts its own', async () => {
    const dataDir = shared;
    const user = await startUser(dataDir);
    const pid = pidOf(dataDir);
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    // Both shells of the guardian, so that nobody is left to stop the server.
    for (const name of spawnSync('ps', ['-o', 'pid=', '-g', stat[2]!], { encoding: 'utf8' }).stdout.split('\n').map(Number)) {
      if (name > 0 && name !== pid && readFileSync(`/proc/${name}/comm`, 'utf8').trim() !== 'postgres') process.kill(name, 'SIGKILL');
    }
    await kill(user.child, 'SIGKILL');
    expect(isAlive(pid)).toBe(true);
    const again = await start(dataDir);
    expect(pidOf(dataDir)).not.toBe(pid);
    expect(isAlive(pid)).toBe(false);
    expect(await query(again.url, 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('is started again by its guardian when only the server is killed', async () => {
    const dataDir = shared;
    const server = await start(dataDir);
    const pid = pidOf(dataDir);
    // Its first seconds are for finding out that it cannot start at all.
    await sleep(5500);
    process.kill(pid, 'SIGKILL');
    const back = async () => {
      try {
        return pidOf(dataDir) !== pid && (await query(server.url, 'select 1 as n')).length === 1;
      } catch {
        return false;
      }
    };
    let answered = false;
    for (const deadline = Date.now() + 20_000; Date.now() < deadline && !answered; await sleep(200)) answered = await back();
    expect(answered).toBe(true);
  });

  it('is not kept away by a lock file whose process id belongs to another program now', async () => {
    const dataDir = shared;
    await stop(await start(dataDir));
    const home = clusterOf(dataDir).home;
    writeFileSync(
      path.join(home, 'data', 'postmaster.pid'),
      `${process.pid}\n${home}/data\n1700000000\n5432\n\n127.0.0.1\n  5432001  1\nready   \n`,
    );
    const again = await start(dataDir);
    expect(await query(again.url, 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('refuses to begin anew where its data has gone', async () => {
    const dataDir = folder();
    await stop(await start(dataDir));
    rmSync(path.join(clusterOf(dataDir).home, 'data'), { recursive: true });
    await expect(start(dataDir)).rejects.toThrow(/is gone/);
  });

  it.runIf(process.getuid?.() === 0)(
    'works for root in a folder that only root can enter, and cleans up after folders that were removed',
    async () => {
      const outer = folder();
      chmodSync(outer, 0o700);
      const dataDir = path.join(outer, 'data');
      mkdirSync(dataDir);
      const server = await start(dataDir);
      const home = clusterOf(dataDir).home;
      expect(home.startsWith(outer)).toBe(false);
      await stop(server);
      rmSync(outer, { recursive: true });
      const other = folder();
      chmodSync(other, 0o700);
      await start(other);
      expect(existsSync(home)).toBe(false);
    },
  );

  it.runIf(process.getuid?.() === 0)('works for a user other than root', async (context) => {
    if (spawnSync('/bin/sh', ['-c', 'test -r "$1"', 'sh', EMBEDDED], { uid: 65534, gid: 65534, cwd: '/' }).status !== 0)
      context.skip('another user cannot reach this checkout');
    const outer = folder();
    chmodSync(outer, 0o755);
    const dataDir = path.join(outer, 'data');
    mkdirSync(dataDir);
    const [uid, gid] = ['-u', '-g'].map((flag) => Number(spawnSync('id', [flag, 'nobody'], { encoding: 'utf8' }).stdout)) as [
      number,
      number,
    ];
    spawnSync('chown', ['-R', `${uid}:${gid}`, outer]);
    const child = fork(USER, [EMBEDDED, dataDir], {
      execArgv: [],
      uid,
      gid,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      env: { PATH: process.env.PATH, HOME: outer },
    });
    const outcome = await Promise.race([once(child, 'message'), once(child, 'exit')]);
    expect(outcome[0]).toMatchObject({ url: expect.stringContaining('postgresql://') });
    expect(clusterOf(dataDir).home).toBe(path.join(dataDir, 'postgres'));
    await kill(child, 'SIGTERM');
    expect(await eventually(() => !existsSync(path.join(dataDir, 'postgres', 'data', 'postmaster.pid')))).toBe(true);
  });
});
