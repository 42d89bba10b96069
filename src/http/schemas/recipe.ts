import { Type } from 'typebox';
import { METRICS } from '../../domain/job.ts';
import { CALIBRATIONS, FORMATS, GRANULARITIES, INTEGER_TYPES, METHODS } from '../../domain/recipe.ts';
import { component } from './common.ts';

const names = (description: string) => Type.Array(Type.String({ minLength: 1, maxLength: 65_536 }), { maxItems: 10_000, description });

export const Recipe = component(
  'Recipe',
  Type.Object(
    {
      method: Type.Enum(METHODS),
      weights: Type.Optional(
        Type.Object(
          {
            type: Type.Optional(Type.Enum(INTEGER_TYPES, { description: 'int8 by default.' })),
            granularity: Type.Optional(
              Type.Enum(GRANULARITIES, { description: 'channel by default. block is for weight-only recipes, which do not exist yet.' }),
            ),
            symmetric: Type.Optional(Type.Boolean({ description: 'true by default.' })),
          },
          { additionalProperties: false },
        ),
      ),
      activations: Type.Optional(
        Type.Object(
          {
            type: Type.Optional(Type.Enum(INTEGER_TYPES, { description: 'uint8 by default.' })),
            symmetric: Type.Optional(Type.Boolean({ description: 'false by default.' })),
            calibration: Type.Optional(
              Type.Enum(CALIBRATIONS, { description: 'How ranges are chosen; by default each tensor takes what has the least error.' }),
            ),
          },
          { additionalProperties: false },
        ),
      ),
      exclude: Type.Optional(
        Type.Object(
          {
            names: Type.Optional(names('Node names.')),
            patterns: Type.Optional(names('Patterns of node names; * stands for any characters.')),
            operators: Type.Optional(names('Operators, as Conv.')),
          },
          { additionalProperties: false, description: 'Layers that stay in float.' },
        ),
      ),
      format: Type.Optional(Type.Enum(FORMATS, { description: 'qdq by default.' })),
    },
    { additionalProperties: false, description: 'How to quantize. Everything but the method has a good default.' },
  ),
);

export const Metric = component(
  'Metric',
  Type.Object(
    {
      name: Type.Enum(METRICS),
      output: Type.Optional(
        Type.String({ minLength: 1, maxLength: 65_536, description: 'The output that is judged; the first by default.' }),
      ),
      blank: Type.Optional(Type.Integer({ minimum: 0, description: 'CTC’s blank class; 0 by default.' })),
    },
    { additionalProperties: false },
  ),
);
