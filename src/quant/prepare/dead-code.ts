import type { Pass } from './pass.ts';

/**
 * What nobody uses goes: the runtime does not remove dead nodes by itself, it runs them (runtime.md, rule 12).
 * 1. A node none of whose outputs is used, by a node, a subgraph or as a graph output, and then what only it used.
 * 2. An initializer that nothing uses and that is not a graph output.
 */
export const removeDead: Pass = {
  name: 'remove-dead',
  report: () => null,
  run(rewriter) {
    const before = rewriter.graph.nodes.length + rewriter.graph.initializers.size;
    rewriter.removeDead();
    return before - rewriter.graph.nodes.length - rewriter.graph.initializers.size;
  },
};
