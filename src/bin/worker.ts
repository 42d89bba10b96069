/** A worker alone; `serve` starts one, too. */
import { main } from './lifetime.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import { runWorker } from './run-worker.ts';

/** Nothing where nobody listens: the worker was started by itself. */
function tell(message: FromWorker): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
}

await main('worker', async (lifetime) => {
  if (process.send) {
    process.on('message', (message: ToWorker) => {
      if (message.type === 'stop') lifetime.shutdown('serve said so');
    });
    process.on('disconnect', () => lifetime.shutdown('serve is gone'));
  }
  await runWorker(lifetime, {
    onStage: (run) => tell({ type: 'stage', run }),
    onEnded: (status) => tell({ type: 'ended', status }),
  });
  tell({ type: 'ready' });
});
