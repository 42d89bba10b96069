import { type Static, Type } from 'typebox';
import { JOB_STATUSES, METRICS, STAGES } from '../../domain/job.ts';
import type { JobView, VariantView } from '../../domain/job-view.ts';
import { LIMITS } from '../../domain/limits.ts';
import { bytes, component, dateTime, id, nullable, pageOf, ref, sha256, shows } from './common.ts';
import { Metric, Recipe } from './recipe.ts';

// OpenAPI’s linters know prefixItems, which TypeBox does not write, and refuse an array of items.
const ci95 = Type.Unsafe<[number, number]>({
  type: 'array',
  items: { type: 'number' },
  minItems: 2,
  maxItems: 2,
  description: '95% confidence interval.',
});

const Evaluation = component(
  'Evaluation',
  Type.Object({
    metric: Type.Enum(METRICS),
    value: Type.Number({ description: 'A fraction (0.834) for top1, top5, ctc, agreement and cer; dB for sqnr.' }),
    drop: nullable(Type.Number({ description: 'Against the float model, positive when worse; null for the float model itself.' })),
    agreement: nullable(Type.Number({ description: 'Share of samples with the same decision as the float model.' })),
    sqnrDb: nullable(Type.Number({ description: 'Signal to quantization noise of the output, at most 60.' })),
    cosine: nullable(Type.Number()),
    maxError: nullable(Type.Number()),
    cer: Type.Optional(nullable(Type.Number({ description: 'Character error rate.' }))),
    samples: Type.Integer(),
    leftOut: Type.Integer({ description: 'Samples beyond the last whole batch of a model with a fixed batch.' }),
    ci95,
    dropStandardError: nullable(Type.Number({ description: 'Of the drop, paired by sample.' })),
  }),
);

export const Benchmark = component(
  'Benchmark',
  Type.Object({
    deviceProfile: Type.String(),
    latencyMs: Type.Object({
      p50: Type.Number(),
      p90: Type.Number(),
      p99: Type.Number(),
      mean: Type.Number(),
      min: Type.Number(),
      samples: Type.Integer(),
    }),
    speedup: Type.Object({ value: Type.Number(), ci95 }, { description: 'Float time ÷ this model’s, from interleaved runs.' }),
    peakRssBytes: bytes('Peak resident memory of a process that loads and runs the model.'),
    modelRssBytes: Type.Integer({ description: 'The same above a process without a session.' }),
    loadMs: Type.Number(),
  }),
);

const Kernels = component(
  'Kernels',
  Type.Object({
    ran: Type.Record(Type.String(), Type.Integer(), { description: 'Kernel, as the runtime’s profile names it → nodes that ran it.' }),
    quantized: Type.Array(Type.String(), { description: 'Nodes of the model that run in integers.' }),
    leftInFloat: Type.Array(
      Type.Object({ node: Type.String(), operator: Type.String(), reason: Type.String(), detail: Type.Optional(Type.String()) }),
    ),
    notes: Type.Array(Type.String()),
  }),
);

const ArtifactRef = component(
  'ArtifactRef',
  Type.Object(
    {
      id: id('artifact'),
      sizeBytes: bytes('Of what href sends.'),
      sha256: sha256('Of what href sends.'),
      href: Type.String({ description: 'Where the file is: /v1/artifacts/art_…/content.' }),
    },
    { description: 'A variant’s file: there once the job has succeeded.' },
  ),
);

const problem = Type.Object({ code: Type.String(), detail: Type.String() });

const Variant = component(
  'Variant',
  Type.Object({
    id: id('variant'),
    index: Type.Integer({ minimum: -1, description: 'Of its recipe, as `stages` and `bestReason` name it; −1 = the float model.' }),
    recipe: nullable(ref(Recipe)),
    artifact: nullable(ref(ArtifactRef)),
    evaluation: nullable(ref(Evaluation)),
    benchmarks: Type.Array(ref(Benchmark)),
    kernels: nullable(ref(Kernels)),
    error: nullable(problem),
  }),
);

const JobError = component(
  'JobError',
  Type.Object({
    code: Type.String({ description: 'As in Problem.' }),
    detail: Type.String(),
    title: Type.Optional(Type.String()),
    remedy: Type.Optional(Type.String()),
  }),
);

const Stage = Type.Enum(STAGES);

