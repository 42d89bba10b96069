/**
 * `node scripts/run.mjs src/bin/serve`: setup, then the compiled program in this same process. One process matters: a signal sent
 * to what npm started (by a container's runtime, by a supervisor) has to reach the program, and `a && b` leaves a shell between.
 */
import { pathToFileURL } from 'node:url';
import { at } from './lib.mjs';
import './setup.mjs';

const program = at('dist', `${process.argv[2]}.js`);
process.argv.splice(1, 2, program);
await import(pathToFileURL(program).href);
