/** What goes through the queue, and the ports through which the queue's relay and reconciler see the database. */

export type QueueMessage =
  /** A job to be run. `labels`: those a worker must carry, sorted and joined with `,`; '' = any worker. */
  | { kind: 'quantize'; payload: { jobId: string; labels: string } }
  /** A webhook delivery to be tried, `delayMs` from now. */
  | { kind: 'deliver-webhook'; payload: { deliveryId: string; delayMs?: number } };
export type QueueKind = QueueMessage['kind'];
export type QueuePayload<K extends QueueKind> = Extract<QueueMessage, { kind: K }>['payload'];

/** The outbox as its relay sees it. */
export interface OutboxSource {
  /**
   * Takes up to `limit` messages, hands them to `send` and forgets them once that has resolved. A crash in between
   * sends them again. Messages that another relay holds are passed over. Returns how many were sent.
   */
  relay(limit: number, send: (messages: { id: string; message: QueueMessage }[]) => Promise<void>): Promise<number>;
  /** Calls `handler` when there may be something to relay. Resolves to a function that stops it. */
  onMessage(handler: () => void): Promise<() => Promise<void>>;
}

/** What the reconciler puts right. Each may run in several processes at once. */
export interface Reconcilable {
  /** Gives running jobs whose worker was lost back to the outbox. Returns their ids. */
  requeueLost(): Promise<string[]>;
  /** What has been waiting for longer than `seconds` without anyone taking it: the queue may have lost it. */
  forgotten(seconds: number): Promise<QueueMessage[]>;
  /** Removes bytes that no row points at, stale uploads, and answers kept long enough. `afterStart`: young bytes too, as a crash may have left them. */
  sweep(afterStart: boolean): Promise<Record<string, number>>;
}
