/** The process one bench runs in: imports the file it is given, runs it, sends the result home. */
import { pathToFileURL } from 'node:url';
import type { BenchResult } from './result.ts';

const file = process.argv[2]!;
const bench = (await import(pathToFileURL(file).href)) as { run(): Promise<BenchResult> };
const result = await bench.run();
process.send!(result, () => process.disconnect());
