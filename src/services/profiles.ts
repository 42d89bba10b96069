/** Device profiles: what a device allows and how models are measured for it. */
import { HalftoneError } from '../domain/errors.ts';
import type { DeviceProfile } from '../domain/profile.ts';
import { type ProfileRecord, profiles, type Tx } from '../store/db/index.ts';
import type { ServiceContext } from './context.ts';
import { type Page, type PageRequest, page } from './pages.ts';

export interface ProfileView extends DeviceProfile {
  createdAt: string;
}

export type NewProfile = Omit<DeviceProfile, 'id' | 'builtIn' | 'machine'>;

const profileView = ({ createdAt, ...profile }: ProfileRecord): ProfileView => ({ ...profile, createdAt: createdAt.toISOString() });

export class ProfileService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  async list(request: PageRequest): Promise<Page<ProfileView>> {
    return page(
      'device-profiles',
      request,
      (query) => profiles.list(this.#context.db.client, query),
      (rows) => rows.map(profileView),
    );
  }

  /** By id or name. */
  async get(idOrName: string): Promise<ProfileView> {
    const row = await profiles.resolve(this.#context.db.client, idOrName);
    if (row === null) throw new HalftoneError('not-found', `There is no device profile ${idOrName}.`);
    return profileView(row);
  }

  /** @throws HalftoneError `conflict` where the name is taken */
  async create(input: NewProfile, commit: (tx: Tx, profile: ProfileView) => Promise<void>): Promise<ProfileView> {
    return this.#context.db.transaction(async (tx) => {
      // What the machine is like is known once a worker that carries the labels has registered; a profile for any worker
      // runs where `host` runs.
      const machine = input.workers.length === 0 ? ((await profiles.findByName(tx, 'host'))?.machine ?? null) : null;
      const row = await profiles.create(tx, { ...input, machine });
      if (row === null) {
        throw new HalftoneError('conflict', `There is a device profile called ${input.name} already.`, {
          errors: [{ pointer: '/name', detail: 'is taken' }],
        });
      }
      const shown = profileView(row);
      await commit(tx, shown);
      return shown;
    });
  }

  /** Jobs hold a copy of the profiles they were made with, so that those which have ended lose nothing. */
  async remove(idOrName: string): Promise<void> {
    await this.#context.db.transaction(async (tx) => {
      const row = await profiles.resolve(tx, idOrName);
      if (row === null) throw new HalftoneError('not-found', `There is no device profile ${idOrName}.`);
      if (row.builtIn) throw new HalftoneError('conflict', `${row.name} is built in and cannot be deleted.`);
      const asked = JSON.stringify([{ id: row.id }]);
      const active = await tx.$queryRaw<unknown[]>`
        select 1 from jobs where status in ('queued', 'running') and device_profiles @> ${asked}::jsonb limit 1`;
      if (active.length > 0) throw new HalftoneError('in-use', `Jobs that have not ended are measured on ${row.name}.`);
      await tx.deviceProfile.delete({ where: { id: row.id } });
    });
  }
}
