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
 * What each node cost: the median of its kernel's times where it ran once a run; where it ran more often (a Loop's body) or less
 * often (an If's branch), their sum ÷ the number of runs. In the order of first execution. Throws SyntaxError on a broken profile.
 */
export function parseProfile(text: string): ProfiledNode[] {
  const events = JSON.parse(text) as TraceEvent[];
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
