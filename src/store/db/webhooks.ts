/** Webhook endpoints and deliveries. A delivery is sent by whoever holds its lease; when the next try is due is in its row, not in the queue. */
import { newId } from '../../domain/ids.ts';
import { json, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import * as outbox from './outbox.ts';
import type { DeliveryRecord, DeliveryTry, PageQuery, WebhookEndpointRecord } from './records.ts';

export interface NewEndpoint {
  url: string;
  description: string | null;
  events: string[];
  secret: string;
  apiKeyId: string | null;
}

export async function createEndpoint(tx: Tx, endpoint: NewEndpoint): Promise<WebhookEndpointRecord> {
  return tx.webhookEndpoint.create({ data: { id: newId('webhookEndpoint'), ...endpoint } });
}
export async function getEndpoint(tx: Tx, id: string): Promise<WebhookEndpointRecord | null> {
  return tx.webhookEndpoint.findUnique({ where: { id } });
}
export async function listEndpoints(tx: Tx, page: PageQuery): Promise<WebhookEndpointRecord[]> {
  return tx.webhookEndpoint.findMany({ where: page.before ? { id: { lt: page.before } } : {}, orderBy: { id: 'desc' }, take: page.limit });
}
/** Deletes an endpoint with its deliveries; jobs that name it lose the name. False where there was none. */
export async function removeEndpoint(tx: Tx, id: string): Promise<boolean> {
  return (await tx.webhookEndpoint.deleteMany({ where: { id } })).count === 1;
}
/** Changes what is given. Null where there is no such endpoint. */
export async function updateEndpoint(
  tx: Tx,
  id: string,
  change: Partial<Omit<WebhookEndpointRecord, 'id' | 'createdAt' | 'apiKeyId'>>,
): Promise<WebhookEndpointRecord | null> {
  const { count } = await tx.webhookEndpoint.updateMany({ where: { id }, data: change });
  return count === 1 ? getEndpoint(tx, id) : null;
}

const delivery = (row: Prisma.WebhookDeliveryGetPayload<object>): DeliveryRecord => {
  const { leaseOwner: _, leaseExpiresAt: __, ...rest } = row;
  return { ...rest, log: row.log as unknown as DeliveryTry[] };
};

export async function getDelivery(tx: Tx, id: string): Promise<DeliveryRecord | null> {
  const row = await tx.webhookDelivery.findUnique({ where: { id } });
  return row && delivery(row);
}
export async function listDeliveries(tx: Tx, page: PageQuery & { endpointId: string }): Promise<DeliveryRecord[]> {
  const where = { endpointId: page.endpointId, ...(page.before ? { id: { lt: page.before } } : {}) };
  return (await tx.webhookDelivery.findMany({ where, orderBy: { id: 'desc' }, take: page.limit })).map(delivery);
}
/** A further delivery of the same body (its own webhook-id), due now. Null where there is no such delivery. */
export async function replay(tx: Tx, id: string): Promise<DeliveryRecord | null> {
  const old = await tx.webhookDelivery.findUnique({ where: { id } });
  if (!old) return null;
  const { endpointId, jobId, eventType, body } = old;
  const row = await tx.webhookDelivery.create({
    data: { id: newId('webhookDelivery'), endpointId, jobId, eventType, body, replayOf: id },
  });
  await outbox.add(tx, { kind: 'deliver-webhook', payload: { deliveryId: row.id } });
  return delivery(row);
}

/** Takes a pending delivery that is due, for one try. Null where it is not pending, not due, or another sender has it. */
export async function claimDelivery(
  tx: Tx,
  id: string,
  owner: string,
  leaseSeconds: number,
): Promise<{ delivery: DeliveryRecord; endpoint: WebhookEndpointRecord } | null> {
  const claimed = await tx.$executeRaw`
    update webhook_deliveries set lease_owner = ${owner}, lease_expires_at = now() + make_interval(secs => ${leaseSeconds})
    where id = ${id} and status = 'pending' and next_attempt_at <= now() + interval '1 second'
      and (lease_owner is null or lease_expires_at < now())`;
  if (claimed === 0) return null;
  const { endpoint, ...row } = await tx.webhookDelivery.findUniqueOrThrow({ where: { id }, include: { endpoint: true } });
  return { delivery: delivery(row), endpoint };
}
/**
 * Writes a try's outcome and gives the lease back. `retryAfterMs` null: it ended (succeeded or failed); otherwise it is
 * due again then. False where the lease was lost.
 */
export async function recordTry(
  tx: Tx,
  id: string,
  owner: string,
  outcome: DeliveryTry & { status: number | null; succeeded: boolean; retryAfterMs: number | null },
): Promise<boolean> {
  const { succeeded, retryAfterMs, ...tried } = outcome;
  const row = await tx.webhookDelivery.findFirst({ where: { id, leaseOwner: owner, status: 'pending' }, select: { log: true } });
  if (!row) return false;
  const ended = succeeded || retryAfterMs === null;
  const { count } = await tx.webhookDelivery.updateMany({
    where: { id, leaseOwner: owner, status: 'pending' },
    data: {
      leaseOwner: null,
      leaseExpiresAt: null,
      attempts: { increment: 1 },
      lastAttemptAt: new Date(tried.at),
      lastStatus: tried.status,
      lastError: tried.error,
      log: json([...(row.log as unknown as DeliveryTry[]), tried]),
      status: succeeded ? 'succeeded' : ended ? 'failed' : 'pending',
      nextAttemptAt: ended ? null : new Date(Date.now() + retryAfterMs!),
      endedAt: ended ? new Date() : null,
    },
  });
  if (count === 1 && !ended) await outbox.add(tx, { kind: 'deliver-webhook', payload: { deliveryId: id, delayMs: retryAfterMs! } });
  return count === 1;
}
/** For the reconciler: pending deliveries that have been due for longer than `seconds` and that nobody holds. */
export async function overdueDeliveries(tx: Tx, seconds: number): Promise<string[]> {
  const rows = await tx.$queryRaw<{ id: string }[]>`
    select id from webhook_deliveries where status = 'pending' and next_attempt_at < now() - make_interval(secs => ${seconds})
      and (lease_owner is null or lease_expires_at < now()) order by next_attempt_at limit 1000`;
  return rows.map((row) => row.id);
}
