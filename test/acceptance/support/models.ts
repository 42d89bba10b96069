/** Small models and data with known answers. Everything follows from seeds. */
import * as ort from 'onnxruntime-node';
import { type AttributeValue, externalTensor, graph, model, node, tensor, value } from './onnx.ts';

/** mulberry32, uniform in [−1, 1). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2147483648 - 1;
  };
}
export function random(seed: number, count: number, scale = 1): Float32Array {
  const next = uniform(seed);
  return Float32Array.from({ length: count }, () => next() * scale);
}
/** Weights with He's variance, so that activations neither die nor grow. */
const weights = (seed: number, dims: number[]): Float32Array =>
  random(
    seed,
    dims.reduce((a, b) => a * b, 1),
    Math.sqrt(6 / dims.slice(1).reduce((a, b) => a * b, 1)),
  );

/** Channels, height and width of the classifier's input; its classes. */
export const IMAGE = [3, 24, 24] as const;
export const CLASSES = 6;

export interface ClassifierOptions {
  seed?: number;
  width?: number;
  batch?: number | string;
  hw?: number | string;
  opset?: number;
}
/**
 * A convolutional classifier: [batch, 3, 24, 24] → four convolutions with ReLU, a residual addition, max and average pooling,
 * Gemm → logits [batch, 6]. `seed` makes another model; `width` scales its cost.
 */