export const Job = component(
  'Job',
  Type.Object({
    id: id('job'),
    status: Type.Enum(JOB_STATUSES),
    stage: nullable(Stage),
    progress: Type.Number({ minimum: 0, maximum: 1 }),
    etaSeconds: nullable(Type.Number()),
    error: nullable(ref(JobError)),
    model: id('model'),
    recipes: Type.Array(ref(Recipe)),
    calibration: nullable(id('dataset')),
    evaluation: nullable(id('dataset')),
    metric: nullable(ref(Metric)),
    deviceProfiles: Type.Array(Type.String(), { description: 'Names; the first is the target.' }),
    maxAccuracyDrop: Type.Number(),
    webhook: nullable(id('webhookEndpoint')),
    stages: Type.Array(
      Type.Object({
        name: Stage,
        variant: Type.Optional(Type.Integer({ description: 'Index of the recipe; absent for work that all variants share.' })),
        ms: Type.Number(),
        peakRssBytes: Type.Integer(),
      }),
    ),
    baseline: nullable(ref(Variant)),
    variants: Type.Array(ref(Variant), { description: 'One a recipe, in the order given, as far as they are made.' }),
    best: nullable(Type.String({ description: 'Id of the fastest variant that is no slower than float and within maxAccuracyDrop.' })),
    bestReason: nullable(Type.String()),
    createdAt: dateTime('When the job was posted.'),
    startedAt: nullable(dateTime('When a worker first took it.')),
    finishedAt: nullable(dateTime('When it ended.')),
  }),
);

/** A report is the job with what its ids stand for. */
export const Report = component(
  'Report',
  Type.Object(
    {
      id: id('job'),
      context: Type.Object(
        {
          model: nullable(
            Type.Object({ id: id('model'), name: Type.String(), sha256: sha256('Of the model file.'), sizeBytes: bytes('All files.') }),
          ),
          calibration: nullable(Type.Object({ id: id('dataset'), name: Type.String(), samples: Type.Integer() })),
          evaluation: nullable(Type.Object({ id: id('dataset'), name: Type.String(), samples: Type.Integer() })),
          profiles: Type.Array(Type.Object({}, { additionalProperties: true })),
        },
        { description: 'The model, data sets and profiles as the job saw them.' },
      ),
    },
    {
      additionalProperties: true,
      description: 'The job’s every field, `context`, and what a reader would compute first: `verdict` and `summary`.',
    },
  ),
);

export const JobPage = pageOf('JobPage', Job);

export const CreateJob = component(
  'CreateJob',
  Type.Object(
    {
      model: Type.String({ minLength: 1, maxLength: 200, description: 'mdl_…', examples: ['mdl_01j9z3k5m7p9r2t4v6w8y0a1b2'] }),
      recipe: Type.Optional({ ...Recipe, description: 'One recipe; or several in `recipes`.' }),
      recipes: Type.Optional(Type.Array(Recipe, { minItems: 1, maxItems: LIMITS.recipesPerJob })),
      calibration: Type.Optional(nullable(Type.String({ minLength: 1, maxLength: 200, description: 'dst_…; a static recipe needs it.' }))),
      evaluation: Type.Optional(nullable(Type.String({ minLength: 1, maxLength: 200, description: 'dst_…' }))),
      metric: Type.Optional(
        Type.Union([Type.Enum(METRICS), Metric, Type.Null()], { description: 'A name or more; by default what the data allows.' }),
      ),
      deviceProfiles: Type.Optional(
        Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
          minItems: 1,
          maxItems: LIMITS.profilesPerJob,
          description: 'Names or ids; the first is the target. ["host"] by default.',
        }),
      ),
      maxAccuracyDrop: Type.Optional(Type.Number({ minimum: 0, maximum: 1000, description: 'In the metric’s unit; 0.01 by default.' })),
      shapes: Type.Optional(
        Type.Record(Type.String({ maxLength: 65_536 }), Type.Integer({ minimum: 1, maximum: 1_000_000_000 }), {
          description: 'Sizes of free dimensions, where there is no data to take them from.',
        }),
      ),
      seed: Type.Optional(Type.Integer({ minimum: 0, maximum: 2_147_483_647 })),
      webhook: Type.Optional(nullable(Type.String({ minLength: 1, maxLength: 200, description: 'whe_…, called when the job ends.' }))),
    },
    { additionalProperties: false },
  ),
);
export type CreateJob = Static<typeof CreateJob>;

shows<JobView, Static<typeof Job>>();
shows<VariantView, Static<typeof Variant>>();
