/** What jobs measured of a model that later jobs on it need not measure again. */
import { json, type Tx } from './client.ts';

export async function forModel(tx: Tx, modelSha256: string): Promise<Record<string, unknown>> {
  const rows = await tx.statistic.findMany({ where: { modelSha256 } });
  return Object.fromEntries(rows.map((row) => [row.key, row.value]));
}
export async function put(tx: Tx, modelSha256: string, key: string, value: unknown): Promise<void> {
  await tx.statistic.upsert({
    where: { modelSha256_key: { modelSha256, key } },
    create: { modelSha256, key, value: json(value) },
    update: { value: json(value) },
  });
}
