/** Data sets: uploaded, described from their headers, deleted. */
import { HalftoneError } from '../domain/errors.ts';
import { type DatasetDescription, describeDataset } from '../evaluate/dataset.ts';
import { type DatasetRecord, datasets, jobs, type Tx } from '../store/db/index.ts';
import { collect, publish } from '../store/publish.ts';
import type { ServiceContext } from './context.ts';
import { type Page, type PageRequest, page } from './pages.ts';
import { type LocalStagedObject, stageLocally } from './uploads.ts';

export interface DatasetView {
  id: string;
  name: string;
  sha256: string;
  sizeBytes: number;
  samples: number;
  arrays: { name: string; dtype: string; shape: number[] }[];
  /** class: one integer a sample; sequence: integers padded with −1; null = no labels. */
  labels: 'class' | 'sequence' | null;
  createdAt: string;
}

/** Bytes of a data set that are here, but not yet a data set. */
export interface ReceivedDataset {
  sha256: string;
  staged: LocalStagedObject;
  description: DatasetDescription;
  discard(): Promise<void>;
}

/** A row's description; what `describeDataset` gave when the bytes came. */
export function descriptionOf(row: DatasetRecord): DatasetDescription {
  return row.description as unknown as DatasetDescription;
}

const view = (row: DatasetRecord): DatasetView => ({
  id: row.id,
  name: row.name,
  sha256: row.sha256,
  sizeBytes: row.sizeBytes,
  samples: row.samples,
  arrays: descriptionOf(row).arrays,
  labels: descriptionOf(row).labelsKind,
  createdAt: row.createdAt.toISOString(),
});

export class DatasetService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Takes an .npz's bytes and reads its headers; no row is written yet. Discard it in every case.
   * @throws HalftoneError what `stage` and `describeDataset` say; nothing of the bytes is kept then
   */
  async receive(input: { body: AsyncIterable<Uint8Array>; expectedBytes?: number; signal?: AbortSignal }): Promise<ReceivedDataset> {
    const staged = await stageLocally(this.#context, input.body, {
      maxBytes: this.#context.maxDatasetBytes,
      ...(input.expectedBytes === undefined ? {} : { expectedBytes: input.expectedBytes }),
      ...(input.signal ? { signal: input.signal } : {}),
    });
    try {
      const description = await describeDataset(staged.localPath, { inflatedBytes: this.#context.maxDatasetBytes });
      return { sha256: staged.sha256, staged, description, discard: () => staged.discard() };
    } catch (error) {
      await staged.discard();
      throw error;
    }
  }

  /** Makes the data set, or gives the living one of the same bytes. */
  async accept(
    { staged, description }: ReceivedDataset,
    name: string,
    commit: (tx: Tx, dataset: DatasetView, created: boolean) => Promise<void> = async () => undefined,
  ): Promise<{ dataset: DatasetView; created: boolean }> {
    return publish(this.#context, [staged], async (tx) => {
      const { dataset, created } = await datasets.create(tx, {
        name,
        sha256: staged.sha256,
        sizeBytes: staged.sizeBytes,
        samples: description.samples,
        description: { ...description },
      });
      const shown = view(dataset);
      await commit(tx, shown, created);
      return { dataset: shown, created };
    });
  }

  async list(request: PageRequest): Promise<Page<DatasetView>> {
    return page(
      'datasets',
      request,
      (query) => datasets.list(this.#context.db.client, query),
      (rows) => rows.map(view),
    );
  }

  async get(id: string): Promise<DatasetView> {
    const row = await datasets.get(this.#context.db.client, id);
    if (row === null || row.deletedAt !== null) throw new HalftoneError('not-found', `There is no data set ${id}.`);
    return view(row);
  }

  /** @throws HalftoneError `in-use` while a job that has not ended reads it */
  async remove(id: string): Promise<void> {
    const hash = await this.#context.db.transaction(async (tx) => {
      const gone = await datasets.markDeleted(tx, id);
      if (gone === null) throw new HalftoneError('not-found', `There is no data set ${id}.`);
      // Counted after the row is locked: whoever makes a job locks it too.
      const active = await jobs.countActive(tx, { datasetId: id });
      if (active > 0)
        throw new HalftoneError(
          'in-use',
          `${active} job${active === 1 ? '' : 's'} that use${active === 1 ? 's' : ''} the data set ${active === 1 ? 'has' : 'have'} not ended.`,
        );
      return gone;
    });
    await collect(this.#context, [hash]);
  }
}
