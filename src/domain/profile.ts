import type { Allowed } from './recipe.ts';

/** The machine a worker runs on, as detected by it. */
export interface Machine {
  cpu: string;
  architecture: string;
  /** Lower-case feature names as the kernel and CPUID call them: avx2, avx512f, avx512_vnni, avx_vnni, asimddp, … */
  instructionSets: string[];
  physicalCores: number;
  logicalCores: number;
  memoryBytes: number;
  onnxRuntimeVersion: string;
}

/** What a device allows and how a model is run on it. */
export interface DeviceProfile extends Allowed {
  /** prf_… */
  id: string;
  name: string;
  builtIn: boolean;
  executionProvider: 'cpu';
  /** Threads inside one operator; null = all physical cores of the machine that measures. */
  threads: number | null;
  /** Peak resident memory that a model may take on the device; null = no limit. */
  memoryLimitBytes: number | null;
  highestOpset: number;
  float16: boolean;
  /** Labels that a worker must carry (WORKER_LABELS) to measure this profile; empty = any worker. */
  workers: string[];
  /** Free dimensions of a model without data: name → size. */
  shapes: Record<string, number>;
  machine: Machine | null;
}
