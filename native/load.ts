/** Loads the compiled addon. Everything typed about it is in index.ts and ort.ts; nothing outside native/ imports this file. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function load(): Record<string, unknown> {
  const here = dirname(fileURLToPath(import.meta.url));
  // Run from source this file is native/addon.ts, built it is dist/native/addon.js; the addon itself is always under native/build.
  const candidates = [
    join(here, 'build', 'Release', 'halftone.node'),
    join(here, '..', '..', 'native', 'build', 'Release', 'halftone.node'),
  ];
  const found = candidates.find((path) => existsSync(path));
  if (!found) throw new Error(`The native addon is not built (looked for ${candidates.join(' and ')}). Run: npm run build`);
  return createRequire(import.meta.url)(found) as Record<string, unknown>;
}

/** The addon's exports, as addon.cc lists them. */
export const addon: Record<string, unknown> = load();
