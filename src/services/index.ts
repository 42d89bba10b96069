/** The use cases, wired. A process makes them once; HTTP and the worker call nothing below them. */
import { WebhookSender } from '../webhooks/deliver.ts';
import { ArtifactService } from './artifacts.ts';
import { BenchmarkService } from './benchmarks.ts';
import type { ServiceContext } from './context.ts';
import { DatasetService } from './datasets.ts';
import { HealthService } from './health.ts';
import { IdempotencyService } from './idempotency.ts';
import { JobService } from './jobs.ts';
import { KeyService } from './keys.ts';
import { ModelService } from './models.ts';
import { ProfileService } from './profiles.ts';
import { Wakeups } from './wakeups.ts';
import { WebhookService } from './webhooks.ts';

export interface ServiceOptions extends ServiceContext {
  /** Throws where the queue cannot be reached. */
  pingQueue: () => Promise<unknown>;
  /** Origins that webhooks may go to although they are not https or not public; empty but for tests and the demo. */
  webhookAllow: readonly string[];
}

export interface Services {
  artifacts: ArtifactService;
  benchmarks: BenchmarkService;
  datasets: DatasetService;
  health: HealthService;
  idempotency: IdempotencyService;
  jobs: JobService;
  keys: KeyService;
  models: ModelService;
  profiles: ProfileService;
  webhooks: WebhookService;
  /** Begins to listen for changes of jobs; for processes that serve HTTP. */
  start(): Promise<void>;
  /** Wakes whoever waits and ends what is being sent; database and store stay open. */
  close(): Promise<void>;
}

export function createServices({ pingQueue, webhookAllow, ...context }: ServiceOptions): Services {
  const wakeups = new Wakeups();
  const webhooks = new WebhookService(context, webhookAllow, new WebhookSender({ allow: webhookAllow }));
  return {
    artifacts: new ArtifactService(context),
    benchmarks: new BenchmarkService(context),
    datasets: new DatasetService(context),
    health: new HealthService(context, pingQueue),
    idempotency: new IdempotencyService(context),
    jobs: new JobService(context, wakeups),
    keys: new KeyService(context),
    models: new ModelService(context),
    profiles: new ProfileService(context),
    webhooks,
    start: () => wakeups.start(context.db, context.log),
    async close() {
      await wakeups.stop();
      await webhooks.close();
    },
  };
}
