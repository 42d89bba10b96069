/** Reading ONNX Runtime's profile: Chrome trace events, of which cat "Node" with a name ending in _kernel_time are kernels. */
import type { ProfiledNode } from '../domain/runner.ts';
import { median } from './statistics.ts';

interface TraceEvent {
  cat?: string;
  name?: string;
  dur?: number;
  args?: { op_name?: string; node_index?: string };
}
const SUFFIX = '_kernel_time';

/**
 * The runtime writes one event after another in a fixed frame, and names into it as they are: a quotation mark, a backslash or
 * a line's end in a node's name, which ONNX allows, make it something that is no JSON. Then the frame tells where an event begins
 * and ends, and its name is whatever stands in between.
 */
const FRAME = /^\{"cat" : "(\w+)","pid" :\d+,"tid" :\d+,"dur" :(\d+),"ts" :\d+,"ph" : "\w","name" :"([\s\S]*?)","args" : (\{.*\})\},?$/gm;
const field = (args: string, name: string) => new RegExp(`"${name}" : "([^"]*)"`).exec(args)?.[1];

/** The events of a profile, one at a time: parsed as a whole they take some hundred megabytes for a network of a few hundred nodes. */
function* traceEvents(text: string): Generator<TraceEvent> {
  if (!text.trimEnd().endsWith(']')) throw new SyntaxError('the profile is cut off');
  let framed = false;
  for (const [, cat, dur, name, args] of text.matchAll(FRAME)) {
    framed = true;
    const op_name = field(args!, 'op_name');
    const node_index = field(args!, 'node_index');
    yield {
      cat: cat!,
      name: name!,
      dur: Number(dur),
      args: { ...(op_name === undefined ? {} : { op_name }), ...(node_index === undefined ? {} : { node_index }) },
    };
  }
  // Another frame than the one known here: as what it claims to be.
  if (!framed) yield* JSON.parse(text) as TraceEvent[];
}

/**
 * What each node cost: the median of its kernel's times where it ran once a run; where it ran more often (a Loop's body) or less
 * often (an If's branch), their sum ÷ the number of runs. In the order of first execution. Throws SyntaxError on a broken profile.
 */
export function parseProfile(text: string): ProfiledNode[] {
  let runs = 0;
  const nodes = new Map<string, { name: string; operator: string; times: number[] }>();
  for (const { cat, name, dur, args } of traceEvents(text)) {
    if (cat === 'Session' && name === 'model_run') runs++;
    if (cat !== 'Node' || name === undefined || !name.endsWith(SUFFIX) || typeof dur !== 'number') continue;
    const operator = args?.op_name ?? '';
    // Names need not be unique, and indices are not across subgraphs.
    const key = JSON.stringify([name, operator, args?.node_index]);
    const node = nodes.get(key) ?? { name: name.slice(0, -SUFFIX.length), operator, times: [] };
    node.times.push(dur);
    nodes.set(key, node);
  }
  runs = Math.max(1, runs);
  return [...nodes.values()].map(({ name, operator, times }) => ({
    name,
    operator,
    us: times.length === runs ? median(times) : times.reduce((sum, time) => sum + time, 0) / runs,
  }));
}
