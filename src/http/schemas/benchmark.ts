import { type Static, Type } from 'typebox';
import type { BenchmarkView } from '../../services/benchmarks.ts';
import { component, dateTime, id, nullable, pageOf, ref, shows } from './common.ts';
import { Benchmark } from './job.ts';
import { Recipe } from './recipe.ts';

const BenchmarkRow = component(
  'BenchmarkRow',
  Type.Object({
    ...Benchmark.properties,
    model: id('model'),
    job: id('job'),
    variant: id('variant'),
    artifact: nullable(id('artifact')),
    recipe: nullable(ref(Recipe)),
    createdAt: dateTime('When it was measured.'),
  }),
);
export const BenchmarkPage = pageOf('BenchmarkPage', BenchmarkRow);

shows<BenchmarkView, Static<typeof BenchmarkRow>>();
