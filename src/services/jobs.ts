/** Jobs: checked as far as headers go, made together with their message to the queue, read, waited for, canceled, deleted. */
import { at, HalftoneError } from '../domain/errors.ts';
import { type JobStatus, type Metric, type MetricName, TERMINAL_STATUSES } from '../domain/job.ts';
import type { JobContext, JobView } from '../domain/job-view.ts';
import type { DeviceProfile } from '../domain/profile.ts';
import type { Recipe } from '../domain/recipe.ts';
import { checkRecipe } from '../domain/recipe-check.ts';
import {
  type DatasetRecord,
  datasets,
  events,
  type JobEventRecord,
  type JobRecord,
  jobs,
  models,
  profiles,
  results,
  type Tx,
  webhooks,
  workers,
} from '../store/db/index.ts';
import { collect } from '../store/publish.ts';
import type { ServiceContext } from './context.ts';
import { descriptionOf } from './datasets.ts';
import { checkDataset, checkMetric, checkSignature } from './job-checks.ts';
import { jobView } from './job-view.ts';
import { refusal } from './model-headers.ts';
import { modelDescriptionOf, modelInputs, modelOutputs } from './models.ts';
import { type Page, type PageRequest, page } from './pages.ts';
import type { Wakeups } from './wakeups.ts';

/** What a client asks for; all that may be left out is optional. */
export interface NewJobInput {
  model: string;
  recipe?: Recipe;
  recipes?: Recipe[];
  calibration?: string | null;
  evaluation?: string | null;
  metric?: MetricName | Metric | null;
  deviceProfiles?: string[];
  maxAccuracyDrop?: number;
  shapes?: Record<string, number>;
  seed?: number;
  webhook?: string | null;
}

export interface JobEventView {
  /** 1, 2, … within the job. */
  sequence: number;
  type: string;
  data: Record<string, unknown>;
  at: string;
}

const eventView = (row: JobEventRecord): JobEventView => ({
  sequence: row.sequence,
  type: row.type,
  data: row.data,
  at: row.createdAt.toISOString(),
});

/** In the metric's unit: 0.01 is one point of top-1. */
const DEFAULT_DROP = 0.01;

export class JobService {
  readonly #context: ServiceContext;
  readonly #wakeups: Wakeups;

  constructor(context: ServiceContext, wakeups: Wakeups) {
    this.#context = context;
    this.#wakeups = wakeups;
  }

  /**
   * Makes a job: its row, its first event and the queue's message in one transaction.
   * @throws HalftoneError 422 with a pointer for whatever the headers of model and data show to be wrong
   */
  async create(
    input: NewJobInput,
    principal: { id: string },
    commit: (tx: Tx, job: JobView) => Promise<void> = async () => undefined,
  ): Promise<JobView> {
    const { db } = this.#context;
    if (input.recipe !== undefined && input.recipes !== undefined) {
      throw at('/recipes', 'validation-failed', 'Give `recipe` or `recipes`, not both.');
    }
    const recipes = input.recipes ?? (input.recipe ? [input.recipe] : []);
    if (recipes.length === 0) throw at('/recipe', 'validation-failed', 'Give `recipe`, or `recipes` with at least one.');
    const pointerOf = (index: number) => (input.recipes ? `/recipes/${index}` : '/recipe');

    const model = await models.get(db.client, input.model);
    if (model === null) throw at('/model', 'validation-failed', `There is no model ${input.model}.`);
    if (model.deletedAt !== null) throw at('/model', 'model-deleted', `${input.model} was deleted at ${model.deletedAt.toISOString()}.`);
    const description = modelDescriptionOf(model);
    const refused = refusal(description);
    if (refused !== null) throw at('/model', refused.code, refused.detail);

    const calibration = await this.#dataset(input.calibration, '/calibration');
    const evaluation = await this.#dataset(input.evaluation, '/evaluation');
    const targets = await this.#profiles(input.deviceProfiles ?? ['host']);
    recipes.forEach((recipe, index) => {
      checkRecipe(recipe, pointerOf(index), targets[0]!);
      if (recipe.method === 'static' && calibration === null) {
        throw at(
          '/calibration',
          'calibration-missing',
          'A static recipe learns its ranges from data; give `calibration`, a data set’s id.',
        );
      }
    });
    const inputs = modelInputs(description);
    await this.#checkMeasurable(targets);
    checkSignature(description);
    if (calibration) checkDataset(descriptionOf(calibration), inputs, '/calibration');
    if (evaluation) checkDataset(descriptionOf(evaluation), inputs, '/evaluation');
    const metric: Metric | null = typeof input.metric === 'string' ? { name: input.metric } : (input.metric ?? null);
    const judged = evaluation ?? calibration;
    checkMetric(metric, inputs, modelOutputs(description), judged ? descriptionOf(judged) : null);

    const endpoint = input.webhook ?? null;
    if (endpoint !== null) {
      const row = await webhooks.getEndpoint(db.client, endpoint);
      if (row === null) throw at('/webhook', 'validation-failed', `There is no webhook endpoint ${endpoint}.`);
      if (row.disabledAt !== null) {
        throw at('/webhook', 'validation-failed', `${endpoint} is disabled: ${row.disabledReason ?? 'no reason was kept'}`);
      }
    }

    return db.transaction(async (tx) => {
      // Whoever deletes one of them waits for this transaction and then finds the job.
      if (!(await models.lockLiving(tx, model.id))) throw at('/model', 'model-deleted', `${model.id} was deleted meanwhile.`);
      for (const [pointer, row] of [['/calibration', calibration] as const, ['/evaluation', evaluation] as const]) {
        if (row && !(await datasets.lockLiving(tx, row.id))) throw at(pointer, 'dataset-deleted', `${row.id} was deleted meanwhile.`);
      }
      const row = await jobs.create(tx, {
        modelId: model.id,
        calibrationId: calibration?.id ?? null,
        evaluationId: evaluation?.id ?? null,
        recipes,
        metric,
        maxAccuracyDrop: input.maxAccuracyDrop ?? DEFAULT_DROP,
        shapes: input.shapes ?? {},
        seed: input.seed ?? 0,
        deviceProfiles: targets,
        webhookEndpointId: endpoint,
        apiKeyId: principal.id,
      });
      const view = jobView(row, []);
      await commit(tx, view);
      return view;
    });
  }

