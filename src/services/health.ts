/** Whether the parts that a request needs are there. */
import type { ServiceContext } from './context.ts';

export interface PartHealth {
  name: 'database' | 'queue' | 'storage';
  ok: boolean;
  ms: number;
  error?: string;
}

/** A part that has not answered by then counts as gone. */
const LIMIT_MS = 3000;

export class HealthService {
  readonly #parts: [PartHealth['name'], () => Promise<unknown>][];

  /** @param pingQueue throws where the queue cannot be reached */
  constructor(context: Pick<ServiceContext, 'db' | 'objects'>, pingQueue: () => Promise<unknown>) {
    this.#parts = [
      ['database', () => context.db.ping()],
      ['queue', pingQueue],
      ['storage', () => context.objects.ping()],
    ];
  }

  async check(): Promise<PartHealth[]> {
    return Promise.all(
      this.#parts.map(async ([name, ping]) => {
        const started = performance.now();
        let timer: NodeJS.Timeout | undefined;
        const late = new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new Error(`no answer within ${LIMIT_MS / 1000} s`)), LIMIT_MS);
        });
        try {
          await Promise.race([ping(), late]);
          return { name, ok: true, ms: Math.round(performance.now() - started) };
        } catch (error) {
          // The address of a part may stand in the message, its password never does: drivers leave it out.
          return {
            name,
            ok: false,
            ms: Math.round(performance.now() - started),
            error: error instanceof Error ? error.message : String(error),
          };
        } finally {
          clearTimeout(timer);
        }
      }),
    );
  }
}
