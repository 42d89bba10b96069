import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HalftoneError } from '../../../src/domain/errors.ts';
import { LIMITS } from '../../../src/domain/limits.ts';
import { DataType, type Model } from '../../../src/onnx/model.ts';
import { ProtoReader, ProtoWriter, readInt64 } from '../../../src/onnx/protobuf.ts';
import { parseModel } from '../../../src/onnx/reader.ts';
import { floatData, intData } from '../../../src/onnx/tensor.ts';
import { serializeModel } from '../../../src/onnx/writer.ts';

/** What one call wrote. */
function message(write: (w: ProtoWriter) => void): Uint8Array {
  const w = new ProtoWriter();
  write(w);
  return Buffer.concat(w.parts().map((part) => part as Uint8Array));
}

/** A model file with a graph as `write` says. */
const fileWith = (write: (graph: ProtoWriter) => void): Uint8Array =>
  message((w) => {
    w.int64(1, 8);
    w.message(7, write);
    w.message(8, (opset) => opset.int64(2, 13));
  });

const codeOf = (bytes: Uint8Array): string => {
  try {
    parseModel(bytes);
    return 'no error';
  } catch (error) {
    if (!(error instanceof HalftoneError)) throw error;
    return error.code;
  }
};
const detailOf = (bytes: Uint8Array): string => {
  try {
    parseModel(bytes);
  } catch (error) {
    return (error as HalftoneError).detail;
  }
  return '';
};

/** A node that needs nothing. */
const node = (graph: ProtoWriter, opType = 'Relu') =>
  graph.message(1, (w) => {
    w.string(1, 'x');
    w.string(2, 'y');
    w.string(4, opType);
  });

const tensorWith = (write: (tensor: ProtoWriter) => void): Model =>
  parseModel(fileWith((graph) => graph.message(5, (w) => write(w.string(8, 't')))));

describe('wire format', () => {
  it('reads back every int64', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (number) => {
        const bytes = message((w) => w.int64(1, number));
        const r = new ProtoReader(bytes);
        expect(r.next()).toBe(true);
        expect(readInt64(bytes, r.start, r.end)).toBe(number);
      }),
    );
  });

  it('never fails otherwise than with HalftoneError, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          const r = new ProtoReader(bytes);
          while (r.next()) r.raw();
        } catch (error) {
          expect(error).toBeInstanceOf(HalftoneError);
        }
      }),
    );
  });
});

describe('what is not ONNX', () => {
  it.each([
    ['an empty file', ''],
    ['text', 'Hello, this is not a model at all.\n'],
    ['JSON', '{"model": [1, 2, 3]}'],
    ['a zip', 'PK\x03\x04\x14\x00\x00\x00\x08\x00abcdefgh'],
    ['a PNG', '\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR'],
    ['a TFLite file', '\x1c\x00\x00\x00TFL3\x14\x00\x20\x00'],
    ['an HDF5 file', '\x89HDF\r\n\x1a\n\x00\x00\x00\x00'],
    ['a pickle', '\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05torch'],
    ['numpy', '\x93NUMPY\x01\x00v\x00{'],
    ['zeros', '\0'.repeat(100)],
  ])('%s', (_, text) => {
    expect(codeOf(Buffer.from(text, 'latin1'))).toBe('not-onnx');
  });

  it('a TensorFlow SavedModel, which is protobuf as well', () => {
    const saved = message((w) => {
      w.int64(1, 1);
      w.message(2, (graph) => graph.string(1, 'meta'));
    });
    expect(codeOf(saved)).toBe('not-onnx');
  });

  it('a model without a graph', () => {
    expect(
      codeOf(
        message((w) => {
          w.int64(1, 8);
          w.message(8, (opset) => opset.int64(2, 13));
        }),
      ),
    ).toBe('not-onnx');
  });
});

