import { type Static, Type } from 'typebox';
import type { ModelView } from '../../services/models.ts';
import { bytes, component, dateTime, id, nullable, pageOf, sha256, shows } from './common.ts';

const value = Type.Object({
  name: Type.String(),
  type: Type.String({
    description: 'As numpy names it; other for what is no plain tensor, unknown where the file leaves an output’s type to inference.',
  }),
  shape: nullable(
    Type.Array(Type.Union([Type.Integer(), Type.String(), Type.Null()]), {
      description: 'A size, a name, or null where neither is known; null as a whole where the rank is not known.',
    }),
  ),
});

const StoredFile = Type.Object({ path: Type.String(), sha256: sha256('Of the file.'), sizeBytes: bytes('Of the file.') });

export const Model = component(
  'Model',
  Type.Object({
    id: id('model'),
    name: Type.String(),
    sha256: sha256('Of the model file.'),
    sizeBytes: bytes('Of all files.'),
    files: Type.Array(StoredFile, { description: 'The model file first, then its external data.' }),
    opset: Type.Integer({ description: 'Of the default domain.' }),
    irVersion: Type.Integer(),
    producer: Type.String({ description: 'What wrote the file, and its version.' }),
    parameters: Type.Integer({ description: 'Values in float initializers.' }),
    inputs: Type.Array(value),
    outputs: Type.Array(value),
    operators: Type.Record(Type.String(), Type.Integer(), { description: 'Operator → nodes.' }),
    quantizable: Type.Object({
      operators: Type.Record(Type.String(), Type.Integer(), { description: 'Operators with an integer kernel → nodes.' }),
      note: Type.String({ description: 'What to expect, in a sentence.' }),
    }),
    alreadyQuantized: Type.Boolean(),
    createdAt: dateTime('When it was uploaded.'),
  }),
);
export const ModelPage = pageOf('ModelPage', Model);

shows<ModelView, Static<typeof Model>>();
