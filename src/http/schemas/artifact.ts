import { type Static, Type } from 'typebox';
import type { ArtifactView } from '../../services/artifacts.ts';
import { bytes, component, dateTime, id, sha256, shows } from './common.ts';

export const Artifact = component(
  'Artifact',
  Type.Object({
    id: id('artifact'),
    job: id('job'),
    variant: id('variant'),
    model: id('model'),
    sizeBytes: bytes('Of what href sends.'),
    sha256: sha256('Of what href sends.'),
    href: Type.String(),
    files: Type.Array(
      Type.Object({ path: Type.String(), sha256: sha256('Of the file.'), sizeBytes: bytes('Of the file.'), href: Type.String() }),
      { description: 'The model first, then its external data.' },
    ),
    manifest: Type.Record(Type.String(), Type.Unknown(), { description: 'Input, recipe, data, versions, CPU, seed, hashes.' }),
    createdAt: dateTime('When it was published.'),
  }),
);

shows<ArtifactView, Static<typeof Artifact>>();
