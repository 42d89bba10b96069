/**
 * Completes package-lock.json with the optional packages of other platforms that the registry at hand does not serve.
 *
 * npm leaves out of the lockfile what it could not fetch, even when it would never install it here; `npm ci` then refuses
 * the file on every machine ("Missing: @biomejs/cli-darwin-arm64@ from lock file"). The packages that name them pin their
 * versions, and a platform package's name tells its platform, so the entries can be written without the registry; they
 * carry no integrity hash. Run it after adding a package; `--check` only says what is missing.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { at, main, SetupError } from './lib.mjs';

const FILE = 'package-lock.json';
const firstOf = (text, words) => words.find((word) => text.includes(word)) ?? null;

function platformOf(name) {
  const short = name.slice(name.lastIndexOf('/') + 1).replace('windows', 'win32');
  const os = firstOf(short, ['android', 'darwin', 'win32', 'freebsd', 'netbsd', 'openbsd', 'openharmony', 'linux']);
  const cpu = firstOf(short, ['arm64', 'arm', 'x64', 'ia32', 'ppc64', 'riscv64', 's390x', 'loong64']);
  const libc = os !== 'linux' ? null : short.includes('musl') ? 'musl' : short.includes('gnu') ? 'glibc' : null;
  return os === null || cpu === null ? null : { os, cpu, libc };
}

/** Node's resolution inside the lockfile: from the package's own node_modules up to the root's. */
function resolves(packages, from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    if (`${folder === '' ? '' : `${folder}/`}node_modules/${name}` in packages) return true;
    if (folder === '') return false;
  }
}

/** Entries that are missing, by path. */
function missing(packages) {
  const found = {};
  for (const [path, entry] of Object.entries(packages))
    for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
      if (resolves(packages, path, name)) continue;
      const platform = platformOf(name);
      if (platform === null || !/^\d/.test(range))
        throw new SetupError(`${name}@${range}, wanted by ${path}, is missing and its platform cannot be told from its name.`);
      found[`node_modules/${name}`] = {
        version: range,
        cpu: [platform.cpu],
        ...(entry.dev ? { dev: true } : {}),
        ...(platform.libc === null ? {} : { libc: [platform.libc] }),
        optional: true,
        os: [platform.os],
      };
    }
  return found;
}

await main(() => {
  const lock = JSON.parse(readFileSync(at(FILE), 'utf8'));
  const found = missing(lock.packages);
  const names = Object.keys(found);
  if (names.length === 0) return;
  if (process.argv.includes('--check')) throw new SetupError(`package-lock.json lacks ${names.join(', ')}. Run: node scripts/lock.mjs`);
  const all = Object.entries({ ...lock.packages, ...found });
  lock.packages = Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  writeFileSync(at(FILE), `${JSON.stringify(lock, null, 2)}\n`);
  process.stderr.write(`halftone: ${names.length} entries added to ${FILE}\n`);
});
