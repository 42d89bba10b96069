import type { OutboxSource } from '../domain/queue.ts';
import type { Broker } from './broker.ts';
import { kindOf } from './catalogue.ts';

/** Looked at so often although notifications wake the relay: one may be lost with its connection. */
const POLL_MS = 500;
const BATCH = 100;

/**
 * Moves messages from the outbox to the queue until it is stopped. Any number of relays may run. A queue that cannot be
 * reached costs nothing but time: the messages stay where they are, and the next try waits longer, up to 10 s.
 */
export async function startRelay(
  source: OutboxSource,
  broker: Broker,
  onError: (error: Error) => void,
): Promise<{ stop(): Promise<void> }> {
  let stopped = false;
  let wake: () => void = () => {};
  let woken = false;
  const ring = () => {
    woken = true;
    wake();
  };
  // Without it (the database is gone for the moment) polling does.
  const unlisten = await source.onMessage(ring).catch((error: Error) => {
    onError(error);
    return async () => {};
  });

  const rest = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
      if (stopped || (woken && ms <= POLL_MS)) wake();
    });

  const loop = (async () => {
    let failures = 0;
    while (!stopped) {
      woken = false;
      let sent = 0;
      try {
        sent = await source.relay(BATCH, async (messages) => {
          // The outbox's id makes a message that is sent twice one, as long as it is in the queue.
          await Promise.all(messages.map(({ id, message }) => broker.add(message, `${kindOf(message).subject}-${id}`)));
        });
        failures = 0;
      } catch (error) {
        failures++;
        onError(error as Error);
      }
      if (sent < BATCH) await rest(failures === 0 ? POLL_MS : Math.min(POLL_MS * 2 ** failures, 10_000));
    }
  })();

  return {
    async stop() {
      stopped = true;
      wake();
      await loop;
      await unlisten();
    },
  };
}
