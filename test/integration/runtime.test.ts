/** What the compiled runtime does to the machine around it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { single } from '../acceptance/support/models.ts';
import { built } from './store/support.ts';

// The published library would leave an identifier and a database of reports in the home directory, and send them.
it('opens and runs a model and reports nothing to anyone', () => {
  const folder = mkdtempSync(join(tmpdir(), 'halftone-quiet-'));
  try {
    const model = join(folder, 'model.onnx');
    writeFileSync(model, single('Relu'));
    const home = mkdtempSync(join(folder, 'home-'));
    const program = `const { createRunner } = await import(${JSON.stringify(built('src/runtime/runner.js'))});
      const session = await createRunner().open(${JSON.stringify(model)}, { threads: 1 });
      await session.run({ x: { type: 'float32', dims: [2, 4], bytes: new Uint8Array(32) } });
      session.close();`;
    // Not the suite's environment: CI's own variable would keep the library quiet.
    const env = { PATH: process.env.PATH, HOME: home, TMPDIR: home, XDG_CACHE_HOME: home };
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { env, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
    expect(readdirSync(home, { recursive: true })).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
