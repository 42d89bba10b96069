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

function traceEvents(text: string): TraceEvent[] {
  try {
    return JSON.parse(text) as TraceEvent[];
  } catch (error) {
    // Cut off, not badly named.
    if (!text.trimEnd().endsWith(']')) throw error;
  }
  return Array.from(text.matchAll(FRAME), ([, cat, dur, name, args]) => {
    const op_name = field(args!, 'op_name');
    const node_index = field(args!, 'node_index');
    return {
      cat,
      name,
      dur: Number(dur),
      args: { ...(op_name === undefined ? {} : { op_name }), ...(node_index === undefined ? {} : { node_index }) },
    };
  });
}

/**
 * What each node cost: the median of its kernel's times where it ran once a run; where it ran more often (a Loop's body) or less
 * often (an If's branch), their sum ÷ the number of runs. In the order of first execution. Throws SyntaxError on a broken profile.
 */
export function parseProfile(text: string): ProfiledNode[] {
  const events = traceEvents(text);
  const runs = Math.max(1, events.filter(({ cat, name }) => cat === 'Session' && name === 'model_run').length);
  const nodes = new Map<string, { name: string; operator: string; times: number[] }>();
  for (const { cat, name, dur, args } of events) {
    if (cat !== 'Node' || name === undefined || !name.endsWith(SUFFIX) || typeof dur !== 'number') continue;
    const operator = args?.op_name ?? '';
    // Names need not be unique, and indices are not across subgraphs.
    const key = JSON.stringify([name, operator, args?.node_index]);
    const node = nodes.get(key) ?? { name: name.slice(0, -SUFFIX.length), operator, times: [] };
    node.times.push(dur);
    nodes.set(key, node);
  }
  return [...nodes.values()].map(({ name, operator, times }) => ({
    name,
    operator,
    us: times.length === runs ? median(times) : times.reduce((sum, time) => sum + time, 0) / runs,
  }));
}
