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
  /** Whether float16 models may be made for it. */
  float16: boolean;
  /** Labels that a worker must carry (WORKER_LABELS) to measure this profile; empty = any worker. */
  workers: string[];
  /** Free dimensions of a model without data: name → size. */
  shapes: Record<string, number>;
  machine: Machine | null;
}

/** Whether ONNX Runtime computes in float16 on this machine: elsewhere it puts a Cast around each operator (runtime.md, 6), and storing weights in float16 is the faster form. */
export function hasFloat16Kernels(machine: Machine): boolean {
  return machine.architecture === 'arm64' && machine.instructionSets.includes('asimdhp');
}
