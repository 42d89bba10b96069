/** A model of one QuantizeLinear or DequantizeLinear node, written byte by byte: the oracle needs no code of ours but this. */

const varint = (value: number): number[] => (value < 128 ? [value] : [(value & 127) | 128, ...varint(Math.floor(value / 128))]);
const int = (field: number, value: number): number[] => [...varint(field << 3), ...varint(value)];
const bytes = (field: number, content: number[]): number[] => [...varint((field << 3) | 2), ...varint(content.length), ...content];
const text = (field: number, value: string): number[] => bytes(field, [...Buffer.from(value)]);

const FLOAT = 1;
export const codeType = { uint8: 2, int8: 3 } as const;

/** ValueInfoProto of a tensor whose dims are all free. */
function value(field: number, name: string, type: number, rank: number): number[] {
  const dims = Array.from({ length: rank }, (_, i) => bytes(1, text(2, `${name}${i}`))).flat();
  return bytes(field, [...text(1, name), ...bytes(2, bytes(1, [...int(1, type), ...bytes(2, dims)]))]);
}

/** Inputs x, scale, zeroPoint; output y. `axis` null = per tensor (scale and zero point of rank 0). */
export function linearModel(op: 'QuantizeLinear' | 'DequantizeLinear', codes: keyof typeof codeType, axis: number | null): Uint8Array {
  const type = codeType[codes];
  const [from, to] = op === 'QuantizeLinear' ? [FLOAT, type] : [type, FLOAT];
  const attribute = axis === null ? [] : bytes(5, [...text(1, 'axis'), ...int(3, axis), ...int(20, 2)]);
  const node = [...text(1, 'x'), ...text(1, 'scale'), ...text(1, 'zeroPoint'), ...text(2, 'y'), ...text(4, op), ...attribute];
  const rank = axis === null ? 0 : 1;
  const graph = [
    ...bytes(1, node),
    ...text(2, 'g'),
    ...value(11, 'x', from, 3),
    ...value(11, 'scale', FLOAT, rank),
    ...value(11, 'zeroPoint', type, rank),
    ...value(12, 'y', to, 3),
  ];
  return new Uint8Array([...int(1, 8), ...bytes(7, graph), ...bytes(8, [...text(1, ''), ...int(2, 13)])]);
}
