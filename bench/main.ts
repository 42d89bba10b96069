/**
 * `npm run bench [name…] [--json]`: runs every bench beside this file, each in a process of its own (what one leaves in
 * memory or in caches must not colour the next), and prints one table. A row may carry the mark it has to reach and
 * whether it did; any miss makes the exit status 1.
 */
import { fork } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from './support/result.ts';

const here = fileURLToPath(new URL('.', import.meta.url));

/** Runs one bench in a child process and takes its result over IPC. */
function inChild(file: string): Promise<BenchResult> {
  return new Promise((resolve, reject) => {
    const child = fork(join(here, 'support/child.js'), [file], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    let result: BenchResult | null = null;
    child.on('message', (message) => {
      result = message as BenchResult;
    });
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (result !== null && code === 0) resolve(result);
      else reject(new Error(`bench ${basename(file, '.js')} ended with ${signal ?? code}`));
    });
  });
}

function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toFixed(digits);
}

function print(result: BenchResult): void {
  const rows = result.rows.map((row) => [
    row.label,
    figure(row.value),
    row.unit,
    row.mark ?? '',
    row.ok === undefined ? '' : row.ok ? 'ok' : 'MISSED',
  ]);
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(0, ...rows.map((row) => row[column]!.length)));
  console.log(`\n${result.name}`);
  for (const row of rows)
    console.log(
      `  ${row.map((cell, column) => (column === 1 ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!))).join('  ')}`.trimEnd(),
    );
}

const args = process.argv.slice(2);
const json = args.includes('--json');
const wanted = args.filter((arg) => !arg.startsWith('--'));
const available = readdirSync(here)
  .filter((file) => file.endsWith('.js') && file !== 'main.js')
  .sort();
for (const name of wanted)
  if (!available.includes(`${name}.js`)) {
    console.error(`There is no bench ${name}; there are ${available.map((file) => basename(file, '.js')).join(', ')}.`);
    process.exit(2);
  }
const results: BenchResult[] = [];
for (const file of available) {
  if (wanted.length > 0 && !wanted.includes(basename(file, '.js'))) continue;
  const result = await inChild(join(here, file));
  results.push(result);
  if (!json) print(result);
}
if (json) console.log(JSON.stringify(results, null, 2));
const missed = results.flatMap((result) => result.rows.filter((row) => row.ok === false).map((row) => `${result.name}: ${row.label}`));
if (missed.length > 0) {
  console.error(`\nbelow the mark: ${missed.join('; ')}`);
  process.exitCode = 1;
}
