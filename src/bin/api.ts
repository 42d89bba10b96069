/** The API alone. */
import { main } from './lifetime.ts';
import { runApi } from './run-api.ts';

await main('api', async (lifetime) => {
  const { listen } = await runApi(lifetime);
  await listen();
});
