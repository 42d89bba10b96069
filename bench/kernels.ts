/**
 * The kernels in GB/s of float32 read, beside memcpy in the same run: 64 MB (from memory) and 1 MB (from a cache, where an
 * activation lies that was just computed). Rounds take every kernel in turn; the figure is the best of them, the one that other work on
 * the machine disturbed least. Then what a threshold search, a saturation count and a GPTQ rounding cost.
 */
import {
  type ConvGeometry,
  countSaturation,
  entropyRange,
  gptqRound,
  gram,
  mseRange,
  Observer,
  percentileRange,
  quantizeLinear,
  range,
  setSimd,
  simd,
} from '../native/index.ts';
import type { BenchResult, BenchRow } from './support/result.ts';

const ROUNDS = 9;

/** Normal values, or after a ReLU when `relu`: half of them 0. */
function activations(n: number, relu: boolean): Float32Array {
  const x = new Float32Array(n);
  // A block of draws repeated with a drifting factor: the histogram sees no pattern, and setting up costs little.
  const block = new Float32Array(65_536).map(() => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
  for (let i = 0; i < n; i++) {
    const v = block[i & 65_535]! * (1 + (i >> 16) * 1e-3);
    x[i] = relu && v < 0 ? 0 : v;
  }
  return x;
}

interface Case {
  label: string;
  run(): Promise<unknown>;
  mark?: number;
}

/** GB/s of `bytes` for every case, taken in turns. */
async function throughput(cases: Case[], bytes: number, repeat: number): Promise<BenchRow[]> {
  const times = cases.map(() => [] as number[]);
  for (let round = 0; round <= ROUNDS; round++)
    for (const [i, { run }] of cases.entries()) {
      const start = performance.now();
      for (let r = 0; r < repeat; r++) await run();
      // The first round warms caches and page tables.
      if (round > 0) times[i]!.push((performance.now() - start) / repeat);
    }
  return cases.map(({ label, mark }, i) => {
    const value = bytes / Math.min(...times[i]!) / 1e6;
    return mark === undefined ? { label, value, unit: 'GB/s' } : { label, value, unit: 'GB/s', mark: `≥ ${mark} GB/s`, ok: value >= mark };
  });
}

async function milliseconds(label: string, run: () => unknown, mark?: number): Promise<BenchRow> {
  const times: number[] = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const start = performance.now();
    await run();
    if (round > 0) times.push(performance.now() - start);
  }
  const value = Math.min(...times);
  return mark === undefined ? { label, value, unit: 'ms' } : { label, value, unit: 'ms', mark: `≤ ${mark} ms`, ok: value <= mark };
}

