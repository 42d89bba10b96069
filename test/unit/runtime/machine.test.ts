import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync } from 'node:fs';
import os from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadLibrary } from '../../../src/runtime/library.ts';
import { detectMachine, parseCpuList, physicalCores } from '../../../src/runtime/machine.ts';
import { createRunner } from '../../../src/runtime/runner.ts';
import { probeSaturation } from '../../../src/runtime/saturation.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const built = join(root, 'dist', 'src', 'runtime');
const linux = process.platform === 'linux';
const compiler = 'g++';
const has = (tool: string) => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0;
/** What `source` writes in a process of its own, with the built modules `runner`, `machine`, `library`, `saturation` imported. */
const inNode = (source: string, prefix: string[] = [], env: NodeJS.ProcessEnv = process.env) => {
  const imports = ['runner', 'machine', 'library', 'saturation'].map(
    (name) => `import * as ${name} from ${JSON.stringify(`file://${built}/${name}.js`)};`,
  );
  const [command, ...args] = [...prefix, process.execPath, '--input-type=module', '-e', `${imports.join('')}${source}`];
  return execFileSync(command!, args, { env, encoding: 'utf8' }).trim();
};

describe('detectMachine', () => {
  const machine = detectMachine('1.2.3');
  it('agrees with the system', () => {
    expect(machine).toMatchObject({ architecture: process.arch, onnxRuntimeVersion: '1.2.3' });
    expect(machine.cpu.length).toBeGreaterThan(2);
    expect(machine.physicalCores).toBeGreaterThanOrEqual(1);
    expect(machine.physicalCores).toBeLessThanOrEqual(machine.logicalCores);
    expect(machine.memoryBytes).toBeGreaterThan(100e6);
    expect(machine.memoryBytes).toBeLessThanOrEqual(os.totalmem());
  });
  it.skipIf(!linux || !has('nproc'))('counts the processors that nproc counts', () => {
    expect(machine.logicalCores).toBe(Number(execFileSync('nproc', { encoding: 'utf8' })));
  });
  it.skipIf(!linux || process.arch !== 'x64')('names instruction sets as the kernel does', () => {
    const flags = new Set(/^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))![1]!.split(' '));
    for (const name of ['avx2', 'fma', 'avx512f', 'avx512_vnni', 'avx_vnni'])
      expect(machine.instructionSets.includes(name), name).toBe(flags.has(name));
  });
  it.skipIf(!linux || !has('taskset') || !existsSync(join(built, 'machine.js')))('counts only what it may be scheduled on', () => {
    const cpu = parseCpuList(/^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]!)[0]!;
    expect(inNode('console.log(machine.physicalCores())', ['taskset', '-c', String(cpu)])).toBe('1');
    expect(physicalCores()).toBe(machine.physicalCores);
  });
});

it('reads the kernel’s sets of processors', () => {
  expect(parseCpuList('0-3,8,10-11')).toEqual([0, 1, 2, 3, 8, 10, 11]);
  expect(parseCpuList('5')).toEqual([5]);
  expect(parseCpuList('')).toEqual([]);
});

describe('probeSaturation', () => {
  it('says what this processor’s instruction sets say', async () => {
    const { instructionSets } = detectMachine('');
    const exact =
      process.arch === 'arm64' ||
      instructionSets.some((name) => name === 'avx512_vnni' || name === 'avx_vnni') ||
      !instructionSets.includes('avx2');
    expect(await probeSaturation(createRunner())).toBe(!exact);
  });

  // ../shared/processors: a copy of the library whose CPUID instructions trap, and a handler that hides VNNI from it.
  const shared = join(root, '..', 'shared', 'processors');
  const can =
    linux &&
    process.arch === 'x64' &&
    existsSync(join(shared, 'mask.py')) &&
    ['objdump', compiler, 'python3'].every(has) &&
    existsSync(join(built, 'saturation.js'));
  it.skipIf(!can)(
    'is true on the kernels of a processor without VNNI (needs ../shared/processors, objdump, g++)',
    { timeout: 120_000 },
    () => {
      const library = loadLibrary();
      // Patching takes 12 s: the copy is kept for the next time.
      const cache = join(os.tmpdir(), `halftone-masked-${library.version}`);
      const masked = join(cache, 'libonnxruntime.so.1');
      mkdirSync(cache, { recursive: true });
      if (!existsSync(masked)) {
        const making = mkdtempSync(join(cache, 'making-'));
        execFileSync('python3', [join(shared, 'mask.py'), library.path, join(making, 'lib')]);
        execFileSync(compiler, ['-O2', '-shared', '-fPIC', '-DPRELOAD', join(shared, 'maskcpu.cpp'), '-o', join(making, 'maskcpu.so')]);
        renameSync(join(making, 'maskcpu.so'), join(cache, 'maskcpu.so'));
        renameSync(join(making, 'lib'), masked);
      }
      const source = `console.log(await saturation.probeSaturation(runner.createRunner(library.loadLibrary(${JSON.stringify(masked)}))))`;
      const under = (mask: string) => inNode(source, [], { ...process.env, LD_PRELOAD: join(cache, 'maskcpu.so'), MASK: mask });
      expect(under('avx2')).toBe('true');
      expect(under('none')).toBe(String(detectMachine('').instructionSets.every((name) => !name.endsWith('_vnni'))));
    },
  );
});
