import { expect, it } from 'vitest';
import { createMetrics } from '../../../src/telemetry/metrics.ts';

it('counts requests, stages and ended jobs; asks for the census at each scrape', async () => {
  const metrics = createMetrics();
  metrics.request({ method: 'GET', route: '/v1/jobs/:id', status: 200, ms: 30 });
  metrics.request({ method: 'GET', route: '/v1/jobs/:id', status: 200, ms: 3000 });
  metrics.stage({ stage: 'observe', ms: 1500, peakRssBytes: 5e8 });
  metrics.jobEnded('succeeded');
  let queued = 3;
  metrics.census(async () => ({ jobs: { queued, running: 1 }, queues: { jobs: queued } }));
  const { contentType, body } = await metrics.render();
  expect(contentType).toContain('text/plain');
  const lines = body.split('\n');
  expect(lines).toContain('halftone_http_request_duration_seconds_bucket{le="0.05",method="GET",route="/v1/jobs/:id",status="200"} 1');
  expect(lines).toContain('halftone_http_request_duration_seconds_count{method="GET",route="/v1/jobs/:id",status="200"} 2');
  expect(lines).toContain('halftone_stage_duration_seconds_sum{stage="observe"} 1.5');
  expect(lines).toContain('halftone_stage_peak_rss_bytes{stage="observe"} 500000000');
  expect(lines).toContain('halftone_jobs_ended_total{status="succeeded"} 1');
  expect(lines).toContain('halftone_jobs{status="queued"} 3');
  expect(lines).toContain('halftone_jobs{status="failed"} 0');
  expect(lines).toContain('halftone_queue_depth{queue="jobs"} 3');
  expect(body).toContain('process_resident_memory_bytes');
  queued = 0;
  expect((await metrics.render()).body).toContain('halftone_jobs{status="queued"} 0');
});

it('a scrape survives a database that is down, and shows no old counts', async () => {
  const metrics = createMetrics();
  let down = false;
  metrics.census(async () => {
    if (down) throw new Error('connection refused');
    return { jobs: { queued: 9 }, queues: {} };
  });
  await metrics.render();
  down = true;
  const { body } = await metrics.render();
  expect(body).toContain('halftone_census_failures_total 1');
  expect(body).not.toContain('halftone_jobs{status="queued"} 9');
});

it('two of them share nothing', async () => {
  const [a, b] = [createMetrics(), createMetrics()];
  a.jobEnded('failed');
  expect((await b.render()).body).not.toContain('halftone_jobs_ended_total{status="failed"} 1');
});