function streaming(n: number, where: string, marks: boolean): Case[] {
  const x = activations(n, false);
  const relu = activations(n, true);
  const copy = new Float32Array(n);
  const codes = new Uint8Array(n);
  const channels = 64;
  const [scale, zero] = [new Float32Array([0.03]), new Int32Array([128])];
  const [scales, zeros] = [new Float32Array(channels).fill(0.03), new Int32Array(channels).fill(128)];
  const plane = n / channels;
  const observer = (options: { bins: number; channelAxis?: number; histogramStride?: number }, data: Float32Array, dims: number[]) => {
    const target = new Observer(options);
    return () => target.observe(data, dims);
  };
  const mark = (value: number) => (marks && simd === 'avx2' ? { mark: value } : {});
  return [
    { label: `memcpy, ${where}`, run: async () => copy.set(x) },
    { label: `range, ${where}`, run: () => range(x), ...mark(8) },
    { label: `quantizeLinear u8 per tensor, ${where}`, run: () => quantizeLinear(x, codes, scale, zero, 1, 1) },
    { label: `quantizeLinear u8 per axis, ${where}`, run: () => quantizeLinear(x, codes, scales, zeros, channels, plane) },
    { label: `quantizeLinear u8 channel innermost, ${where}`, run: () => quantizeLinear(x, codes, scales, zeros, channels, 1) },
    { label: `observe without histogram, ${where}`, run: observer({ bins: 0 }, x, [n]) },
    { label: `observe, channels outside, no histogram, ${where}`, run: observer({ bins: 0, channelAxis: 0 }, x, [channels, plane]) },
    {
      label: `observe, channels of 7×7, no histogram, ${where}`,
      run: observer({ bins: 0, channelAxis: 1 }, x.subarray(0, n - (n % 49)), [1, Math.floor(n / 49), 49]),
    },
    { label: `observe, channels innermost, no histogram, ${where}`, run: observer({ bins: 0, channelAxis: -1 }, x, [plane, channels]) },
    { label: `observe with histogram, ${where}`, run: observer({ bins: 2048 }, x, [n]), ...mark(1.5) },
    { label: `observe with histogram, after ReLU, ${where}`, run: observer({ bins: 2048 }, relu, [n]), ...mark(1.5) },
    { label: `observe with histogram, every 4th, ${where}`, run: observer({ bins: 2048, histogramStride: 4 }, x, [n]) },
    {
      label: `observe with histogram and channels, ${where}`,
      run: observer({ bins: 2048, channelAxis: 0 }, x, [channels, plane]),
      ...mark(1.5),
    },
  ];
}

export async function run(): Promise<BenchResult> {
  const rows: BenchRow[] = [];
  const large = 2 ** 24;
  rows.push(...(await throughput(streaming(large, '64 MB', true), large * 4, 1)));
  const cached = 2 ** 18;
  rows.push(...(await throughput(streaming(cached, '1 MB', true), cached * 4, 20)));
  if (simd === 'avx2') {
    setSimd('scalar');
    const scalar = streaming(cached, '1 MB, scalar', false);
    rows.push(...(await throughput([scalar[1]!, scalar[2]!, scalar[9]!, scalar[12]!], cached * 4, 5)));
    setSimd('auto');
  }

  const observer = new Observer({ bins: 2048 });
  await observer.observe(activations(2 ** 20, false), [2 ** 20]);
  const histogram = observer.result().histogram!;
  rows.push(await milliseconds('percentileRange, 2048 bins', () => percentileRange(histogram, 99.99), 2));
  rows.push(await milliseconds('entropyRange, 2048 bins, 256 levels', () => entropyRange(histogram, 256), 2));
  rows.push(await milliseconds('mseRange, 2048 bins, 256 levels', () => mseRange(histogram, 256), 2));
  rows.push(await milliseconds('mseRange p = 2.4', () => mseRange(histogram, 256, { p: 2.4 }), 2));

  const geometry: ConvGeometry = { kind: 'conv', inputShape: [64, 56, 56], weightShape: [64, 64, 3, 3], pads: [1, 1, 1, 1] };
  const x = new Uint8Array(64 * 56 * 56).map(() => Math.min(255, Math.abs(Math.random() * 300)));
  const w = new Int8Array(64 * 64 * 9).map(() =>
    Math.max(-127, Math.min(127, Math.round((Math.random() + Math.random() + Math.random() - 1.5) * 120))),
  );
  rows.push(await milliseconds('countSaturation, 3×3 of 64 channels at 56×56', () => countSaturation(x, w, geometry)));

  const k = 576;
  const samples = activations(1000 * k, true);
  const hessian = new Float64Array(k * k);
  const gramMs = await milliseconds('gram, 1000 × 576', () => gram(samples, k, hessian));
  rows.push(gramMs, { label: 'gram', value: (1000 * k * k) / gramMs.value / 1e6, unit: 'GFlop/s of the full product' });
  const weights = activations(64 * k, false);
  rows.push(await milliseconds('gptqRound, 64 × 576', () => gptqRound(weights, hessian, new Float32Array(64).fill(0.03))));
  return { name: 'kernels', rows };
}
