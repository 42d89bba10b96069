/** The import rules of the house: downward only. `npm run lint` fails on a violation. */

// Dependency-cruiser's own parser knows TypeScript up to 6, and without one it passes over every .ts file and reports success.
// Loaded here, a missing parser is an error.
require('@swc/core');

const room = (name) => `^src/${name}/`;
/** Which rooms each room may import from (itself always). */
const allowed = {
  http: ['services', 'domain', 'telemetry'],
  worker: ['services', 'search', 'evaluate', 'quant', 'runtime', 'domain', 'telemetry'],
  services: ['store', 'queue', 'webhooks', 'domain', 'onnx', 'evaluate'],
  search: ['quant', 'evaluate', 'runtime', 'domain'],
  evaluate: ['runtime', 'onnx', 'domain'],
  quant: ['onnx', 'native', 'domain'],
  runtime: ['native', 'domain'],
  store: ['domain'],
  queue: ['domain'],
  webhooks: ['domain'],
  onnx: ['native', 'domain'],
  telemetry: ['domain'],
  domain: [],
};
const target = (name) => (name === 'native' ? '^native/' : room(name));
module.exports = {
  forbidden: [
    ...Object.entries(allowed).map(([from, to]) => ({
      name: `${from}-imports`,
      severity: 'error',
      from: { path: room(from) },
      to: { path: '^(src|native|bench|demo|test)/', pathNot: [room(from), ...to.map(target)] },
    })),
    { name: 'native-stands-alone', severity: 'error', from: { path: '^native/' }, to: { path: '^(src|bench|demo|test)/' } },
    { name: 'config-imports', severity: 'error', from: { path: '^src/config\\.ts$' }, to: { path: '^src/', pathNot: room('domain') } },
    {
      name: 'only-bin-reads-config',
      severity: 'error',
      from: { path: '^src/', pathNot: ['^src/bin/', '^src/config\\.ts$'] },
      to: { path: '^src/config\\.ts$' },
    },
    {
      name: 'only-runtime-imports-onnxruntime',
      severity: 'error',
      from: { path: '^(src|native|bench|demo)/', pathNot: room('runtime') },
      to: { path: 'node_modules/onnxruntime-node' },
    },
    {
      name: 'only-queue-imports-bullmq',
      severity: 'error',
      from: { path: '^src/', pathNot: room('queue') },
      to: { path: 'node_modules/bullmq' },
    },
    { name: 'nothing-imports-bench', severity: 'error', from: { pathNot: '^bench/' }, to: { path: '^bench/' } },
    {
      name: 'acceptance-speaks-http-only',
      severity: 'error',
      from: { path: '^test/acceptance/' },
      to: { path: '^(src|native|bench)/' },
    },
    { name: 'only-tests-import-tests', severity: 'error', from: { pathNot: '^test/' }, to: { path: '^test/' } },
    { name: 'demo-speaks-http-only', severity: 'error', from: { path: '^demo/' }, to: { path: '^(src|native)/' } },
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: ['src/store/db/generated', 'native/build'] },
    tsConfig: { fileName: 'tsconfig.json' },
    parser: 'swc',
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.mjs', '.cjs', '.json'] },
  },
};
