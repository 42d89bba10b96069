import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { JOB_STATUSES, type JobStatus, type Stage } from '../domain/job.ts';

/** What is counted when somebody asks, because the database and the queue know it and no process does. */
interface Census {
  /** Jobs by status; a status that is absent counts 0. */
  jobs: Partial<Record<JobStatus, number>>;
  /** Jobs that wait, by queue. */
  queues: Record<string, number>;
}

/** A process' figures for Prometheus. */
export interface Metrics {
  /** `route` is the pattern (/v1/jobs/:id), never the path: a label value for every id would grow without end. */
  request(event: { method: string; route: string; status: number; ms: number }): void;
  /** A job has ended. */
  jobEnded(status: JobStatus): void;
  stage(event: { stage: Stage; ms: number; peakRssBytes: number }): void;
  /** Asks `source` at every scrape; when it fails, the other figures are still sent and the failure is counted. */
  census(source: () => Promise<Census>): void;
  /** The page for /metrics. */
  render(): Promise<{ contentType: string; body: string }>;
}

/** Metrics in a registry of their own: nothing global, so that a process (or a test) can have several. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const requests = new Histogram({
    name: 'halftone_http_request_duration_seconds',
    help: 'Time from request to the end of the response.',
    labelNames: ['method', 'route', 'status'],
    // Requests range from a row's read to an upload of gigabytes or a wait for a job.
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120, 600],
    registers,
  });
  const ended = new Counter({
    name: 'halftone_jobs_ended_total',
    help: 'Jobs that ended in this process, by status.',
    labelNames: ['status'],
    registers,
  });
  const stages = new Histogram({
    name: 'halftone_stage_duration_seconds',
    help: 'Time of a job’s stage.',
    labelNames: ['stage'],
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800],
    registers,
  });
  const memory = new Gauge({
    name: 'halftone_stage_peak_rss_bytes',
    help: 'Peak resident memory of the job’s process at the last run of a stage.',
    labelNames: ['stage'],
    registers,
  });
  const jobs = new Gauge({ name: 'halftone_jobs', help: 'Jobs by status.', labelNames: ['status'], registers });
  const queues = new Gauge({ name: 'halftone_queue_depth', help: 'Jobs that wait in a queue.', labelNames: ['queue'], registers });
  const failures = new Counter({
    name: 'halftone_census_failures_total',
    help: 'Scrapes at which the database or the queue could not be asked.',
    registers,
  });
  let ask: (() => Promise<Census>) | null = null;

  return {
    request: ({ method, route, status, ms }) => requests.observe({ method, route, status: String(status) }, ms / 1000),
    jobEnded: (status) => ended.inc({ status }),
    stage({ stage, ms, peakRssBytes }) {
      stages.observe({ stage }, ms / 1000);
      memory.set({ stage }, peakRssBytes);
    },
    census(source) {
      ask = source;
    },
    async render() {
      if (ask !== null) {
        try {
          const census = await ask();
          for (const status of JOB_STATUSES) jobs.set({ status }, census.jobs[status] ?? 0);
          for (const [queue, depth] of Object.entries(census.queues)) queues.set({ queue }, depth);
        } catch {
          // Old counts would look like fresh ones.
          jobs.reset();
          queues.reset();
          failures.inc();
        }
      }
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
}
