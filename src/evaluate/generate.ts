import { HalftoneError } from '../domain/errors.ts';
import type { TensorValue, ValueSignature } from '../domain/runner.ts';
import { convert, ELEMENT_BYTES, isFloat } from './elements.ts';
import { seededNormal, seededRandom } from './random.ts';

/** Edge of a picture and length of a sequence where nobody says: small enough for any model, large enough that every pooling has something to pool. */
const PICTURE = 224;
const SEQUENCE = 128;
/** Elements of one made-up input: 1 GB as float32, more than any model's sample; a file may state any dimensions. */
const MOST_ELEMENTS = 2 ** 28;

/**
 * Inputs for a model without data: the first dimension 1, other free dimensions as `shapes` say by name; a dimension that
 * nobody names is 1, but for pictures (rank 4) and sequences of tokens, where 1 would fit no model. The same name is the
 * same size everywhere. Floats are standard normal; integers are 0 or 1, since they may be indices; masks are all 1.
 * @param shapes free dimension's name → size; wins over the rule for the first dimension
 * @throws model-input where an input holds no numbers, or more than can be made up
 */
export function generateFeeds(inputs: ValueSignature[], shapes: Record<string, number>, seed: number): Record<string, TensorValue> {
  const sizes = new Map<string, number>();
  for (const { dims } of inputs) if (typeof dims[0] === 'string') sizes.set(dims[0], 1);
  for (const [name, size] of Object.entries(shapes)) sizes.set(name, size);
  const feeds: Record<string, TensorValue> = {};
  inputs.forEach(({ name, type, dims: signature }, index) => {
    if (type === 'other') throw new HalftoneError('model-input', `input '${name}' is no tensor of numbers`);
    const free = (dim: number | string) => typeof dim === 'string' || dim < 0;
    const dims = signature.map((dim, axis) => {
      if (typeof dim === 'number' && dim >= 0) return dim;
      const named = typeof dim === 'string' ? sizes.get(dim) : undefined;
      if (named !== undefined) return named;
      let size = 1;
      if (axis > 0 && !(typeof dim === 'string' && /^(n|b)$|batch/i.test(dim))) {
        const channelsLast = signature.length === 4 && axis < 3 && !free(signature[3]!);
        if (signature.length === 4 && isFloat(type) && (axis > 1 || channelsLast)) size = PICTURE;
        else if (signature.length > 1 && !isFloat(type)) size = SEQUENCE;
        else if (typeof dim === 'string' && /seq|len|time|frame|token|^[tl]$/i.test(dim)) size = SEQUENCE;
      }
      if (typeof dim === 'string') sizes.set(dim, size);
      return size;
    });
    const count = dims.reduce((a, b) => a * b, 1);
    if (count > MOST_ELEMENTS)
      throw new HalftoneError(
        'model-input',
        `input '${name}' has the shape [${dims.join(', ')}], too much to make up; give data, or smaller sizes in \`shapes\``,
      );
    // A seed of its own for each input: adding an input leaves the others' values alone.
    const inputSeed = (seed + Math.imul(index + 1, 0x9e3779b1)) >>> 0;
    let bytes: Uint8Array;
    if (isFloat(type)) {
      const normal = seededNormal(inputSeed);
      bytes = convert('float32', type, new Uint8Array(Float32Array.from({ length: count }, normal).buffer));
    } else {
      const uniform = seededRandom(inputSeed);
      const ones = type === 'bool' || /mask/i.test(name);
      const size = ELEMENT_BYTES[type];
      bytes = new Uint8Array(count * size);
      // Little-endian: the value stands in each element's first byte.
      for (let i = 0; i < count; i++) bytes[i * size] = ones || uniform() < 0.5 ? 1 : 0;
    }
    feeds[name] = { type, dims, bytes };
  });
  return feeds;
}
