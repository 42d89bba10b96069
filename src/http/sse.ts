/** Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
import { Readable } from 'node:stream';

export interface SseEvent {
  id: number;
  event: string;
  data: unknown;
}

function frame(event: SseEvent | null): string {
  // A comment: proxies and clients see that the stream lives.
  if (event === null) return ': \n\n';
  return `id: ${event.id}\nevent: ${event.event}\ndata: ${JSON.stringify(event.data)}\n\n`;
}

/** Events as a stream of text; null is a sign of life. The first line tells the client how soon to come back. */
export function sseStream(events: AsyncIterable<SseEvent | null>): Readable {
  return Readable.from(
    (async function* () {
      yield 'retry: 2000\n\n';
      for await (const event of events) yield frame(event);
    })(),
    { objectMode: false, highWaterMark: 16 * 1024 },
  );
}

/** The number of the last event that a client has seen; 0 = none. What is not a number of ours counts as none, as browsers send what they kept. */
export function lastEventId(header: string | string[] | undefined): number {
  const text = Array.isArray(header) ? header[0] : header;
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : 0;
}
