/**
 * Builds what is out of date, and nothing else: the Prisma client, the C++ addon, the TypeScript. Each part carries a
 * stamp with the hash of what it was made from, so a second run costs a few milliseconds. `--force` builds everything.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { alone, at, filesUnder, fingerprint, main, onPath, readStamp, SetupError, step, writeStamp } from './lib.mjs';

const GENERATED = 'src/store/db/generated';
const version = (name) => {
  const file = at('node_modules', name, 'package.json');
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).version : 'absent';
};

/** Node's own headers where they lie beside this very Node, so that node-gyp downloads none. Null = let node-gyp find them. */
function headers() {
  if (process.env.npm_config_nodedir) return null;
  for (const prefix of [dirname(dirname(process.execPath)), '/usr', '/usr/local']) {
    const file = join(prefix, 'include/node/node_version.h');
    if (!existsSync(file)) continue;
    const text = readFileSync(file, 'utf8');
    const part = (name) => /\d+/.exec(new RegExp(`#define NODE_${name}_VERSION \\d+`).exec(text)?.[0] ?? '')?.[0];
    if (`${part('MAJOR')}.${part('MINOR')}.${part('PATCH')}` === process.versions.node) return prefix;
  }
  return null;
}

function compilerMissing() {
  const missing = [];
  if (!process.env.CXX && !['g++', 'clang++', 'c++'].some(onPath)) missing.push('g++');
  if (!onPath('make')) missing.push('make');
  if (!['python3', 'python'].some(onPath)) missing.push('python3');
  return missing;
}

/** Removes outputs whose source is gone: a deleted module would otherwise go on being importable. */
function prune(folder) {
  for (const entry of readdirSync(at(folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) prune(path);
    else if (/\.js(\.map)?$/.test(path) && !existsSync(at(path.replace(/^dist\//, '').replace(/\.js(\.map)?$/, '.ts')))) rmSync(at(path));
  }
}

const abi = `${process.platform}-${process.arch}-${process.versions.modules}`;
const parts = [
  {
    name: 'prisma',
    stamp: `${GENERATED}/.stamp`,
    sources: () =>
      filesUnder('prisma', (path) => path.endsWith('.prisma')).concat(existsSync(at('prisma.config.ts')) ? ['prisma.config.ts'] : []),
    also: () => [version('prisma')],
    build: () =>
      step('generating the database client', process.execPath, [at('node_modules/prisma/build/index.js'), 'generate'], {
        // The native schema engine is never used (migrations run in the WebAssembly one); naming any file keeps Prisma from downloading it.
        env: { PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true', PRISMA_HIDE_UPDATE_MESSAGE: '1', CHECKPOINT_DISABLE: '1' },
      }),
  },
  {
    name: 'native',
    stamp: 'native/build/.stamp',
    sources: () => filesUnder('native', (path) => /\.(cc|cpp|h|hpp|gyp|gypi)$/.test(path), ['native/build']),
    also: () => [abi, version('node-addon-api')],
    build: async () => {
      const missing = compilerMissing();
      if (missing.length > 0)
        throw new SetupError(
          `the native addon needs ${missing.join(', ')}, which this machine lacks (on Debian: apt-get install g++ make python3).`,
        );
      const nodedir = headers();
      await step(
        'building the native addon',
        process.execPath,
        [at('node_modules/node-gyp/bin/node-gyp.js'), 'rebuild', '-C', 'native', '-j', '2', '--loglevel=error'],
        {
          env: nodedir === null ? {} : { npm_config_nodedir: nodedir },
          hint: 'It needs a C++17 compiler, make, python3 and the headers of this Node (npm_config_nodedir names their prefix where they cannot be downloaded).',
        },
      );
    },
  },
  {
    name: 'typescript',
    stamp: 'dist/.stamp',
    sources: () => [
      'tsconfig.json',
      'vitest.config.ts',
      ...['src', 'native', 'bench', 'demo', 'test'].flatMap((folder) =>
        filesUnder(folder, (path) => path.endsWith('.ts'), ['native/build']),
      ),
    ],
    also: () => [version('typescript')],
    build: async () => {
      await step('compiling TypeScript', process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.json')]);
      prune('dist');
    },
  },
];

/** What is out of date. A part without sources (an image that ships outputs only) is never built. */
const outdated = (force) =>
  parts.filter((part) => {
    const sources = part.sources();
    return sources.some((file) => existsSync(at(file))) && (force || readStamp(part.stamp) !== fingerprint(sources, ...part.also()));
  });

/** Brings every output up to date; safe to call from several processes at once. */
export async function build({ force = false, locked = false } = {}) {
  // An image ships dist without src: there is nothing to build from.
  if (!existsSync(at('tsconfig.json')) || outdated(force).length === 0) return;
  const work = async () => {
    // Part by part: what the first generates belongs to the sources of the last.
    for (const part of parts) {
      if (!outdated(force).includes(part)) continue;
      const made = fingerprint(part.sources(), ...part.also());
      await part.build();
      // The hash from before: a file that changed while it was being compiled is compiled again.
      writeStamp(part.stamp, part.name === 'typescript' ? made : fingerprint(part.sources(), ...part.also()));
    }
  };
  await (locked ? work() : alone(work));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(() => build({ force: process.argv.includes('--force') }));
