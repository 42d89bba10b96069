/** Writes openapi.yaml from the routes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { stringify } from 'yaml';
import { openApiDocument } from '../http/openapi-document.ts';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
writeFileSync('openapi.yaml', stringify(await openApiDocument(version), { lineWidth: 140, aliasDuplicateObjects: false }));
