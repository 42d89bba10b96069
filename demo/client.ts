/** A small client of the HTTP API, as a user would write one: nothing is imported from the service. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** An answer outside 200–299, with what its problem+json says. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly code: string;
  constructor(status: number, problem: { code?: string; title?: string; detail?: string; remedy?: string }, request: string) {
    super([`${request}: ${status} ${problem.code ?? ''}`, problem.title, problem.detail, problem.remedy].filter(Boolean).join('. '));
    this.status = status;
    this.code = problem.code ?? '';
  }
}

interface Summary {
  p50: number;
  p90: number;
  p99: number;
  mean: number;
  min: number;
  samples: number;
}
export interface Variant {
  id: string;
  recipe: { method: string } | null;
  artifact: { id: string; sizeBytes: number; sha256: string; href: string } | null;
  evaluation: {
    metric: string;
    value: number;
    drop: number | null;
    agreement: number | null;
    sqnrDb: number | null;
    samples: number;
    ci95: [number, number];
  } | null;
  benchmarks: {
    deviceProfile: string;
    latencyMs: Summary;
    speedup: { value: number; ci95: [number, number] };
    peakRssBytes: number;
    modelRssBytes: number;
    loadMs: number;
  }[];
  kernels: { ran: Record<string, number>; quantized: string[]; leftInFloat: { node: string; operator: string; reason: string }[] } | null;
  error: { code: string; detail: string } | null;
}
export interface Job {
  id: string;
  status: 'queued' | 'running' | 'succeeded' | 'failed' | 'canceled';
  stage: string | null;
  progress: number;
  etaSeconds: number | null;
  error: { code: string; detail: string } | null;
  stages: { name: string; variant?: number; ms: number; peakRssBytes: number }[];
  baseline: Variant | null;
  variants: Variant[];
  best: string | null;
  bestReason: string | null;
}
/** One event of a stream. */
export interface ServerEvent {
  id: string | null;
  event: string;
  data: unknown;
}

const ended = (job: Pick<Job, 'status'>): boolean => !['queued', 'running'].includes(job.status);

export class Client {
  readonly url: string;
  readonly key: string;
  constructor(url: string, key: string) {
    this.url = url;
    this.key = key;
  }

  /** The answer as it comes, whatever its status. */
  fetch(method: string, path: string, init: RequestInit & { duplex?: 'half' } = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (!headers.has('authorization')) headers.set('authorization', `Bearer ${this.key}`);
    return fetch(new URL(path, this.url), { ...init, method, headers });
  }

  /** Sends and takes JSON. Throws `ApiError` on anything but 2xx; an empty answer is null. */
  async json<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<T> {
    const init: RequestInit =
      body === undefined ? { headers } : { body: JSON.stringify(body), headers: { 'content-type': 'application/json', ...headers } };
    return this.#parsed<T>(await this.fetch(method, path, init), `${method} ${path}`);
  }

  /** Uploads bytes, or a file that is streamed from disk. */
  async upload<T>(path: string, content: Uint8Array | string): Promise<T> {
    const headers: Record<string, string> = { 'content-type': 'application/octet-stream' };
    if (typeof content !== 'string')
      return this.#parsed<T>(await this.fetch('POST', path, { body: content as RequestInit['body'], headers }), `POST ${path}`);
    headers['content-length'] = String((await stat(content)).size);
    const body = createReadStream(content) as unknown as RequestInit['body'];
    return this.#parsed<T>(await this.fetch('POST', path, { body, headers, duplex: 'half' }), `POST ${path}`);
  }

  async bytes(path: string, headers: Record<string, string> = {}): Promise<Buffer> {
    const response = await this.fetch('GET', path, { headers });
    if (!response.ok) await this.#parsed(response, `GET ${path}`);
    return Buffer.from(await response.arrayBuffer());
  }

  /** A stream of Server-Sent Events, until the server ends it. */
  async *events(path: string, options: { lastEventId?: string; signal?: AbortSignal } = {}): AsyncGenerator<ServerEvent> {
    const headers: Record<string, string> = { accept: 'text/event-stream' };
    if (options.lastEventId !== undefined) headers['last-event-id'] = options.lastEventId;
    const response = await this.fetch('GET', path, { headers, ...(options.signal === undefined ? {} : { signal: options.signal }) });
    if (!response.ok) await this.#parsed(response, `GET ${path}`);
    // 204: the job has ended and every event was seen.
    if (response.status === 204) return;
    const decoder = new TextDecoder();
    let rest = '';
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      rest += decoder.decode(chunk, { stream: true }).replaceAll('\r\n', '\n');
      const blocks = rest.split('\n\n');
      rest = blocks.pop()!;
      for (const block of blocks) {
        const event: ServerEvent = { id: null, event: 'message', data: null };
        const data: string[] = [];
        for (const line of block.split('\n')) {
          const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
          if (name === 'id') event.id = value!;
          else if (name === 'event') event.event = value!;
          else if (name === 'data') data.push(value!);
        }
        if (data.length === 0) continue;
        event.data = JSON.parse(data.join('\n'));
        yield event;
      }
    }
  }

  /** Waits for a job's end: follows its events and asks again where the stream breaks off. `onProgress` gets every change. */
  async follow(id: string, onProgress: (job: Job) => void = () => {}, timeoutMs = 600_000): Promise<Job> {
    const deadline = Date.now() + timeoutMs;
    let lastEventId: string | undefined;
    for (;;) {
      let job = await this.json<Job>('GET', `/v1/jobs/${id}`);
      onProgress(job);
      if (ended(job)) return job;
      if (Date.now() > deadline) throw new Error(`${id} is still ${job.status} (${job.stage ?? 'no stage'}) after ${timeoutMs / 1000} s`);
      try {
        const signal = AbortSignal.timeout(Math.max(1000, deadline - Date.now()));
        for await (const event of this.events(`/v1/jobs/${id}/events`, { signal, ...(lastEventId === undefined ? {} : { lastEventId }) })) {
          lastEventId = event.id ?? lastEventId;
          // An event has the fields that changed.
          if (typeof event.data === 'object' && event.data !== null) job = { ...job, ...event.data };
          onProgress(job);
        }
      } catch (error) {
        if (error instanceof ApiError) throw error;
      }
      await sleep(200);
    }
  }

  async #parsed<T>(response: Response, request: string): Promise<T> {
    const text = await response.text();
    let value: unknown = null;
    try {
      value = text === '' ? null : JSON.parse(text);
    } catch {
      if (response.ok) throw new Error(`${request} answered ${response.status} with something that is not JSON: ${text.slice(0, 200)}`);
    }
    if (!response.ok) throw new ApiError(response.status, (value ?? { detail: text.slice(0, 200) }) as { code?: string }, request);
    return value as T;
  }
}
