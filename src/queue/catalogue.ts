/** The job kinds: one entry each. Processors are given by bin, as the queue knows no use case. */
import { createHash } from 'node:crypto';
import type { QueueKind, QueueMessage, QueuePayload } from '../domain/queue.ts';

interface JobKind<K extends QueueKind> {
  /** Queue that a message goes to. */
  queue(payload: QueuePayload<K>): string;
  /** Names the thing that the message is about: letters, digits, `_` and `-` (BullMQ refuses ids of digits only, and colons). */
  subject(payload: QueuePayload<K>): string;
  /** Checks what comes out of the queue. Null where it is not ours. */
  parse(data: unknown): QueuePayload<K> | null;
  delayMs(payload: QueuePayload<K>): number;
}

/** The queue of the jobs that ask for these labels. Hashed, as labels are of users and a queue's name allows no colon. */
export function quantizeQueue(labels: string): string {
  return labels === '' ? 'quantize' : `quantize-${createHash('sha256').update(labels).digest('hex').slice(0, 16)}`;
}
export const WEBHOOK_QUEUE = 'deliver-webhook';

const text = (data: unknown, key: string): string | null => {
  const value = typeof data === 'object' && data !== null ? (data as Record<string, unknown>)[key] : undefined;
  return typeof value === 'string' ? value : null;
};

export const JOB_KINDS: { [K in QueueKind]: JobKind<K> } = {
  quantize: {
    queue: (payload) => quantizeQueue(payload.labels),
    subject: (payload) => payload.jobId,
    delayMs: () => 0,
    parse: (data) => {
      const jobId = text(data, 'jobId');
      return jobId === null ? null : { jobId, labels: text(data, 'labels') ?? '' };
    },
  },
  'deliver-webhook': {
    queue: () => WEBHOOK_QUEUE,
    subject: (payload) => payload.deliveryId,
    delayMs: (payload) => payload.delayMs ?? 0,
    parse: (data) => {
      const deliveryId = text(data, 'deliveryId');
      return deliveryId === null ? null : { deliveryId };
    },
  },
};

/** A kind's entry for a message, with the payload's type in step. */
export function kindOf(message: QueueMessage): { queue: string; subject: string; delayMs: number } {
  const kind = JOB_KINDS[message.kind] as JobKind<QueueKind>;
  return { queue: kind.queue(message.payload), subject: kind.subject(message.payload), delayMs: kind.delayMs(message.payload) };
}
