/** Figures of all jobs, by device profile and model. */
import { HalftoneError } from '../domain/errors.ts';
import type { Benchmark } from '../domain/job.ts';
import type { Recipe } from '../domain/recipe.ts';
import { profiles, results } from '../store/db/index.ts';
import type { ServiceContext } from './context.ts';
import { type Page, type PageRequest, page } from './pages.ts';

export interface BenchmarkView extends Benchmark {
  model: string;
  job: string;
  variant: string;
  artifact: string | null;
  /** Null = the float model. */
  recipe: Recipe | null;
  createdAt: string;
}

export class BenchmarkService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  async list(request: PageRequest & { deviceProfile?: string; model?: string }): Promise<Page<BenchmarkView>> {
    const { client } = this.#context.db;
    const { deviceProfile, model } = request;
    let deviceProfileId: string | undefined;
    if (deviceProfile !== undefined) {
      const profile = await profiles.resolve(client, deviceProfile);
      if (profile === null) throw new HalftoneError('not-found', `There is no device profile ${deviceProfile}.`);
      deviceProfileId = profile.id;
    }
    return page(
      `benchmarks ${deviceProfileId ?? ''} ${model ?? ''}`,
      request,
      (query) =>
        results.listBenchmarks(client, { ...query, ...(deviceProfileId ? { deviceProfileId } : {}), ...(model ? { modelId: model } : {}) }),
      (rows) =>
        rows.map((row) => ({
          ...row.benchmark,
          model: row.modelId,
          job: row.jobId,
          variant: row.variantId,
          artifact: row.artifactId,
          recipe: row.recipe,
          createdAt: row.createdAt.toISOString(),
        })),
      /^\d{1,18}$/,
    );
  }
}
