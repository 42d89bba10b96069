/**
 * A child does not outlive its worker. The IPC channel tells of the worker's death, but only when the event loop comes
 * round to it, and the engine may compute for long; so a thread of its own looks at the parent's id, several times a
 * second, and kills the whole process group when it changes.
 */
import { Worker } from 'node:worker_threads';

const THREAD = `
const { workerData } = require('node:worker_threads');
setInterval(() => {
  if (process.ppid === workerData.parent) return;
  try { process.kill(-process.pid, 'SIGKILL'); } catch {}
  process.kill(process.pid, 'SIGKILL');
}, 250);
`;

/** `parent`: the worker's id as the worker gave it; read here it could already be another's. */
export function dieWithParent(parent: number): void {
  const thread = new Worker(THREAD, { eval: true, workerData: { parent }, resourceLimits: { maxOldGenerationSizeMb: 16 } });
  thread.unref();
  process.on('disconnect', () => {
    try {
      process.kill(-process.pid, 'SIGKILL');
    } catch {
      process.exit(1);
    }
  });
}
