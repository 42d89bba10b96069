/** Device profiles. */
import { newId } from '../../domain/ids.ts';
import type { DeviceProfile } from '../../domain/profile.ts';
import { json, type Tx } from './client.ts';
import type { Prisma } from './generated/client.ts';
import type { PageQuery, ProfileRecord } from './records.ts';

/** The labels that a worker must carry to measure all of these, as one string: sorted, without doubles, joined with `,`; '' = any worker. */
export function labelsOf(...asked: Pick<DeviceProfile, 'workers'>[]): string {
  return [...new Set(asked.flatMap(({ workers }) => workers))].sort().join(',');
}

const record = (row: Prisma.DeviceProfileGetPayload<object>): ProfileRecord => ({
  ...(row.spec as unknown as Omit<DeviceProfile, 'id' | 'name' | 'builtIn'>),
  id: row.id,
  name: row.name,
  builtIn: row.builtIn,
  createdAt: row.createdAt,
});

/** Makes a profile; null where the name is taken. */
export async function create(tx: Tx, profile: Omit<DeviceProfile, 'id' | 'builtIn'>): Promise<ProfileRecord | null> {
  const { name, ...spec } = profile;
  const id = newId('profile');
  const { count } = await tx.deviceProfile.createMany({ data: [{ id, name, spec: json(spec) }], skipDuplicates: true });
  return count === 1 ? get(tx, id) : null;
}
/** Writes a built-in profile as it is on this machine now; keeps its id. Without a machine, one that is there is left as it is. */
export async function ensureBuiltIn(tx: Tx, profile: Omit<DeviceProfile, 'id' | 'builtIn'>): Promise<ProfileRecord> {
  const { name, ...spec } = profile;
  await tx.deviceProfile.createMany({ data: [{ id: newId('profile'), name, builtIn: true, spec: json(spec) }], skipDuplicates: true });
  if (!profile.machine) return (await findByName(tx, name))!;
  return record(await tx.deviceProfile.update({ where: { name }, data: { spec: json(spec), builtIn: true } }));
}
async function get(tx: Tx, id: string): Promise<ProfileRecord | null> {
  const row = await tx.deviceProfile.findUnique({ where: { id } });
  return row && record(row);
}
export async function findByName(tx: Tx, name: string): Promise<ProfileRecord | null> {
  const row = await tx.deviceProfile.findUnique({ where: { name } });
  return row && record(row);
}
/** By id or name. */
export async function resolve(tx: Tx, idOrName: string): Promise<ProfileRecord | null> {
  return (await get(tx, idOrName)) ?? findByName(tx, idOrName);
}
/** The different sets of labels that profiles, and queued jobs on several of them, ask of a worker, each sorted and joined with `,`. */
export async function labelSets(tx: Tx): Promise<string[]> {
  const rows = await tx.deviceProfile.findMany({ select: { spec: true } });
  const queued = await tx.job.findMany({ where: { status: 'queued' }, select: { labels: true }, distinct: ['labels'] });
  return [...new Set([...rows.map((row) => labelsOf(row.spec as unknown as DeviceProfile)), ...queued.map(({ labels }) => labels)])];
}
export async function list(tx: Tx, page: PageQuery): Promise<ProfileRecord[]> {
  const where = page.before ? { id: { lt: page.before } } : {};
  return (await tx.deviceProfile.findMany({ where, orderBy: { id: 'desc' }, take: page.limit })).map(record);
}
