/** The machine this process may use: its processor, and the cores and memory that cpusets and control groups leave it. */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { cpuFeatures } from '../../native/index.ts';
import type { Machine } from '../domain/profile.ts';

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

/** "0-3,8" → [0, 1, 2, 3, 8], as the kernel writes sets of processors. */
export function parseCpuList(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part.trim());
    if (!match) return [];
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
  });
}

/** Folders of this process's control groups, innermost first: version 2's, or version 1's of one controller. */
function controlGroups(controller: string): string[] {
  const lines = (read('/proc/self/cgroup') ?? '').split('\n').map((line) => line.split(':'));
  const v2 = lines.find(([id, names]) => id === '0' && names === '');
  const v1 = lines.find(([, names]) => names?.split(',').includes(controller));
  const [root, path] = v1 ? [`/sys/fs/cgroup/${controller}`, v1[2]] : ['/sys/fs/cgroup', v2?.[2]];
  const folders: string[] = [];
  const parts = (path ?? '/').split('/').filter((part) => part !== '' && part !== '..');
  for (let n = parts.length; n >= 0; n--) folders.push([root, ...parts.slice(0, n)].join('/'));
  return folders;
}

/** Cores' worth of time that the control groups allow; Infinity = no quota. */
function cpuQuota(): number {
  const quotas = controlGroups('cpu').map((folder) => {
    const v2 = read(`${folder}/cpu.max`)?.split(' ');
    const [quota, period] = v2 ?? [read(`${folder}/cpu.cfs_quota_us`), read(`${folder}/cpu.cfs_period_us`)];
    const cores = Number(quota) / Number(period);
    return quota && period && Number(quota) > 0 && Number.isFinite(cores) ? cores : Number.POSITIVE_INFINITY;
  });
  return Math.min(Number.POSITIVE_INFINITY, ...quotas);
}

function memoryLimit(): number {
  const limits = controlGroups('memory').map((folder) => Number(read(`${folder}/memory.max`) ?? read(`${folder}/memory.limit_in_bytes`)));
  return Math.min(os.totalmem(), ...limits.filter((limit) => Number.isFinite(limit) && limit > 0));
}

/** Processors that this process may be scheduled on. */
function allowedCpus(): number[] | null {
  const list = /^Cpus_allowed_list:\s*(.+)$/m.exec(read('/proc/self/status') ?? '')?.[1];
  return list === undefined ? null : parseCpuList(list);
}

/**
 * Physical cores that this process may use: different (package, core) pairs among the processors it may be scheduled on, and no
 * more than its CPU quota, rounded up. Where the kernel tells no topology, the logical ones. At least 1.
 */
export function physicalCores(): number {
  const cpus = allowedCpus();
  const cores = new Set<string>();
  for (const cpu of cpus ?? []) {
    const topology = `/sys/devices/system/cpu/cpu${cpu}/topology`;
    const id = read(`${topology}/core_id`);
    if (id !== null) cores.add(`${read(`${topology}/physical_package_id`)}:${id}`);
  }
  const count = cores.size > 0 ? cores.size : (cpus?.length ?? os.availableParallelism());
  return Math.max(1, Math.min(count, Math.ceil(cpuQuota())));
}

function cpuName(): string {
  const name = /^(?:model name|Model|Hardware)\s*:\s*(.+)$/m.exec(read('/proc/cpuinfo') ?? '')?.[1] ?? os.cpus()[0]?.model;
  return name?.replace(/\s+/g, ' ').trim() || 'unknown';
}

/** What device profiles and reports say about this machine. `onnxRuntimeVersion`: a Runner's `version`. */
export function detectMachine(onnxRuntimeVersion: string): Machine {
  return {
    cpu: cpuName(),
    architecture: process.arch,
    instructionSets: cpuFeatures(),
    physicalCores: physicalCores(),
    logicalCores: allowedCpus()?.length ?? os.availableParallelism(),
    memoryBytes: memoryLimit(),
    onnxRuntimeVersion,
  };
}
