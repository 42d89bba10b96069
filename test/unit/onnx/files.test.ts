import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import { makeNode } from '../../../src/onnx/graph.ts';
import { DataType, type Model } from '../../../src/onnx/model.ts';
import { ProtoWriter } from '../../../src/onnx/protobuf.ts';
import { parseModel, parseModelHeaders, readModel } from '../../../src/onnx/reader.ts';
import { summarizeModel } from '../../../src/onnx/summary.ts';
import { floatTensor, int64Tensor, tensorBytes } from '../../../src/onnx/tensor.ts';
import { serializeModel, writeModel } from '../../../src/onnx/writer.ts';
import { floats, graphOf, modelOf, run, temporaryFolder, value } from './build.ts';

const folder = temporaryFolder();
let files = 0;
const freshFolder = (): string => {
  const path = join(folder, String(files++));
  mkdirSync(path);
  return path;
};

/** y = reshape(x · w + b): a large tensor, a small one, and one that shape inference needs. */
function affine(): Model {
  const weights = Float32Array.from({ length: 600 * 500 }, (_, i) => Math.sin(i));
  return modelOf(
    graphOf({
      inputs: [value('x', ['N', 600])],
      outputs: [value('y', ['N', 500, 1])],
      initializers: [
        floatTensor('w', weights, [600, 500]),
        floatTensor('b', new Float32Array(500).fill(0.5)),
        int64Tensor('shape', [-1, 500, 1]),
      ],
      nodes: [makeNode('MatMul', ['x', 'w'], ['p']), makeNode('Add', ['p', 'b'], ['q']), makeNode('Reshape', ['q', 'shape'], ['y'])],
    }),
  );
}
const feeds = { x: floats([2, 600]) };
const failure = async (work: () => unknown): Promise<HalftoneError> => {
  try {
    await work();
  } catch (error) {
    if (error instanceof HalftoneError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
};

describe('writing', () => {
  it('gives what serializeModel gives, with its hash, and the same bytes each time', async () => {
    const dir = freshFolder();
    const { files: written } = await writeModel(affine(), join(dir, 'm.onnx'));
    const bytes = readFileSync(join(dir, 'm.onnx'));
    expect(bytes.equals(Buffer.from(serializeModel(affine())))).toBe(true);
    expect(written).toEqual([
      { path: join(dir, 'm.onnx'), name: 'm.onnx', sizeBytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') },
    ]);
    expect(readdirSync(dir)).toEqual(['m.onnx']);
  });

  it('over the file that it was read from', async () => {
    const path = join(freshFolder(), 'm.onnx');
    await writeModel(affine(), path);
    const before = readFileSync(path);
    const model = await readModel(path);
    model.producerName = 'another';
    await writeModel(model, path);
    const again = await readModel(path);
    expect(again.producerName).toBe('another');
    again.producerName = 'test';
    expect(Buffer.from(serializeModel(again)).equals(before)).toBe(true);
  });

  it('leaves nothing behind where it fails', async () => {
    const dir = freshFolder();
    const model = affine();
    model.graph.initializers.get('w')!.data = { kind: 'file', path: join(dir, 'gone.bin'), offset: 0, length: 600 * 500 * 4 };
    await expect(writeModel(model, join(dir, 'm.onnx'))).rejects.toThrow('ENOENT');
    expect(readdirSync(dir)).toEqual([]);
  });
});

describe('external data', () => {
  it('is used where asked for, aligned, and runs as before', async () => {
    const dir = freshFolder();
    const { files: written } = await writeModel(affine(), join(dir, 'm.onnx'), { externalDataThresholdBytes: 1024 });
    expect(written.map(({ name }) => name)).toEqual(['m.onnx', 'm.onnx.data']);
    for (const { path, sizeBytes, sha256 } of written) {
      expect(sizeBytes).toBe(statSync(path).size);
      expect(sha256).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'));
    }
    const model = await readModel(join(dir, 'm.onnx'));
    const data = model.graph.initializers.get('w')!.data;
    const small = model.graph.initializers.get('b')!.data;
    if (data.kind !== 'file' || small.kind !== 'file') throw new Error('not external');
    expect(data.offset % 4096).toBe(0);
    expect(small.offset % 64).toBe(0);
    expect(model.graph.initializers.get('shape')!.data.kind).toBe('bytes');
    const expected = await run(affine(), feeds);
    expect((await run(join(dir, 'm.onnx'), feeds)).y).toEqual(expected.y);
    // Read with external data, written without.
    expect(Buffer.from(serializeModel(model)).equals(Buffer.from(serializeModel(affine())))).toBe(true);
    await writeModel(model, join(dir, 'one.onnx'));
    expect(readFileSync(join(dir, 'one.onnx')).equals(Buffer.from(serializeModel(affine())))).toBe(true);
  });

  it('comes by itself where the model grows too large for protobuf', async () => {
    const dir = freshFolder();
    const { files: written } = await writeModel(affine(), join(dir, 'm.onnx'), { inlineLimitBytes: 100_000 });
    expect(written.map(({ name }) => name)).toEqual(['m.onnx', 'm.onnx.data']);
    expect(written[0]!.sizeBytes).toBeLessThan(1000);
    expect((await run(join(dir, 'm.onnx'), feeds)).y).toEqual((await run(affine(), feeds)).y);
  });

  it('is described within a limit, as every answer holds the description', async () => {
    const model = affine();
    const path = join(freshFolder(), 'm.onnx');
    for (let i = 0; i < 20_000; i++) model.graph.inputs.push(value(`unused_${i}`, ['batch', 'heads', 64]));
    await writeModel(model, path);
    const error = await failure(() => summarizeModel(path));
    expect([error.code, error.detail]).toEqual(['model-limit-exceeded', expect.stringContaining('20001 inputs')]);
    model.graph.inputs.length = 500;
    await writeModel(model, path);
    expect((await summarizeModel(path)).inputs).toHaveLength(500);
  });

  it('is listed by a summary without being there', async () => {
    const dir = freshFolder();
    await writeModel(affine(), join(dir, 'm.onnx'), { externalDataThresholdBytes: 1024, externalFileName: 'weights.bin' });
    const alone = join(freshFolder(), 'm.onnx');
    writeFileSync(alone, readFileSync(join(dir, 'm.onnx')));
    expect(await summarizeModel(alone)).toMatchObject({ externalFiles: ['weights.bin'], parameters: 300_500, opset: 13 });
    const error = await failure(() => readModel(alone));
    expect(error.code).toBe('external-data-missing');
    expect(error.detail).toContain('weights.bin');
    // Elsewhere, where told.
    expect((await readModel(alone, { externalDir: dir })).graph.initializers.size).toBe(3);
  });

  /** A model with one tensor of 16 bytes at these external-data entries. */
  const pointing = (entries: Record<string, string>): Uint8Array => {
    const w = new ProtoWriter();
    w.int64(1, 8);
    w.message(7, (g) => {
      g.message(1, (n) => n.string(1, 't').string(2, 'y').string(4, 'Identity'));
      g.message(5, (t) => {
        t.int64(1, 4).int64(2, DataType.FLOAT).string(8, 't');
        for (const [key, text] of Object.entries(entries)) t.message(13, (entry) => entry.string(1, key).string(2, text));
        t.int64(14, 1);
      });
      g.message(12, (o) => o.string(1, 'y'));
    });
    w.message(8, (opset) => opset.int64(2, 13));
    return Buffer.concat(w.parts().map((part) => part as Uint8Array));
  };

  it.each([
    ['/etc/passwd'],
    ['../outside.bin'],
    ['a/../../outside.bin'],
    ['..\\outside.bin'],
    ['C:\\Windows\\system.ini'],
    ['\\\\server\\share'],
    ['a\0b'],
    [''],
    ['.'],
    ['a/..'],
  ])('does not leave the folder: %j', async (location) => {
    const dir = freshFolder();
    expect((await failure(() => parseModel(pointing({ location }), { path: join(dir, 'm.onnx') }))).code).toBe('external-data-path');
    expect((await failure(() => parseModelHeaders(pointing({ location })))).code).toBe('external-data-path');
  });

  it('does not leave the folder by a link', async () => {
    const [dir, outside] = [freshFolder(), freshFolder()];
    writeFileSync(join(outside, 'secret'), new Uint8Array(16));
    symlinkSync(join(outside, 'secret'), join(dir, 'link'));
    symlinkSync(outside, join(dir, 'dirlink'));
    for (const location of ['link', 'dirlink/secret']) {
      expect((await failure(() => parseModel(pointing({ location }), { externalDir: dir }))).code).toBe('external-data-path');
    }
  });

  it('takes a file in a subfolder, and one that a link inside leads to', () => {
    const dir = freshFolder();
    mkdirSync(join(dir, 'sub'));
    writeFileSync(join(dir, 'sub', 'a.bin'), new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
    symlinkSync(join(dir, 'sub', 'a.bin'), join(dir, 'link'));
    for (const location of ['sub/a.bin', './sub//a.bin', 'sub/../sub/a.bin', 'link']) {
      const tensor = parseModel(pointing({ location }), { externalDir: dir }).graph.initializers.get('t')!;
      expect(new Float32Array(tensorBytes(tensor).slice().buffer)).toEqual(Float32Array.of(1, 2, 3, 4));
    }
  });

  it('is missing, or a folder', async () => {
    const dir = freshFolder();
    mkdirSync(join(dir, 'sub'));
    for (const location of ['no.bin', 'sub', 'sub/no.bin']) {
      expect((await failure(() => parseModel(pointing({ location }), { externalDir: dir }))).code).toBe('external-data-missing');
    }
    expect((await failure(() => parseModel(pointing({ location: 'a.bin' })))).code).toBe('external-data-missing');
  });

  it.each([
    [{ offset: '8' }],
    [{ length: '12' }],
    [{ offset: '4', length: '16' }],
    [{ offset: '-4' }],
    [{ offset: '1e3' }],
    [{ offset: '9007199254740993' }],
    [{ length: 'sixteen' }],
    [{ offset: '100' }],
  ])('does not go beyond its file: %j', async (entries) => {
    const dir = freshFolder();
    writeFileSync(join(dir, 'a.bin'), new Uint8Array(16));
    expect((await failure(() => parseModel(pointing({ location: 'a.bin', ...entries }), { externalDir: dir }))).code).toBe(
      'external-data-range',
    );
  });

  it('a length that is not the tensor’s is found in the headers alone', async () => {
    expect((await failure(() => parseModelHeaders(pointing({ location: 'a.bin', length: '12' })))).code).toBe('external-data-range');
  });

  it('a model file that no runtime could read is refused by its size', async () => {
    const path = join(freshFolder(), 'm.onnx');
    writeFileSync(path, '');
    truncateSync(path, 2 ** 31);
    expect((await failure(() => readModel(path))).code).toBe('model-limit-exceeded');
    expect((await failure(() => summarizeModel(path))).code).toBe('model-limit-exceeded');
  });
});
