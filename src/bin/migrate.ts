/** Brings the database to the schema and ends. The other programs do it at their start, too. */
import { main } from './lifetime.ts';
import { openDatabaseUrl } from './stores.ts';

await main('migrate', async (lifetime) => {
  await openDatabaseUrl(lifetime);
  lifetime.log.info('the database has the schema');
  lifetime.shutdown('done');
});
