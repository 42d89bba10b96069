/** Writes the README's configuration table from the compiled src/config.ts. `test/unit/readme.test.ts` fails when the two differ. */
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { at, main } from './lib.mjs';

await main(async () => {
  const { SETTINGS_TABLE } = await import(pathToFileURL(at('dist/src/config.js')).href);
  const rows = SETTINGS_TABLE.map(({ variable, default: shown, meaning }) => `| \`${variable}\` | ${shown} | ${meaning} |`);
  const table = ['| variable | default | meaning |', '|---|---|---|', ...rows].join('\n');
  const readme = readFileSync(at('README.md'), 'utf8');
  writeFileSync(
    at('README.md'),
    readme.replace(/(<!-- settings -->\n)[\s\S]*(<!-- \/settings -->)/, (_, start, end) => `${start}${table}\n${end}`),
  );
});
