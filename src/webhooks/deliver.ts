/** One try of one delivery over HTTP. */
import { type Dispatcher, request } from 'undici';
import { HalftoneError } from '../domain/errors.ts';
import { checkWebhookUrl, guardedAgent, type WebhookAllowList } from './guard.ts';
import { signedHeaders } from './sign.ts';

export interface DeliveryOutcome {
  /** A 2xx came back. */
  ok: boolean;
  /** The receiver said 410: it wants nothing more. */
  gone: boolean;
  /** HTTP status; null when there was no answer. */
  status: number | null;
  /** What went wrong, in words that may be shown to the endpoint's owner; null when it went well. */
  error: string | null;
  ms: number;
  /** What Retry-After asked for, in ms; 0 = nothing. */
  retryAfterMs: number;
}

export interface DeliveryRequest {
  /** msg_…, the same for every try, so that a receiver can tell a repetition. */
  id: string;
  url: string;
  body: string;
  secrets: readonly string[];
}

/** The answer's body is read so far, for the connection's sake, and thrown away: what a guard let through by mistake must not be readable through us. */
const RESPONSE_BYTES = 64 * 1024;

function retryAfter(header: string | string[] | undefined, now: number): number {
  const value = Array.isArray(header) ? header[0] : header;
  if (value === undefined) return 0;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

async function drain(body: Dispatcher.ResponseData['body']): Promise<void> {
  let seen = 0;
  for await (const chunk of body) {
    seen += (chunk as Buffer).length;
    // Leaving the loop destroys the stream and with it the connection.
    if (seen > RESPONSE_BYTES) return;
  }
}

/** The words of a failed connection, without what undici wraps around them. */
function words(error: unknown, timeoutMs: number): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === 'TimeoutError') return `No complete answer within ${timeoutMs / 1000} s.`;
  if (error instanceof HalftoneError) return error.detail;
  const code = 'code' in error && typeof error.code === 'string' ? ` (${error.code})` : '';
  return `${error.message || error.name}${code}`.slice(0, 500);
}

/** Sends deliveries; one for the process. `close` ends what is in flight. */
export class WebhookSender {
  readonly #agent: ReturnType<typeof guardedAgent>;
  readonly #allow: WebhookAllowList;
  readonly #timeoutMs: number;
  readonly #userAgent: string;

  /** @param options.timeoutMs for the whole exchange, from connecting to the last byte of the answer */
  constructor(options: { allow: WebhookAllowList; timeoutMs?: number; userAgent?: string }) {
    this.#allow = options.allow;
    this.#timeoutMs = options.timeoutMs ?? 15_000;
    this.#userAgent = options.userAgent ?? 'Halftone-Webhooks/1.0';
    this.#agent = guardedAgent(options.allow, this.#timeoutMs);
  }

  /** Tries once. Never throws: whatever happens is the outcome. Redirects are not followed and count as failures. */
  async deliver(delivery: DeliveryRequest, now: Date = new Date()): Promise<DeliveryOutcome> {
    const started = performance.now();
    const outcome = (part: Partial<DeliveryOutcome>): DeliveryOutcome => ({
      ok: false,
      gone: false,
      status: null,
      error: null,
      retryAfterMs: 0,
      ...part,
      ms: Math.round(performance.now() - started),
    });
    try {
      // The list may have become shorter since the endpoint was made.
      const url = checkWebhookUrl(delivery.url, this.#allow);
      const response = await request(url, {
        method: 'POST',
        dispatcher: this.#agent,
        headers: {
          'content-type': 'application/json',
          'user-agent': this.#userAgent,
          ...signedHeaders(delivery.id, now, delivery.body, delivery.secrets),
        },
        body: delivery.body,
        signal: AbortSignal.timeout(this.#timeoutMs),
      });
      const status = response.statusCode;
      const ok = status >= 200 && status < 300;
      // The status is what counts: an answer whose body breaks off has been an answer.
      await drain(response.body).catch(() => undefined);
      return outcome({
        ok,
        gone: status === 410,
        status,
        error: ok ? null : status >= 300 && status < 400 ? `Redirects are not followed (${status}).` : `The receiver answered ${status}.`,
        retryAfterMs: ok ? 0 : retryAfter(response.headers['retry-after'], Date.now()),
      });
    } catch (error) {
      return outcome({ error: words(error, this.#timeoutMs) });
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }
}
