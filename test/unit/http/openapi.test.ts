import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { openApiDocument } from '../../../src/http/openapi-document.ts';

it('openapi.yaml is what the code says (npm run openapi writes it)', async () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  expect(parse(readFileSync('openapi.yaml', 'utf8'))).toEqual(await openApiDocument(version));
});
