/** What setup.mjs and build.mjs share. Plain Node, no packages: this runs before anything is installed. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
export const at = (...parts) => join(ROOT, ...parts);

/** An expected failure: printed without a stack. */
export class SetupError extends Error {}

/** SHA-256 over names and contents, and over what else decides the result (Node's ABI, the platform). */
export function fingerprint(files, ...more) {
  const hash = createHash('sha256').update(JSON.stringify(more));
  for (const file of files) hash.update(`\0${file}\0`).update(existsSync(at(file)) ? readFileSync(at(file)) : '');
  return hash.digest('hex');
}

/** Files under a folder of the repository, as paths relative to its root, sorted. */
export function filesUnder(folder, wanted, skip = []) {
  if (skip.includes(folder) || !existsSync(at(folder))) return [];
  return readdirSync(at(folder), { withFileTypes: true })
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      return entry.isDirectory() ? filesUnder(path, wanted, skip) : wanted(path) ? [path] : [];
    })
    .sort();
}

export const readStamp = (file) => (existsSync(at(file)) ? readFileSync(at(file), 'utf8') : '');
export function writeStamp(file, value) {
  mkdirSync(dirname(at(file)), { recursive: true });
  writeFileSync(at(file), value);
}

/** True when a program of this name is on PATH. */
export const onPath = (program) =>
  (process.env.PATH ?? '')
    .split(process.platform === 'win32' ? ';' : ':')
    .some((folder) => folder !== '' && existsSync(join(folder, program)));

/**
 * Runs a command with one line of progress; its output is shown only when it fails (or where HALFTONE_VERBOSE is set).
 * @param options.forgive judges a failed command's output: where it gives a text, that is shown instead and the step answers false
 * @returns {Promise<boolean>} whether the command succeeded
 */
export async function step(title, command, args, { env = {}, hint = '', forgive = () => '' } = {}) {
  const started = Date.now();
  process.stderr.write(`halftone: ${title} … `);
  const verbose = Boolean(process.env.HALFTONE_VERBOSE);
  const child = spawn(command, args, { cwd: ROOT, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data) => {
      if (verbose) process.stderr.write(data);
      output += data;
    });
  const code = await new Promise((resolve) => {
    child.once('error', (error) => {
      output += `${error.message}\n`;
      resolve(127);
    });
    child.once('close', (exit, signal) => resolve(signal ?? exit));
  });
  if (code === 0) {
    process.stderr.write(`${((Date.now() - started) / 1000).toFixed(1)} s\n`);
    return true;
  }
  const forgiven = forgive(output);
  if (forgiven !== '') {
    process.stderr.write(`${forgiven}\n`);
    return false;
  }
  process.stderr.write('failed\n');
  if (!verbose) process.stderr.write(output.length > 20_000 ? `[…]\n${output.slice(-20_000)}` : output);
  throw new SetupError(`${title} failed (${code}).${hint === '' ? '' : ` ${hint}`}`);
}

const LOCK = '.halftone/setup.lock';
const STALE_MS = 20_000;

function abandoned() {
  try {
    const age = Date.now() - statSync(at(LOCK)).mtimeMs;
    const owner = Number(readFileSync(at(LOCK), 'utf8'));
    if (age > STALE_MS) return true;
    // The owner's death is seen at once on one machine; containers that share the folder see it by the age alone.
    try {
      if (owner > 0) process.kill(owner, 0);
      return false;
    } catch (error) {
      return error.code === 'ESRCH' && age > 2000;
    }
  } catch (error) {
    if (error.code === 'ENOENT') return false;
    throw error;
  }
}

/** Runs `work` while no other setup or build runs in this folder. A holder that was killed is noticed by its lock's age. */
export async function alone(work) {
  mkdirSync(dirname(at(LOCK)), { recursive: true });
  let told = false;
  for (;;) {
    try {
      const fd = openSync(at(LOCK), 'wx');
      writeSync(fd, String(process.pid));
      closeSync(fd);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (abandoned()) {
      rmSync(at(LOCK), { force: true });
      continue;
    }
    if (!told) process.stderr.write('halftone: another setup runs in this folder; waiting for it\n');
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const beat = setInterval(() => {
    const now = new Date();
    try {
      utimesSync(at(LOCK), now, now);
    } catch {
      // Taken away by hand: nothing to keep alive.
    }
  }, 2000);
  const release = () => rmSync(at(LOCK), { force: true });
  const interrupted = () => {
    release();
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  process.once('SIGTERM', interrupted);
  try {
    return await work();
  } finally {
    clearInterval(beat);
    process.removeListener('SIGINT', interrupted);
    process.removeListener('SIGTERM', interrupted);
    release();
  }
}

/** Ends the process as a command line should: an expected failure in one line, a bug with its stack. */
export async function main(run) {
  try {
    await run();
  } catch (error) {
    process.stderr.write(error instanceof SetupError ? `halftone: ${error.message}\n` : `${error.stack}\n`);
    process.exit(1);
  }
}