describe('damage', () => {
  const whole = serializeModel(tensorWith((w) => w.int64(1, 3).int64(2, 1).bytes(9, new Uint8Array(12))));

  it('is told at every place where a file may end', () => {
    for (let length = 1; length < whole.length; length++) {
      // Cut between two outermost fields the file is whole, but has no graph or no opset.
      expect(['model-corrupt', 'not-onnx', 'no error']).toContain(codeOf(whole.subarray(0, length)));
    }
    expect(codeOf(whole.subarray(0, whole.length - 20))).toBe('model-corrupt');
    expect(codeOf(whole)).toBe('no error');
  });

  it('names the byte', () => {
    expect(detailOf(whole.subarray(0, 20))).toMatch(/declares \d+ bytes where \d+ are left \(at byte \d+\)/);
  });

  it('a declared size over the file’s', () => {
    const bytes = Buffer.concat([message((w) => w.int64(1, 8)), Buffer.from([0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2])]);
    expect(codeOf(bytes)).toBe('model-corrupt');
  });

  it.each([
    ['too few bytes', (w: ProtoWriter) => w.int64(1, 3).int64(2, 1).bytes(9, new Uint8Array(8))],
    ['no bytes', (w: ProtoWriter) => w.int64(1, 3).int64(2, 1)],
    [
      'an enormous dimension',
      (w: ProtoWriter) =>
        w
          .int64(1, 2n ** 60n)
          .int64(2, 1)
          .bytes(9, new Uint8Array(8)),
    ],
    [
      'dimensions whose product overflows',
      (w: ProtoWriter) =>
        w
          .int64(1, 2 ** 40)
          .int64(1, 2 ** 40)
          .int64(2, 1),
    ],
    ['a negative dimension', (w: ProtoWriter) => w.int64(1, -3).int64(2, 1).bytes(9, new Uint8Array(12))],
    ['an unknown type', (w: ProtoWriter) => w.int64(1, 3).int64(2, 99).bytes(9, new Uint8Array(12))],
    ['no type', (w: ProtoWriter) => w.int64(1, 3).bytes(9, new Uint8Array(12))],
    ['a type that doesn’t go with its field', (w: ProtoWriter) => w.int64(1, 1).int64(2, DataType.INT64).bytes(4, new Uint8Array(8))],
    ['segments', (w: ProtoWriter) => w.int64(2, 1).message(3, (s) => s.int64(1, 0))],
    ['packed numbers that end within one', (w: ProtoWriter) => w.int64(1, 1).int64(2, DataType.INT64).bytes(7, Uint8Array.of(0x80))],
    ['more strings than there should be', (w: ProtoWriter) => w.int64(1, 0).int64(2, DataType.STRING).string(6, 'a')],
  ])('a tensor with %s', (_, write) => {
    expect(() => tensorWith(write)).toThrowError(expect.objectContaining({ code: 'model-corrupt' }));
  });

  it.each([
    ['a node without an operator', (g: ProtoWriter) => g.message(1, (w) => w.string(2, 'y')), 'model-corrupt'],
    ['a node without outputs', (g: ProtoWriter) => g.message(1, (w) => w.string(4, 'Relu')), 'graph-invalid'],
    ['an initializer without a name', (g: ProtoWriter) => g.message(5, (w) => w.int64(1, 0).int64(2, 1)), 'graph-invalid'],
    [
      'a name that isn’t UTF-8',
      (g: ProtoWriter) => g.message(1, (w) => w.bytes(2, Uint8Array.of(0xff, 0xfe)).string(4, 'Relu')),
      'model-corrupt',
    ],
    [
      'a name of megabytes',
      (g: ProtoWriter) => g.message(1, (w) => w.string(2, 'y'.repeat(LIMITS.nameBytes + 1)).string(4, 'Relu')),
      'model-limit-exceeded',
    ],
    [
      '33 dimensions',
      (g: ProtoWriter) =>
        g.message(5, (w) => {
          for (let i = 0; i < 33; i++) w.int64(1, 1);
        }),
      'model-limit-exceeded',
    ],
  ])('%s', (_, write, code) => {
    expect(codeOf(fileWith(write as (g: ProtoWriter) => void))).toBe(code);
  });

  it('two initializers of one name, two attributes of one name', () => {
    const tensor = (w: ProtoWriter) => w.string(8, 't').int64(1, 0).int64(2, 1);
    expect(codeOf(fileWith((g) => g.message(5, tensor).message(5, tensor)))).toBe('graph-invalid');
    const attribute = (w: ProtoWriter) => w.string(1, 'axis').int64(3, 1).int64(20, 2);
    expect(
      codeOf(fileWith((g) => g.message(1, (w) => w.string(2, 'y').string(4, 'Relu').message(5, attribute).message(5, attribute)))),
    ).toBe('graph-invalid');
  });
});