export function classifier(options: ClassifierOptions = {}, head?: { w: Float32Array; b: Float32Array } | null): Buffer {
  const seed = options.seed ?? 1;
  const width = options.width ?? 16;
  const batch = options.batch ?? 'batch';
  const side = options.hw ?? IMAGE[1];
  const conv = (name: string, output: string, input: string): Buffer =>
    node('Conv', [input, `${name}.w`, `${name}.b`], [output], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
  const parameters = (name: string, out: number, into: number, index: number): Buffer[] => [
    tensor(`${name}.w`, [out, into, 3, 3], weights(seed * 100 + index, [out, into, 3, 3])),
    tensor(`${name}.b`, [out], random(seed * 100 + 50 + index, out, 0.1)),
  ];
  return model(
    graph('classifier', {
      nodes: [
        conv('c1', 'a1', 'image'),
        node('Relu', ['a1'], ['r1']),
        conv('c2', 'a2', 'r1'),
        node('Relu', ['a2'], ['r2']),
        node('MaxPool', ['r2'], ['p2'], { kernel_shape: [2, 2], strides: [2, 2] }),
        conv('c3', 'a3', 'p2'),
        node('Relu', ['a3'], ['r3']),
        conv('c4', 'a4', 'r3'),
        node('Add', ['a4', 'p2'], ['s4']),
        node('Relu', ['s4'], ['r4']),
        node('GlobalAveragePool', ['r4'], ['g']),
        node('Flatten', ['g'], ['f'], { axis: 1 }),
        node('Gemm', ['f', 'fc.w', 'fc.b'], ['logits'], { transB: 1 }),
      ],
      initializers: [
        ...parameters('c1', width, IMAGE[0], 1),
        ...parameters('c2', width, width, 2),
        ...parameters('c3', width, width, 3),
        ...parameters('c4', width, width, 4),
        tensor('fc.w', [CLASSES, width], head?.w ?? random(seed * 100 + 9, CLASSES * width)),
        tensor('fc.b', [CLASSES], head?.b ?? random(seed * 100 + 10, CLASSES, 0.2)),
      ],
      inputs: [value('image', [batch, IMAGE[0], side, side])],
      outputs: head === null ? [value('f', [batch, width])] : [value('logits', [batch, CLASSES])],
    }),
    { opset: options.opset ?? 17 },
  );
}

/**
 * A classifier whose last layer is fitted to data: logits are random directions through standardised features, so that every
 * class occurs and decisions have margins, as after training. With random weights alone one class would win always.
 */
export async function fitted(options: ClassifierOptions = {}): Promise<Buffer> {
  const width = options.width ?? 16;
  const sample = images(4242, 128);
  const rows = await run(classifier(options, null), sample, 'f');
  const mean = new Float32Array(width);
  const deviation = new Float32Array(width);
  for (const row of rows) for (let i = 0; i < width; i++) mean[i]! += row[i]! / rows.length;
  for (const row of rows) for (let i = 0; i < width; i++) deviation[i]! += (row[i]! - mean[i]!) ** 2 / rows.length;
  const w = random((options.seed ?? 1) * 100 + 9, CLASSES * width, 2).map(
    (one, index) => one / Math.sqrt(deviation[index % width]! + 1e-4),
  );
  const b = Float32Array.from({ length: CLASSES }, (_, k) => -mean.reduce((sum, one, i) => sum + one * w[k * width + i]!, 0));
  return classifier(options, { w, b });
}

/** x [batch, 8, 12, 12] → Conv → ReLU → Conv inside both branches of an If that depends on the data → y. */
export function conditional(): Buffer {
  const attributes = { kernel_shape: [3, 3], pads: [1, 1, 1, 1] };
  const branch = (name: string, scale: string): { graph: Buffer } => ({
    graph: graph(name, {
      nodes: [node('Conv', ['r', 'w2', 'b2'], [`${name}.c`], attributes), node('Mul', [`${name}.c`, scale], [`${name}.y`])],
      inputs: [],
      outputs: [value(`${name}.y`, ['batch', 8, 12, 12])],
    }),
  });
  return model(
    graph('conditional', {
      nodes: [
        node('Conv', ['x', 'w1', 'b1'], ['c'], attributes),
        node('Relu', ['c'], ['r']),
        node('ReduceMean', ['x'], ['mean'], { keepdims: 0 }),
        node('Greater', ['mean', 'zero'], ['positive']),
        node('If', ['positive'], ['z'], { then_branch: branch('yes', 'one'), else_branch: branch('no', 'two') }),
        node('Conv', ['z', 'w3', 'b3'], ['y'], attributes),
      ],
      initializers: [
        ...[1, 2, 3].flatMap((index) => [
          tensor(`w${index}`, [8, 8, 3, 3], weights(index, [8, 8, 3, 3])),
          tensor(`b${index}`, [8], random(10 + index, 8, 0.1)),
        ]),
        tensor('zero', [], new Float32Array([0])),
        tensor('one', [], new Float32Array([1])),
        tensor('two', [], new Float32Array([2])),
      ],
      inputs: [value('x', ['batch', 8, 12, 12])],
      outputs: [value('y', ['batch', 8, 12, 12])],
    }),
  );
}

/** x [batch, 64] → MatMul with a weight in an external file → y. `location` and the range can be made wrong. */
export function external(location = 'weights/w.bin', offset = 0, length = 64 * 64 * 4): { model: Buffer; weights: Buffer } {
  const values = weights(7, [64, 64]);
  return {
    model: model(
      graph('external', {
        nodes: [node('MatMul', ['x', 'w'], ['y'])],
        initializers: [externalTensor('w', [64, 64], location, offset, length)],
        inputs: [value('x', ['batch', 64])],
        outputs: [value('y', ['batch', 64])],
      }),
    ),
    weights: Buffer.from(values.buffer, values.byteOffset, values.byteLength),
  };
}

/** One operator between x [2, 4] and y [2, 4], with whatever else a bad model needs. */
export function single(
  op: string,
  attributes: Record<string, AttributeValue> = {},
  options: { domain?: string; opset?: number } = {},
): Buffer {
  return model(
    graph('single', {
      nodes: [node(op, ['x'], ['y'], attributes, options.domain ?? '')],
      inputs: [value('x', [2, 4])],
      outputs: [value('y', [2, 4])],
    }),
    { opset: options.opset ?? 17, domains: options.domain === undefined ? {} : { [options.domain]: 1 } },
  );
}

export interface Samples {
  count: number;
  /** [count, 3, side, side] */
  images: Float32Array;
  side: number;
}
/** Smooth blobs, not white noise: neighbouring pixels resemble each other, as in pictures. */
export function images(seed: number, count: number, side: number = IMAGE[1]): Samples {
  const next = uniform(seed);
  const plane = side * side;
  const out = new Float32Array(count * IMAGE[0] * plane);
  for (let sample = 0; sample < count; sample++)
    for (let channel = 0; channel < IMAGE[0]; channel++) {
      const [level, fx, fy, phase, gain] = [next(), next() * 0.6, next() * 0.6, next() * 3, 0.5 + Math.abs(next())];
      for (let i = 0; i < plane; i++)
        out[(sample * IMAGE[0] + channel) * plane + i] =
          level + gain * Math.sin((i % side) * fx + Math.floor(i / side) * fy + phase) + next() * 0.15;
    }
  return { count, images: out, side };
}

/** Runs a model of images in ONNX Runtime, sample by sample; returns one output's rows. */
async function run(file: string | Uint8Array, samples: Samples, output: string): Promise<Float32Array[]> {
  const session = await (typeof file === 'string' ? ort.InferenceSession.create(file) : ort.InferenceSession.create(file));
  try {
    const size = IMAGE[0] * samples.side * samples.side;
    const rows: Float32Array[] = [];
    for (let i = 0; i < samples.count; i++) {
      const feed = new ort.Tensor('float32', samples.images.slice(i * size, (i + 1) * size), [1, IMAGE[0], samples.side, samples.side]);
      rows.push((await session.run({ image: feed }))[output]!.data as Float32Array);
    }
    return rows;
  } finally {
    await session.release();
  }
}
/** A classifier's logits, row by row. */
export const logitsOf = (file: string | Uint8Array, samples: Samples): Promise<Float32Array[]> => run(file, samples, 'logits');
export const argmax = (row: Float32Array): number => row.indexOf(Math.max(...row));
export const share = (hits: boolean[]): number => hits.filter(Boolean).length / hits.length;

/** Labels that the float model gets right nine times in ten: what it says, every tenth one another class. */
export function labelsFrom(rows: Float32Array[]): BigInt64Array {
  return BigInt64Array.from(rows, (row, index) => BigInt(index % 10 === 3 ? (argmax(row) + 1) % CLASSES : argmax(row)));
}
