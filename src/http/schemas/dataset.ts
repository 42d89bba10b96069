import { type Static, Type } from 'typebox';
import type { DatasetView } from '../../services/datasets.ts';
import { bytes, component, dateTime, id, nullable, pageOf, sha256, shows } from './common.ts';

export const Dataset = component(
  'Dataset',
  Type.Object({
    id: id('dataset'),
    name: Type.String(),
    sha256: sha256('Of the .npz.'),
    sizeBytes: bytes('Of the .npz.'),
    samples: Type.Integer(),
    arrays: Type.Array(Type.Object({ name: Type.String(), dtype: Type.String(), shape: Type.Array(Type.Integer()) }), {
      description: 'Without the labels.',
    }),
    labels: nullable(Type.Enum(['class', 'sequence'], { description: 'One integer a sample, or sequences padded with −1.' })),
    createdAt: dateTime('When it was uploaded.'),
  }),
);
export const DatasetPage = pageOf('DatasetPage', Dataset);

shows<DatasetView, Static<typeof Dataset>>();
