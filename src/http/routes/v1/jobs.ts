import { Type } from 'typebox';
import { HalftoneError } from '../../../domain/errors.ts';
import { JOB_STATUSES, TERMINAL_STATUSES } from '../../../domain/job.ts';
import type { JobView } from '../../../domain/job-view.ts';
import type { Answer } from '../../../services/idempotency.ts';
import { preferred } from '../../accept.ts';
import { answerOnce } from '../../idempotent.ts';
import { principalOf } from '../../plugins/auth.ts';
import { LONGEST_WAIT_SECONDS, preferredWait } from '../../prefer.ts';
import { renderReportHtml, reportJson } from '../../report/index.ts';
import { answers, IdempotencyHeader, IdParams, json, Page, ref } from '../../schemas/common.ts';
import { CreateJob, Job, JobPage, Report } from '../../schemas/job.ts';
import { lastEventId, type SseEvent, sseStream } from '../../sse.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

/** How soon it makes sense to ask for a job again, in seconds. */
const ASK_AGAIN_SECONDS = '2';
/** A stream without news shows a sign of life so often: proxies cut what is silent for a minute. */
const HEARTBEAT_MS = 15_000;

const PreferHeader = Type.Object({
  prefer: Type.Optional(
    Type.String({ description: `wait=n: holds the request until the job has ended, n seconds (${LONGEST_WAIT_SECONDS} at most).` }),
  ),
});

const accepted = (job: JobView, waited = 0): Answer => ({
  status: 202,
  header: {
    location: `/v1/jobs/${job.id}`,
    'retry-after': ASK_AGAIN_SECONDS,
    ...(waited > 0 ? { 'preference-applied': `wait=${waited}` } : {}),
  },
  body: job,
});