  async #dataset(id: string | null | undefined, pointer: string): Promise<DatasetRecord | null> {
    if (id === null || id === undefined) return null;
    const row = await datasets.get(this.#context.db.client, id);
    if (row === null) throw at(pointer, 'validation-failed', `There is no data set ${id}.`);
    if (row.deletedAt !== null) throw at(pointer, 'dataset-deleted', `${id} was deleted at ${row.deletedAt.toISOString()}.`);
    return row;
  }

  async #profiles(asked: string[]): Promise<DeviceProfile[]> {
    const found: DeviceProfile[] = [];
    for (const [index, idOrName] of asked.entries()) {
      const row = await profiles.resolve(this.#context.db.client, idOrName);
      if (row === null) throw at(`/deviceProfiles/${index}`, 'validation-failed', `There is no device profile ${idOrName}.`);
      if (found.some(({ id }) => id === row.id)) throw at(`/deviceProfiles/${index}`, 'validation-failed', `${row.name} is there twice.`);
      const { createdAt: _, ...profile } = row;
      found.push(profile);
    }
    return found;
  }

  /**
   * Whether a worker lives that can measure all that is asked for. Where no labels are asked any worker will do, and a job may be
   * posted before there is one; a job for a device that nobody stands for would wait for ever without a word.
   */
  async #checkMeasurable(asked: DeviceProfile[]): Promise<void> {
    const labels: string[] = [];
    for (const [index, profile] of asked.entries()) {
      const more = profile.workers.filter((label) => !labels.includes(label));
      if (more.length === 0) continue;
      labels.push(...more);
      if (await workers.anyCarries(this.#context.db.client, labels)) continue;
      const together = more.length < labels.length ? `, and one job is run by one worker: post a job for each device` : '';
      throw at(
        `/deviceProfiles/${index}`,
        'profile-not-measurable',
        `${profile.name} is measured by workers with the labels ${labels.map((label) => `'${label}'`).join(', ')}, and none was seen in the last minutes${together}.`,
      );
    }
  }

  async #view(row: JobRecord): Promise<JobView> {
    return (await this.#views([row]))[0]!;
  }

  /** With their variants: the rows of those that have succeeded, what the others have told so far. */
  async #views(rows: JobRecord[]): Promise<JobView[]> {
    const { client } = this.#context.db;
    const made = await results.listVariantsOf(
      client,
      rows.map((row) => row.id),
    );
    const told = await results.listReported(client, rows);
    return rows.map((row) => jobView(row, made.get(row.id) ?? told.get(row.id) ?? []));
  }

  async #row(id: string): Promise<JobRecord> {
    const row = await jobs.get(this.#context.db.client, id);
    if (row === null) throw new HalftoneError('not-found', `There is no job ${id}.`);
    return row;
  }

