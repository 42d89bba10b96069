/**
 * The cheapest two-colouring of a graph: every vertex runs in float or in integers at its own cost, and an edge whose ends
 * differ pays for the conversion. Exact, as a minimum s–t cut (Greig, Porteous & Seheult 1989; Dinic's algorithm, 1970).
 */
export interface CutProblem {
  /** Cost of each vertex in float and in integers; Infinity = not allowed. */
  vertices: { float: number; integer: number }[];
  /** Cost when `from` runs in integers and `to` in float (`dequantize`), or the other way round (`quantize`). */
  edges: { from: number; to: number; quantize: number; dequantize: number }[];
}

/** For each vertex whether it is on the integer side. O(V²·E) at worst; graphs here have some hundred vertices. */
export function minimumCut(problem: CutProblem): boolean[] {
  const n = problem.vertices.length;
  const source = n;
  const sink = n + 1;
  const head: number[] = [];
  const capacity: number[] = [];
  const out: number[][] = Array.from({ length: n + 2 }, () => []);
  const arc = (from: number, to: number, forward: number, backward: number) => {
    out[from]!.push(head.length);
    head.push(to);
    capacity.push(forward);
    out[to]!.push(head.length);
    head.push(from);
    capacity.push(backward);
  };
  // Source side = integers: a vertex cut from the source pays its float cost, one cut from the sink its integer cost.
  const finite = problem.vertices.flatMap((v) => [v.float, v.integer]).filter(Number.isFinite);
  const huge = 1 + 2 * (finite.reduce((a, b) => a + b, 0) + problem.edges.reduce((a, e) => a + e.quantize + e.dequantize, 0));
  const cap = (cost: number) => (Number.isFinite(cost) ? cost : huge);
  problem.vertices.forEach((v, i) => {
    const base = Math.min(cap(v.float), cap(v.integer));
    arc(source, i, cap(v.float) - base, 0);
    arc(i, sink, cap(v.integer) - base, 0);
  });
  for (const edge of problem.edges) if (edge.from !== edge.to) arc(edge.from, edge.to, edge.dequantize, edge.quantize);

  const level = new Int32Array(n + 2);
  const next = new Int32Array(n + 2);
  const EPSILON = 1e-9;
  const levels = (): boolean => {
    level.fill(-1);
    level[source] = 0;
    const queue = [source];
    for (const at of queue) {
      for (const a of out[at]!) {
        if (capacity[a]! > EPSILON && level[head[a]!]! < 0) {
          level[head[a]!] = level[at]! + 1;
          queue.push(head[a]!);
        }
      }
    }
    return level[sink]! >= 0;
  };
  // Iterative: a chain of some thousand units would overflow the stack of a recursive search.
  const augment = (): boolean => {
    const path: number[] = [];
    let at = source;
    for (;;) {
      if (at === sink) {
        const flow = Math.min(...path.map((a) => capacity[a]!));
        for (const a of path) {
          capacity[a]! -= flow;
          capacity[a ^ 1]! += flow;
        }
        return true;
      }
      const arcs = out[at]!;
      let advanced = false;
      for (; next[at]! < arcs.length; next[at]!++) {
        const a = arcs[next[at]!]!;
        if (capacity[a]! > EPSILON && level[head[a]!] === level[at]! + 1) {
          path.push(a);
          at = head[a]!;
          advanced = true;
          break;
        }
      }
      if (advanced) continue;
      if (at === source) return false;
      const back = path.pop()!;
      at = head[back ^ 1]!;
      next[at]!++;
    }
  };
  while (levels()) {
    next.fill(0);
    while (augment());
  }
  return problem.vertices.map((_, i) => level[i]! >= 0);
}
