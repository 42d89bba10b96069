import { LIMITS } from './limits.ts';
import type { DeviceProfile, Machine } from './profile.ts';
import { GRANULARITIES, INTEGER_TYPES } from './recipe.ts';

type Profile = Omit<DeviceProfile, 'id' | 'builtIn'>;

/** The profiles that every service has: this machine as it is, and limited ones. `machine`: null until a worker has told. */
export function builtInProfiles(machine: Machine | null): Profile[] {
  const host: Profile = {
    name: 'host',
    executionProvider: 'cpu',
    threads: null,
    memoryLimitBytes: null,
    allowedWeightTypes: [...INTEGER_TYPES],
    allowedActivationTypes: [...INTEGER_TYPES],
    allowedGranularities: [...GRANULARITIES],
    requireSymmetricActivations: false,
    highestOpset: LIMITS.newestOpset,
    float16: true,
    workers: [],
    shapes: {},
    machine,
  };
  return [
    host,
    { ...host, name: 'host-1-thread', threads: 1 },
    // As small boards have it: one thread, half a gigabyte for the model's process.
    { ...host, name: 'host-1-thread-512mb', threads: 1, memoryLimitBytes: 512 * 1024 ** 2 },
  ];
}