  async get(id: string): Promise<JobView> {
    return this.#view(await this.#row(id));
  }

  /** The job once it has ended, or as it is after `ms`, or when the signal says that nobody waits any more. */
  async waitForEnd(id: string, ms: number, signal: AbortSignal): Promise<JobView> {
    const until = Date.now() + ms;
    for (;;) {
      const seen = this.#wakeups.seen;
      const row = await this.#row(id);
      const rest = until - Date.now();
      if (TERMINAL_STATUSES.includes(row.status) || rest <= 0 || signal.aborted) return this.#view(row);
      await this.#wakeups.sleep(id, seen, rest, signal);
    }
  }

  async list(request: PageRequest & { status?: JobStatus; model?: string }): Promise<Page<JobView>> {
    const { status, model } = request;
    const { db } = this.#context;
    return page(
      `jobs ${status ?? ''} ${model ?? ''}`,
      request,
      (query) => jobs.list(db.client, { ...query, ...(status ? { status } : {}), ...(model ? { modelId: model } : {}) }),
      (rows) => this.#views(rows),
    );
  }

  /** Asks it to stop: a queued job is canceled at once, a running one within seconds. @throws HalftoneError `conflict` where it has ended another way */
  async cancel(id: string): Promise<JobView> {
    const row = await this.#context.db.transaction((tx) => jobs.requestCancel(tx, id));
    if (row === null) throw new HalftoneError('not-found', `There is no job ${id}.`);
    if (row.status === 'succeeded' || row.status === 'failed') throw new HalftoneError('conflict', `The job has ${row.status} already.`);
    return this.#view(row);
  }

  /** Deletes an ended job with its variants, artifacts, figures and events. @throws HalftoneError `in-use` while it has not ended */
  async remove(id: string): Promise<void> {
    const hashes = await this.#context.db.transaction((tx) => jobs.removeEnded(tx, id));
    if (hashes === null) {
      const row = await this.#row(id);
      throw new HalftoneError('in-use', `The job is ${row.status}; cancel it first.`);
    }
    await collect(this.#context, hashes);
  }

  /** Events after number `after`, oldest first. */
  async events(id: string, after: number): Promise<JobEventView[]> {
    return (await events.after(this.#context.db.client, id, after)).map(eventView);
  }

  /**
   * A job's events as they come, from number `after` on; ends after the last one of an ended job, or when the signal does.
   * Gives null when nothing has come for `idleMs`, so that the reader can show a sign of life.
   * @throws HalftoneError `not-found`
   */
  async *follow(id: string, after: number, idleMs: number, signal: AbortSignal): AsyncGenerator<JobEventView | null> {
    let last = after;
    let idleSince = Date.now();
    await this.#row(id);
    while (!signal.aborted) {
      const seen = this.#wakeups.seen;
      // The state is read before the events: an end that comes between the two is seen by the next round.
      const row = await jobs.get(this.#context.db.client, id);
      const found = await this.events(id, last);
      for (const event of found) {
        yield event;
        last = event.sequence;
        idleSince = Date.now();
      }
      if (found.length > 0) continue;
      if (row === null || TERMINAL_STATUSES.includes(row.status)) return;
      const rest = idleSince + idleMs - Date.now();
      if (rest > 0) await this.#wakeups.sleep(id, seen, rest, signal);
      else {
        idleSince = Date.now();
        yield null;
      }
    }
  }

  /** The job and what its ids stand for. @throws HalftoneError `conflict` while it has not ended */
  async report(id: string): Promise<JobView & { context: JobContext }> {
    const row = await this.#row(id);
    if (!TERMINAL_STATUSES.includes(row.status)) {
      throw new HalftoneError('conflict', `The job is ${row.status}; its report is there once it has ended.`, {
        headers: { 'retry-after': '5' },
      });
    }
    const { client } = this.#context.db;
    const model = await models.get(client, row.modelId);
    const dataset = async (datasetId: string | null) => {
      const found = datasetId === null ? null : await datasets.get(client, datasetId);
      return found && { id: found.id, name: found.name, samples: found.samples };
    };
    const context: JobContext = {
      model: model && { id: model.id, name: model.name, sha256: model.sha256, sizeBytes: model.sizeBytes },
      calibration: await dataset(row.calibrationId),
      evaluation: await dataset(row.evaluationId),
      profiles: row.deviceProfiles,
    };
    return { ...(await this.#view(row)), context };
  }
}
