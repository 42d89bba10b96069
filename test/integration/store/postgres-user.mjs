// A process that uses the embedded PostgreSQL of a data folder until it is told to stop: `node postgres-user.mjs <embedded.js> <folder>`.
const [program, dataDir] = process.argv.slice(2);
const { startEmbedded } = await import(program);
const server = await startEmbedded({ dataDir, timeoutMs: 60_000 });
process.on('SIGTERM', async () => {
  await server.release();
  process.exit(0);
});
setInterval(() => {}, 60_000);
process.send({ url: server.url });
