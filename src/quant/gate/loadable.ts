import type { Unit } from '../plan/units.ts';

/** Sessions that the search for refused units may open. */
const MOST_TRIES = 48;

/**
 * The units of a plan that the runtime really takes. A plan that does not load or run is repaired by exclusion, one unit at
 * a time: the one that the runtime's words name, else one found by halving the plan (delta debugging, Zeller &
 * Hildebrandt 2002: a half that fails alone holds a culprit; where neither does, the smaller set is searched with the other
 * half's units that can stay). `tryOut` gives null when a plan loads and runs, else the runtime's words.
 */
export async function loadable(
  units: Unit[],
  allowed: ReadonlySet<number>,
  tryOut: (plan: ReadonlySet<number>) => Promise<string | null>,
): Promise<{ allowed: Set<number>; refused: Map<number, string> }> {
  const kept = new Set(allowed);
  const refused = new Map<number, string>();
  let tries = 0;
  const attempt = async (plan: ReadonlySet<number>): Promise<string | null> => {
    tries++;
    return plan.size ? tryOut(plan) : null;
  };
  for (;;) {
    const words = await attempt(kept);
    if (words === null || !kept.size) return { allowed: kept, refused };
    let culprit = tries < MOST_TRIES ? named(units, kept, words) : undefined;
    let suspects = [...kept].sort((a, b) => a - b);
    while (culprit === undefined && suspects.length > 1 && tries < MOST_TRIES) {
      const [first, second] = [suspects.slice(0, suspects.length >> 1), suspects.slice(suspects.length >> 1)];
      if ((await attempt(new Set(first))) !== null) suspects = first;
      else if ((await attempt(new Set(second))) !== null) suspects = second;
      else break;
    }
    if (culprit === undefined && suspects.length === 1) culprit = suspects[0];
    if (culprit !== undefined) {
      kept.delete(culprit);
      refused.set(culprit, words);
      continue;
    }
    // Only together do they fail: what has no weights goes first, it gains least; then everything.
    const light = suspects.filter((id) => !units[id]!.weight);
    for (const id of light.length ? light : suspects) {
      kept.delete(id);
      refused.set(id, words);
    }
  }
}

/** The unit of the plan that the runtime's words name, by the longest of its nodes' names found in them. */
function named(units: Unit[], plan: ReadonlySet<number>, words: string): number | undefined {
  let found: { id: number; length: number } | undefined;
  for (const id of plan) {
    for (const node of units[id]!.nodes) {
      // Short names turn up in any sentence.
      if (node.name.length > 2 && words.includes(node.name) && node.name.length > (found?.length ?? 0))
        found = { id, length: node.name.length };
    }
  }
  return found?.id;
}