export async function jobRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.post(
    '/v1/jobs',
    {
      config: {
        scope: 'write',
        documentedBody: { required: true, content: { 'application/json': { schema: ref(CreateJob) } } },
      },
      schema: {
        operationId: 'createJob',
        tags: ['Jobs'],
        summary: 'Quantize a model',
        description:
          'Whatever the headers of model and data show to be wrong is a 422 here; the rest fails the job. The first device profile is the target: plan, best and “never slower” are about it, the others are measured only.',
        security: [{ apiKey: [] }],
        headers: Type.Object({ ...IdempotencyHeader.properties, ...PreferHeader.properties }),
        body: CreateJob,
        response: answers(
          {
            202: json('The job: queued, or as it is when the wait is over.', ref(Job), {
              Location: { description: 'Where the job is.', type: 'string' },
              'Retry-After': { description: 'Seconds after which to look.', type: 'string' },
              'Preference-Applied': { description: 'wait=n, where the request was held.', type: 'string' },
            }),
          },
          [400, 409, 413, 415, 422],
        ),
      },
    },
    async (request, reply) => {
      const wait = preferredWait(request.headers.prefer);
      return answerOnce(services, request, reply, request.body, async (remember) => {
        const job = await services.jobs.create(request.body, principalOf(request), (tx, made) => remember(tx, accepted(made)));
        return wait > 0 ? accepted(await services.jobs.waitForEnd(job.id, wait * 1000, request.gone), wait) : accepted(job);
      });
    },
  );

  app.get(
    '/v1/jobs',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listJobs',
        tags: ['Jobs'],
        summary: 'List jobs, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(
          {
            ...Page,
            status: Type.Optional(Type.Enum(JOB_STATUSES)),
            model: Type.Optional(Type.String({ maxLength: 200, description: 'mdl_…' })),
          },
          { additionalProperties: false },
        ),
        response: answers({ 200: json('A page of jobs.', ref(JobPage)) }, [422]),
      },
    },
    async (request) => services.jobs.list(request.query),
  );

  app.get(
    '/v1/jobs/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getJob',
        tags: ['Jobs'],
        summary: 'Get a job',
        description: `With \`Prefer: wait=n\` the request is held until the job has ended, up to n seconds (${LONGEST_WAIT_SECONDS} at most).`,
        security: [{ apiKey: [] }],
        params: IdParams('job'),
        headers: PreferHeader,
        response: answers(
          {
            200: json('The job.', ref(Job), {
              'Preference-Applied': { description: 'wait=n, where the request was held.', type: 'string' },
              'Retry-After': { description: 'Seconds after which to look again, while the job has not ended.', type: 'string' },
            }),
          },
          [404],
        ),
      },
    },
    async (request, reply) => {
      const wait = preferredWait(request.headers.prefer);
      const job =
        wait > 0
          ? await services.jobs.waitForEnd(request.params.id, wait * 1000, request.gone)
          : await services.jobs.get(request.params.id);
      if (wait > 0) reply.header('preference-applied', `wait=${wait}`);
      if (!TERMINAL_STATUSES.includes(job.status)) reply.header('retry-after', ASK_AGAIN_SECONDS);
      return job;
    },
  );

  app.delete(
    '/v1/jobs/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteJob',
        tags: ['Jobs'],
        summary: 'Delete a job that has ended',
        description: 'Its variants, artifacts, figures and events go with it.',
        security: [{ apiKey: [] }],
        params: IdParams('job'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404, 409]),
      },
    },
    async (request, reply) => {
      await services.jobs.remove(request.params.id);
      return reply.code(204).send();
    },
  );

  app.post(
    '/v1/jobs/:id/cancel',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'cancelJob',
        tags: ['Jobs'],
        summary: 'Cancel a job',
        description: 'A queued job is canceled at once, a running one within seconds. Canceling twice changes nothing.',
        security: [{ apiKey: [] }],
        params: IdParams('job'),
        response: answers({ 200: json('The job is canceled.', ref(Job)), 202: json('It will be.', ref(Job)) }, [404, 409, 413, 415]),
      },
    },
    async (request, reply) => {
      const job = await services.jobs.cancel(request.params.id);
      return reply.code(job.status === 'canceled' ? 200 : 202).send(job);
    },
  );

  app.get(
    '/v1/jobs/:id/events',
    {
      config: { scope: 'read' },
      exposeHeadRoute: false,
      schema: {
        operationId: 'streamJobEvents',
        tags: ['Jobs'],
        summary: 'Follow a job',
        description:
          'Server-Sent Events from the first one on, or from the one after Last-Event-ID: `queued`, `started`, `progress`, `stage`, `variant`, `requeued`, `cancel-requested`, and last `succeeded`, `failed` or `canceled`. The stream ends with the job. 204 where the job has ended and nothing is left to send.',
        security: [{ apiKey: [] }],
        params: IdParams('job'),
        headers: Type.Object({ 'last-event-id': Type.Optional(Type.String({ description: 'Number of the last event seen.' })) }),
        response: answers(
          {
            200: { description: 'Events; `data` is JSON.', content: { 'text/event-stream': { schema: Type.String() } } },
            204: { description: 'Nothing more will come.', type: 'null' },
          },
          [404],
        ),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const after = lastEventId(request.headers['last-event-id']);
      const job = await services.jobs.get(id);
      if (TERMINAL_STATUSES.includes(job.status) && (await services.jobs.events(id, after)).length === 0) return reply.code(204).send();
      const events = services.jobs.follow(id, after, HEARTBEAT_MS, request.gone);
      const shown = (async function* (): AsyncGenerator<SseEvent | null> {
        for await (const event of events) {
          yield event && { id: event.sequence, event: event.type, data: { ...event.data, job: id, at: event.at } };
        }
      })();
      return reply
        .header('content-type', 'text/event-stream; charset=utf-8')
        .header('cache-control', 'no-store')
        .header('x-accel-buffering', 'no')
        .send(sseStream(shown));
    },
  );

  app.get(
    '/v1/jobs/:id/report',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getJobReport',
        tags: ['Jobs'],
        summary: 'Get the report of a job that has ended',
        description: 'JSON, or one self-contained HTML page, by Accept.',
        security: [{ apiKey: [] }],
        params: IdParams('job'),
        response: answers(
          {
            200: {
              description: 'The report.',
              content: { 'application/json': { schema: ref(Report) }, 'text/html': { schema: Type.String() } },
            },
          },
          [404, 406, 409],
        ),
      },
    },
    async (request, reply) => {
      const type = preferred(request.headers.accept, ['application/json', 'text/html']);
      if (type === null) throw new HalftoneError('not-acceptable', `Accept is ${request.headers.accept}.`);
      const report = await services.jobs.report(request.params.id);
      reply.header('vary', 'accept').header('cache-control', 'private, no-cache');
      if (type === 'application/json') return reply.send(reportJson(report));
      return (
        reply
          .header('content-type', 'text/html; charset=utf-8')
          // Names in it come from users' files: should one slip through the escaping, it may run nothing and call nobody.
          .header(
            'content-security-policy',
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
          )
          .serializer((page: unknown) => String(page))
          .send(renderReportHtml(report))
      );
    },
  );
}
