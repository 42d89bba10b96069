import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { SETTINGS_TABLE } from '../../src/config.ts';

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');

describe('README', () => {
  it('has the configuration table that config.ts has (node scripts/settings.mjs writes it)', () => {
    const rows = readme.slice(readme.indexOf('<!-- settings -->'), readme.indexOf('<!-- /settings -->')).split('\n').slice(3, -1);
    expect(rows).toEqual(SETTINGS_TABLE.map(({ variable, default: shown, meaning }) => `| \`${variable}\` | ${shown} | ${meaning} |`));
  });

  it('names npm scripts that exist', () => {
    const { scripts } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      scripts: Record<string, string>;
    };
    for (const [, name] of readme.matchAll(/npm run ([\w:]+)/g)) expect(Object.keys(scripts)).toContain(name);
  });
});
