/** Webhook endpoints, and the deliveries to them. When the next try is due stands in the delivery's row. */
import { HalftoneError } from '../domain/errors.ts';
import { type DeliveryRecord, type DeliveryTry, type Tx, type WebhookEndpointRecord, webhooks } from '../store/db/index.ts';
import type { WebhookSender } from '../webhooks/deliver.ts';
import { checkWebhookUrl, type WebhookAllowList } from '../webhooks/guard.ts';
import { DISABLE_AFTER_MS, retryDelayMs } from '../webhooks/schedule.ts';
import { newWebhookSecret } from '../webhooks/sign.ts';
import type { ServiceContext } from './context.ts';
import { type Page, type PageRequest, page } from './pages.ts';

export const WEBHOOK_EVENTS = ['job.succeeded', 'job.failed', 'job.canceled'] as const;
export type WebhookEvent = (typeof WEBHOOK_EVENTS)[number];

export interface WebhookEndpointView {
  id: string;
  url: string;
  description: string | null;
  /** Empty = all. */
  events: string[];
  createdAt: string;
  /** Since when every delivery fails. */
  failingSince: string | null;
  disabledAt: string | null;
  disabledReason: string | null;
  /** Until when the secret before the last rotation signs too. */
  previousSecretExpiresAt: string | null;
}
/** The answers that hold the secret: to its making and to a rotation. Null in a repeated answer (Idempotency-Key). */
export interface WebhookEndpointWithSecret extends WebhookEndpointView {
  secret: string | null;
}

export interface DeliveryView {
  id: string;
  endpoint: string;
  job: string | null;
  event: string;
  status: 'pending' | 'succeeded' | 'failed';
  attempts: number;
  nextAttemptAt: string | null;
  tries: DeliveryTry[];
  /** The body, as it is signed and sent. */
  body: string;
  replayOf: string | null;
  createdAt: string;
  endedAt: string | null;
}

const endpointView = (row: WebhookEndpointRecord): WebhookEndpointView => ({
  id: row.id,
  url: row.url,
  description: row.description,
  events: row.events,
  createdAt: row.createdAt.toISOString(),
  failingSince: row.failingSince?.toISOString() ?? null,
  disabledAt: row.disabledAt?.toISOString() ?? null,
  disabledReason: row.disabledReason,
  previousSecretExpiresAt:
    row.previousSecret !== null && row.previousSecretExpires !== null && row.previousSecretExpires.getTime() > Date.now()
      ? row.previousSecretExpires.toISOString()
      : null,
});

const deliveryView = (row: DeliveryRecord): DeliveryView => ({
  id: row.id,
  endpoint: row.endpointId,
  job: row.jobId,
  event: row.eventType,
  status: row.status,
  attempts: row.attempts,
  nextAttemptAt: row.nextAttemptAt?.toISOString() ?? null,
  tries: row.log,
  body: row.body,
  replayOf: row.replayOf,
  createdAt: row.createdAt.toISOString(),
  endedAt: row.endedAt?.toISOString() ?? null,
});

/** Both secrets sign for so long after a rotation, so that a receiver can be changed without losing a delivery. */
const ROTATION_MS = 24 * 3600 * 1000;
/** Longer than a try can take (15 s), so that two senders never send the same one at once. */
const LEASE_SECONDS = 60;

export class WebhookService {
  readonly #context: ServiceContext;
  readonly #allow: WebhookAllowList;
  readonly #sender: WebhookSender;

  constructor(context: ServiceContext, allow: WebhookAllowList, sender: WebhookSender) {
    this.#context = context;
    this.#allow = allow;
    this.#sender = sender;
  }