describe('limits', () => {
  it('nesting: graphs in attributes of nodes of graphs', () => {
    let graph = message((w) => node(w));
    for (let i = 0; i < 60; i++) {
      const inner = graph;
      graph = message((g) =>
        g.message(1, (w) => {
          w.string(2, 'y');
          w.string(4, 'If');
          w.message(5, (a) => a.string(1, 'then_branch').bytes(6, inner).int64(20, 5));
        }),
      );
    }
    const bytes = message((w) =>
      w
        .int64(1, 8)
        .bytes(7, graph)
        .message(8, (opset) => opset.int64(2, 13)),
    );
    expect(codeOf(bytes)).toBe('model-limit-exceeded');
  });

  it.each([
    ['nodes', (g: ProtoWriter, i: number) => g.append(Uint8Array.of(0x0a, 8, 0x12, 1, 97 + (i % 26), 0x22, 3, 65, 98, 115))],
    ['empty nodes', (g: ProtoWriter) => g.append(Uint8Array.of(0x0a, 0))],
    ['empty tensors', (g: ProtoWriter) => g.append(Uint8Array.of(0x2a, 0))],
    ['empty inputs', (g: ProtoWriter) => g.append(Uint8Array.of(0x5a, 0))],
    ['nameless value types', (g: ProtoWriter) => g.append(Uint8Array.of(0x6a, 0))],
    ['unknown fields', (g: ProtoWriter) => g.append(Uint8Array.of(0x82, 0x01, 0))],
  ])('a file of nothing but %s costs little more than itself', (_, one) => {
    const bytes = fileWith((g) => {
      for (let i = 0; i < 3_000_000; i++) one(g, i);
    });
    const before = process.memoryUsage();
    const started = performance.now();
    const code = codeOf(bytes);
    const after = process.memoryUsage();
    expect(['model-limit-exceeded', 'model-corrupt', 'graph-invalid', 'no error']).toContain(code);
    expect(performance.now() - started).toBeLessThan(8_000);
    expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(400e6);
  });

  it('numbers in attributes', () => {
    const many = new Uint8Array(LIMITS.attributeNumbers + 1);
    const bytes = fileWith((g) =>
      g.message(1, (w) =>
        w
          .string(2, 'y')
          .string(4, 'Relu')
          .message(5, (a) => a.string(1, 'ints').bytes(8, many).int64(20, 7)),
      ),
    );
    expect(codeOf(bytes)).toBe('model-limit-exceeded');
  });
});

