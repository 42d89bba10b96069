/**
 * How interleaved sessions take turns. 5 ms keep the processor in one session long enough to run as it does in use; in runs over
 * 50 ms the filling of caches is a vanishing part, so none is given away there.
 */
export const TURNS = { burstSeconds: 0.005, discardBelowSeconds: 0.05 };
