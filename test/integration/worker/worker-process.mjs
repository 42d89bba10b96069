// A worker in a process of its own, to be killed: `node worker-process.mjs <settings as JSON>`. Takes every queued job that it sees.
const settings = JSON.parse(process.argv[2]);
const store = await import(settings.store);
const { createWorker } = await import(settings.worker);
const db = store.openDatabase({ url: settings.url });
const objects = await store.openDiskStore(settings.objects);
const execution = store.createExecution({ db, objects }, settings.leaseSeconds);
const scratch = await store.openScratch(settings.work);
for (const dead of scratch.dead) {
  await execution.requeueOwnedBy(`${dead}/`, 'the worker died');
  await scratch.forget(dead);
}
const quiet = () => {};
const worker = createWorker({
  execution,
  objects,
  workerId: scratch.workerId,
  folder: scratch.folder,
  noteChild: scratch.noteChild,
  concurrency: 4,
  labels: [],
  childEnvironment: settings.childEnvironment,
  deadlineSeconds: 60,
  memoryBytes: 1e9,
  leaseSeconds: settings.leaseSeconds,
  machineLockPath: settings.lock,
  log: { debug: quiet, info: quiet, warn: quiet, error: console.error },
  childScript: settings.child,
});
process.send({ ready: true });
for (;;) {
  const queued = await db.client.job
    .findMany({ where: { status: 'queued', id: { in: settings.jobs } }, select: { id: true } })
    .catch(() => []);
  for (const { id } of queued) void worker.run(id);
  await new Promise((resolve) => setTimeout(resolve, 50));
}