describe('tensors', () => {
  it('typed fields come out as raw_data does', () => {
    const of = (dataType: DataType, count: number, write: (w: ProtoWriter) => void) =>
      tensorWith((w) => {
        w.int64(1, count);
        w.int64(2, dataType);
        write(w);
      }).graph.initializers.get('t')!;
    expect([...floatData(of(DataType.FLOAT, 2, (w) => w.float(4, 1.5).float(4, -2)))]).toEqual([1.5, -2]);
    expect([...floatData(of(DataType.FLOAT, 2, (w) => w.bytes(4, new Uint8Array(Float32Array.of(1.5, -2).buffer))))]).toEqual([1.5, -2]);
    expect([...floatData(of(DataType.DOUBLE, 2, (w) => w.bytes(10, new Uint8Array(Float64Array.of(0.5, 1e10).buffer))))]).toEqual([
      0.5, 1e10,
    ]);
    expect([...floatData(of(DataType.FLOAT16, 2, (w) => w.int64(5, 0x3c00).int64(5, 0xc000)))]).toEqual([1, -2]);
    const packed = (field: number, numbers: (number | bigint)[]) => (w: ProtoWriter) =>
      w.message(field, (inner) => {
        for (const number of numbers) inner.varint(number);
      });
    expect(intData(of(DataType.INT64, 3, packed(7, [-1, 2n ** 40n, 0])))).toEqual([-1, 2 ** 40, 0]);
    expect(intData(of(DataType.INT32, 3, packed(5, [-1, 2 ** 31 - 1, -(2 ** 31)])))).toEqual([-1, 2 ** 31 - 1, -(2 ** 31)]);
    expect(intData(of(DataType.INT8, 3, packed(5, [-1, 127, -128])))).toEqual([-1, 127, -128]);
    expect(intData(of(DataType.UINT8, 3, packed(5, [0, 127, 255])))).toEqual([0, 127, 255]);
    expect(intData(of(DataType.UINT16, 2, packed(5, [65535, 1])))).toEqual([65535, 1]);
    expect(intData(of(DataType.BOOL, 2, packed(5, [1, 0])))).toEqual([1, 0]);
    expect(intData(of(DataType.UINT32, 2, packed(11, [2 ** 32 - 1, 1])))).toEqual([2 ** 32 - 1, 1]);
    expect(intData(of(DataType.UINT64, 1, packed(11, [2n ** 63n])))).toEqual([2 ** 63]);
    // Two elements a byte, a byte a number: −1, 2, −3.
    expect(intData(of(DataType.INT4, 3, packed(5, [0x2f, 0x0d])))).toEqual([-1, 2, -3]);
    expect(of(DataType.STRING, 2, (w) => w.string(6, 'a').string(6, 'ß')).strings?.map((s) => Buffer.from(s).toString())).toEqual([
      'a',
      'ß',
    ]);
  });

  it('raw data is a view of the file, not a copy', () => {
    const bytes = new Uint8Array(
      fileWith((g) =>
        g.message(5, (w) =>
          w
            .string(8, 't')
            .int64(1, 4)
            .int64(2, DataType.UINT8)
            .bytes(9, Uint8Array.of(1, 2, 3, 4)),
        ),
      ),
    );
    const { data } = parseModel(bytes).graph.initializers.get('t')!;
    expect(data.kind === 'bytes' && data.bytes.buffer).toBe(bytes.buffer);
  });
});

describe('what is not understood', () => {
  it('goes out as it came in, at every level', () => {
    const odd = (w: ProtoWriter) => w.string(100, 'unknown').int64(101, 7).float(102, 0.5);
    const bytes = message((w) => {
      w.int64(1, 8);
      w.message(7, (g) => {
        g.message(1, (n) => {
          n.string(1, 'x');
          n.string(2, 'y');
          n.string(4, 'Relu');
          n.message(5, (a) => odd(a.string(1, 'axis').int64(3, 2).int64(20, 2)));
          n.message(9, (entry) => entry.string(1, 'key').string(2, 'value'));
          odd(n);
        });
        g.string(2, 'g');
        g.message(5, (t) =>
          odd(
            t
              .message(1, (dims) => dims.varint(1))
              .int64(2, 2)
              .string(8, 't')
              .bytes(9, Uint8Array.of(9)),
          ),
        );
        g.message(11, (v) => {
          v.string(1, 'x');
          v.message(2, (type) => {
            type.message(1, (tensor) =>
              tensor.int64(1, 1).message(2, (s) => s.message(1, (d) => d.string(2, 'N').string(3, 'DATA_BATCH'))),
            );
            type.string(6, 'IMAGE');
          });
          odd(v);
        });
        // A sequence, which has no tensor type.
        g.message(12, (v) =>
          v.string(1, 'y').message(2, (type) => type.message(4, (s) => s.message(1, (e) => e.message(1, (t) => t.int64(1, 1))))),
        );
        g.message(15, (s) => s.message(1, (t) => t.string(8, 'sparse')));
        odd(g);
      });
      w.message(8, (opset) => opset.int64(2, 13));
      w.message(25, (f) => f.string(1, 'F').string(10, 'local'));
      odd(w);
    });
    expect(Buffer.from(serializeModel(parseModel(bytes))).toString('hex')).toBe(Buffer.from(bytes).toString('hex'));
  });

  it('an attribute without a type is what its field says', () => {
    const model = parseModel(
      fileWith((g) =>
        g.message(1, (w) =>
          w
            .string(2, 'y')
            .string(4, 'Relu')
            .message(5, (a) => a.string(1, 'pads').int64(8, 1).int64(8, -2)),
        ),
      ),
    );
    expect(model.graph.nodes[0]?.attributes.get('pads')).toEqual({ name: 'pads', kind: 'ints', value: [1n, -2n] });
  });
});
