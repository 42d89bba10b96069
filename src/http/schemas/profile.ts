import { type Static, Type } from 'typebox';
import { GRANULARITIES, INTEGER_TYPES } from '../../domain/recipe.ts';
import type { ProfileView } from '../../services/profiles.ts';
import { component, dateTime, id, nullable, pageOf, shows } from './common.ts';

const label = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' });
const profileName = Type.String({
  pattern: '^[a-z0-9][a-z0-9._-]{0,62}$',
  description: 'Lower-case letters, digits, dots, dashes, underscores; unique.',
});
const machine = Type.Object(
  {
    cpu: Type.String(),
    architecture: Type.String(),
    instructionSets: Type.Array(Type.String()),
    physicalCores: Type.Integer(),
    logicalCores: Type.Integer(),
    memoryBytes: Type.Integer(),
    onnxRuntimeVersion: Type.String(),
  },
  { description: 'The machine that measures it, as detected.' },
);

const fields = {
  executionProvider: Type.Literal('cpu'),
  threads: nullable(Type.Integer({ minimum: 1, maximum: 1024, description: 'Inside one operator; null = all physical cores.' })),
  memoryLimitBytes: nullable(Type.Integer({ minimum: 1, description: 'Peak resident memory that a model may take; null = no limit.' })),
  allowedWeightTypes: Type.Array(Type.Enum(INTEGER_TYPES), { maxItems: 16 }),
  allowedActivationTypes: Type.Array(Type.Enum(INTEGER_TYPES), { maxItems: 16 }),
  allowedGranularities: Type.Array(Type.Enum(GRANULARITIES), { maxItems: 16 }),
  requireSymmetricActivations: Type.Boolean(),
  highestOpset: Type.Integer({ minimum: 7, maximum: 24 }),
  float16: Type.Boolean({ description: 'Whether float16 models are taken.' }),
  workers: Type.Array(label, {
    maxItems: 16,
    description: 'Labels that a worker must carry (WORKER_LABELS) to measure it; empty = any worker.',
  }),
  shapes: Type.Record(Type.String({ maxLength: 65_536 }), Type.Integer({ minimum: 1, maximum: 1_000_000_000 }), {
    description: 'Sizes of free dimensions, where there is no data to take them from.',
  }),
};

export const DeviceProfile = component(
  'DeviceProfile',
  Type.Object({
    id: id('profile'),
    name: Type.String(),
    builtIn: Type.Boolean(),
    ...fields,
    machine: nullable(machine),
    createdAt: dateTime('When it was made.'),
  }),
);
export const DeviceProfilePage = pageOf('DeviceProfilePage', DeviceProfile);

export const CreateDeviceProfile = component(
  'CreateDeviceProfile',
  Type.Object(
    { name: profileName, ...Object.fromEntries(Object.entries(fields).map(([name, schema]) => [name, Type.Optional(schema)])) },
    { additionalProperties: false, description: 'What is left out is as in `host`.' },
  ),
);

shows<ProfileView, Static<typeof DeviceProfile>>();
