/**
 * Works through items in their order, so many at a time. The first failure ends it, once all that had begun has ended: what they
 * share, a session as a rule, may then be closed.
 */
export async function eachAtATime<T>(items: Iterable<T>, atATime: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = (function* () {
    yield* items;
  })();
  const worker = async (): Promise<void> => {
    // Leaving the loop by an error ends the queue for the others, too: a generator's does, an array's own iterator goes on.
    for (const item of queue) await work(item);
  };
  const ends = await Promise.allSettled(Array.from({ length: atATime }, worker));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
