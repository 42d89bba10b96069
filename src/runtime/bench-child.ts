/**
 * The benchmark's own process: nothing runs in it but the runtime and a loop in C++. It takes one task over IPC, answers it and
 * ends; when its parent dies it dies too, since the machine lock that the parent held is then free again.
 */
import { benchInterleaved, OrtSession, ortPrepare } from '../../native/index.ts';
import type { BenchEvent, BenchTask, LatencyAnswer, LatencyTask, MemoryFigures, MemoryTask } from './bench-protocol.ts';
import { type Feeds, readFeeds } from './feeds.ts';
import { loadLibrary } from './library.ts';
import { resetPeak, residentMemory } from './resident-memory.ts';
import { median, summarize } from './statistics.ts';
import { TURNS } from './turns.ts';

/** A block's ratio is one observation; 25 give an interval from the 8th smallest to the 8th largest. */
const BLOCKS = 25;
/** Models so slow that these would take longer than a minute get fewer, */
const PATIENCE_SECONDS = 60;
/** but never fewer than this: under six there is no 95% interval of a median. */
const LEAST_BLOCKS = 7;
const MOST_RUNS_A_BLOCK = 20_000;
/**
 * The sessions are made anew so many times, where loading is quick: two sessions of one and the same file differ by up to 0.6%,
 * by where their weights happen to lie, which no number of runs would show.
 */
const ROUNDS = 5;

/** Seconds of one run of each session, after warming up until successive medians differ by less than 3%, or the cap is reached. */
async function warmUp(sessions: OrtSession[], feeds: Feeds[], step: number, capSeconds: number): Promise<number[]> {
  const started = performance.now();
  let before: number[] | null = null;
  for (;;) {
    const turn = { ...TURNS, blocks: 1, secondsPerBlock: step * sessions.length, minRuns: 1, maxRuns: MOST_RUNS_A_BLOCK };
    const now = (await benchInterleaved(sessions, feeds, turn)).map(([block]) => median(block!) / 1e3);
    const stable = before?.every((seconds, i) => Math.abs(now[i]! - seconds) <= 0.03 * seconds);
    // A run of that length has warmed up all there is to warm up, and a second one would cost as much as the benchmark.
    const long = now.some((seconds) => seconds > 4 * step);
    if (stable || long || performance.now() - started > capSeconds * 1e3) return now;
    before = now;
  }
}

/** Interleaved runs of some files, in several rounds with sessions of their own: ms of each run, by file and block. */
async function interleave(task: LatencyTask, paths: string[], feeds: Feeds[]): Promise<Float64Array[][]> {
  const times: Float64Array[][] = paths.map(() => []);
  let blocks = BLOCKS;
  let rounds = ROUNDS;
  for (let round = 0; round < rounds; round++) {
    // Who is loaded first turns round as well.
    const order = round % 2 === 0 ? paths.map((_, i) => i) : paths.map((_, i) => i).reverse();
    const sessions: OrtSession[] = [];
    for (const i of order) sessions[i] = await OrtSession.open(task.library.path, paths[i]!, { threads: task.threads });
    const once = await warmUp(sessions, feeds, round === 0 ? 0.05 : 0.02, task.secondsPerPair / (round === 0 ? 2 : 10));
    if (round === 0) {
      const runSeconds = once.reduce((sum, seconds) => sum + seconds, 0);
      const loadSeconds = sessions.reduce((sum, { loadMs }) => sum + loadMs, 0) / 1e3;
      blocks = Math.max(LEAST_BLOCKS, Math.min(BLOCKS, Math.floor(Math.max(PATIENCE_SECONDS, task.secondsPerPair) / runSeconds)));
      rounds = Math.max(1, Math.min(ROUNDS, Math.floor(task.secondsPerPair / (2 * loadSeconds))));
    }
    const share = Math.floor((blocks * (round + 1)) / rounds) - Math.floor((blocks * round) / rounds);
    const turn = { ...TURNS, blocks: share, secondsPerBlock: task.secondsPerPair / blocks, minRuns: 1, maxRuns: MOST_RUNS_A_BLOCK };
    for (const [i, more] of (await benchInterleaved(sessions, feeds, turn)).entries()) times[i]!.push(...more);
    for (const session of sessions) session.close();
  }
  return times;
}

async function latency(task: LatencyTask, report: (done: number) => void): Promise<LatencyAnswer> {
  const feeds = await readFeeds(task.feedsPath);
  // One pool for all sessions: with a pool each, the threads of the one that has just run spin on the cores of the one that runs.
  ortPrepare(task.library.path, task.threads);
  const floatRuns: Float64Array[] = [];
  const variants: LatencyAnswer['variants'] = [];
  for (const path of task.variants) {
    const [floats, ours] = await interleave(task, [task.float, path], feeds);
    floatRuns.push(...floats!);
    variants.push({ latencyMs: summarize(join(ours!)), ratios: floats!.map((block, b) => median(block) / median(ours![b]!)) });
    report(variants.length / task.variants.length);
  }
  if (variants.length === 0) floatRuns.push(...(await interleave(task, [task.float], feeds))[0]!);
  return { float: summarize(join(floatRuns)), variants };
}

function join(blocks: Float64Array[]): Float64Array {
  const all = new Float64Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}

async function memory(task: MemoryTask): Promise<MemoryFigures> {
  const feeds = await readFeeds(task.feedsPath);
  ortPrepare(task.library.path);
  resetPeak();
  const base = residentMemory().now;
  const session = await OrtSession.open(task.library.path, task.model, { threads: task.threads });
  // The second run finds the arena grown by the first; a third would show nothing new.
  for (const set of [...feeds, ...feeds].slice(0, Math.max(2, feeds.length)))
    await benchInterleaved([session], [set], { ...TURNS, blocks: 1, secondsPerBlock: 0, minRuns: 1, maxRuns: 1 });
  const { peak } = residentMemory();
  return { peakRssBytes: peak, modelRssBytes: Math.max(0, peak - base), loadMs: session.loadMs };
}

function send(event: BenchEvent): Promise<void> {
  return new Promise((resolve) => (process.send ? process.send(event, () => resolve()) : resolve()));
}

// SIGKILL and not exit(): a run in flight would be waited for.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
process.once('message', async (task: BenchTask) => {
  try {
    loadLibrary(task.library.path);
    if (task.kind === 'latency')
      await send({ type: 'latency', answer: await latency(task, (done) => void send({ type: 'progress', done })) });
    else await send({ type: 'memory', answer: await memory(task) });
  } catch (error) {
    const { message, ortMessage } = error as { message: string; ortMessage?: string };
    await send({ type: 'failed', message, ortMessage });
  }
  // The parent has the answer: nothing is gained by freeing sessions one by one.
  process.kill(process.pid, 'SIGKILL');
});