  /** @throws HalftoneError `webhook-target` for an address that deliveries may not go to */
  async createEndpoint(
    input: { url: string; description?: string | null; events?: string[] },
    principal: { id: string },
    commit: (tx: Tx, endpoint: WebhookEndpointWithSecret) => Promise<void>,
  ): Promise<WebhookEndpointWithSecret> {
    const url = checkWebhookUrl(input.url, this.#allow);
    const secret = newWebhookSecret();
    return this.#context.db.transaction(async (tx) => {
      const row = await webhooks.createEndpoint(tx, {
        url: url.href,
        description: input.description ?? null,
        events: [...new Set(input.events ?? [])],
        secret,
        apiKeyId: principal.id,
      });
      const made = { ...endpointView(row), secret };
      await commit(tx, made);
      return made;
    });
  }

  async listEndpoints(request: PageRequest): Promise<Page<WebhookEndpointView>> {
    return page(
      'webhook-endpoints',
      request,
      (query) => webhooks.listEndpoints(this.#context.db.client, query),
      (rows) => rows.map(endpointView),
    );
  }

  async #endpoint(id: string): Promise<WebhookEndpointRecord> {
    const row = await webhooks.getEndpoint(this.#context.db.client, id);
    if (row === null) throw new HalftoneError('not-found', `There is no webhook endpoint ${id}.`);
    return row;
  }

  async getEndpoint(id: string): Promise<WebhookEndpointView> {
    return endpointView(await this.#endpoint(id));
  }

  async removeEndpoint(id: string): Promise<void> {
    if (!(await webhooks.removeEndpoint(this.#context.db.client, id)))
      throw new HalftoneError('not-found', `There is no webhook endpoint ${id}.`);
  }

  /** A new secret; the one before signs beside it for another day. */
  async rotateSecret(id: string): Promise<WebhookEndpointWithSecret> {
    const secret = newWebhookSecret();
    return this.#context.db.transaction(async (tx) => {
      const before = await webhooks.getEndpoint(tx, id);
      if (before === null) throw new HalftoneError('not-found', `There is no webhook endpoint ${id}.`);
      const row = await webhooks.updateEndpoint(tx, id, {
        secret,
        previousSecret: before.secret,
        previousSecretExpires: new Date(Date.now() + ROTATION_MS),
      });
      return { ...endpointView(row!), secret };
    });
  }

  /** Takes a disabled endpoint back into service. */
  async enableEndpoint(id: string): Promise<WebhookEndpointView> {
    const row = await webhooks.updateEndpoint(this.#context.db.client, id, { disabledAt: null, disabledReason: null, failingSince: null });
    if (row === null) throw new HalftoneError('not-found', `There is no webhook endpoint ${id}.`);
    return endpointView(row);
  }

  async listDeliveries(endpointId: string, request: PageRequest): Promise<Page<DeliveryView>> {
    await this.#endpoint(endpointId);
    return page(
      `deliveries ${endpointId}`,
      request,
      (query) => webhooks.listDeliveries(this.#context.db.client, { ...query, endpointId }),
      (rows) => rows.map(deliveryView),
    );
  }

  /** Sends a delivery's body once more, as a delivery of its own. */
  async replay(endpointId: string, deliveryId: string, commit: (tx: Tx, delivery: DeliveryView) => Promise<void>): Promise<DeliveryView> {
    return this.#context.db.transaction(async (tx) => {
      const endpoint = await webhooks.getEndpoint(tx, endpointId);
      if (endpoint === null) throw new HalftoneError('not-found', `There is no webhook endpoint ${endpointId}.`);
      if (endpoint.disabledAt !== null)
        throw new HalftoneError('conflict', `The endpoint is disabled: ${endpoint.disabledReason ?? 'no reason was kept'}`);
      const old = await webhooks.getDelivery(tx, deliveryId);
      if (old === null || old.endpointId !== endpointId)
        throw new HalftoneError('not-found', `The endpoint has no delivery ${deliveryId}.`);
      const made = deliveryView((await webhooks.replay(tx, deliveryId))!);
      await commit(tx, made);
      return made;
    });
  }

  /**
   * Tries a delivery that is due, once, and writes what came of it: the processor of the queue's `deliver-webhook`. Does
   * nothing where it is not due, ended, or in another sender's hands; the row decides, so that it may be called at any time.
   * @param owner names the sender; two calls at once need two names
   */
  async deliver(deliveryId: string, owner: string): Promise<'succeeded' | 'failed' | 'retry' | 'nothing'> {
    const { db, log } = this.#context;
    const claimed = await webhooks.claimDelivery(db.client, deliveryId, owner, LEASE_SECONDS);
    if (claimed === null) return 'nothing';
    const { delivery, endpoint } = claimed;
    const now = new Date();
    if (endpoint.disabledAt !== null) {
      const skipped = { at: now.toISOString(), ms: 0, status: null, error: 'The endpoint is disabled.' };
      await db.transaction((tx) => webhooks.recordTry(tx, delivery.id, owner, { ...skipped, succeeded: false, retryAfterMs: null }));
      return 'failed';
    }
    const secrets = [endpoint.secret];
    if (endpoint.previousSecret !== null && endpoint.previousSecretExpires !== null && endpoint.previousSecretExpires > now) {
      secrets.push(endpoint.previousSecret);
    }
    const outcome = await this.#sender.deliver({ id: delivery.id, url: endpoint.url, body: delivery.body, secrets }, now);
    const failingSince = outcome.ok ? null : (endpoint.failingSince ?? now);
    const disabled = outcome.gone
      ? 'The receiver answered 410: it wants nothing more.'
      : failingSince !== null && now.getTime() - failingSince.getTime() >= DISABLE_AFTER_MS
        ? `Every delivery has failed since ${failingSince.toISOString()}.`
        : null;
    const retryAfterMs = outcome.ok || disabled !== null ? null : retryDelayMs(delivery.attempts + 1, outcome.retryAfterMs);
    const recorded = await db.transaction(async (tx) => {
      const held = await webhooks.recordTry(tx, delivery.id, owner, {
        at: now.toISOString(),
        ms: outcome.ms,
        status: outcome.status,
        error: outcome.error,
        succeeded: outcome.ok,
        retryAfterMs,
      });
      if (!held) return false;
      await webhooks.updateEndpoint(tx, endpoint.id, {
        failingSince,
        ...(disabled === null ? {} : { disabledAt: now, disabledReason: disabled }),
      });
      return true;
    });
    const result = !recorded ? 'nothing' : outcome.ok ? 'succeeded' : retryAfterMs === null ? 'failed' : 'retry';
    log.info(
      {
        delivery: delivery.id,
        endpoint: endpoint.id,
        job: delivery.jobId,
        status: outcome.status,
        error: outcome.error,
        ms: outcome.ms,
        result,
      },
      'webhook',
    );
    return result;
  }

  /** Ends what is being sent. */
  async close(): Promise<void> {
    await this.#sender.close();
  }
}
