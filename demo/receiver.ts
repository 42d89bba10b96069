/** A local webhook receiver: keeps what comes in and answers 204. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';

export interface Delivery {
  headers: Record<string, string>;
  body: string;
}

export class Receiver {
  readonly url: string;
  readonly deliveries: Delivery[] = [];
  readonly #server: Server;
  readonly #waiting: (() => void)[] = [];

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.url = `http://127.0.0.1:${port}/webhook`;
    server.on('request', (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
        this.deliveries.push({ headers, body: Buffer.concat(chunks).toString('utf8') });
        response.writeHead(204).end();
        for (const wake of this.#waiting.splice(0)) wake();
      });
    });
  }

  static async listen(): Promise<Receiver> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Receiver(server, (server.address() as { port: number }).port);
  }

  /** The next delivery that `wanted` accepts, those that came already included. */
  async next(wanted: (delivery: Delivery) => boolean, timeoutMs: number): Promise<Delivery> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = this.deliveries.find(wanted);
      if (found !== undefined) return found;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`No webhook came within ${timeoutMs / 1000} s.`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  close(): Promise<void> {
    this.#server.closeAllConnections();
    return new Promise((resolve) => this.#server.close(() => resolve()));
  }
}
