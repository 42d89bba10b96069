import { defineConfig } from 'vitest/config';

/**
 * Three projects, one after the other: what is cheap fails first. Files run in processes of their own (`forks`), since
 * ONNX Runtime's native sessions have crashed in worker threads; at most two at once, because the reference machine has
 * two cores and half of the tests start servers. Acceptance tests measure latencies and so run one at a time.
 */
const project = (name: string, groupOrder: number, maxWorkers: number, testTimeout: number) => ({
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    environment: 'node',
    // What tests open with onnxruntime-node itself reports nothing either (src/runtime/library.ts).
    env: { ORT_DISABLE_TELEMETRY: '1' },
    pool: 'forks' as const,
    maxWorkers,
    testTimeout,
    hookTimeout: Math.max(testTimeout, 60_000),
    teardownTimeout: 30_000,
    sequence: { groupOrder },
  },
});

export default defineConfig({
  test: {
    projects: [project('unit', 0, 2, 20_000), project('integration', 1, 2, 60_000), project('acceptance', 2, 1, 180_000)],
  },
});
