/** Limits on what comes in, each with its reason. Settings may lower or raise those that `config.ts` names. */
export const LIMITS = {
  /** Default size limits of uploads, in bytes; MAX_MODEL_BYTES and MAX_DATASET_BYTES change them. */
  modelBytes: 20e9,
  datasetBytes: 50e9,
  /** A multipart upload's files: the largest published models come in a few hundred external-data files. */
  modelFiles: 4096,
  /** Depth of nested protobuf messages and subgraphs: real models stay under 20; recursion beyond it is an attack on the stack. */
  protobufDepth: 100,
  /** Nodes of a graph: the largest seen has some 100 thousand; a hostile file of empty nodes costs 2 bytes each. */
  graphNodes: 2_000_000,
  initializers: 1_000_000,
  tensorRank: 32,
  /** Length of a name; names go into maps, logs and reports. */
  nameBytes: 65_536,
  /** Arrays of an .npz. */
  npzArrays: 1024,
  recipesPerJob: 32,
  profilesPerJob: 16,
  /** Oldest default-domain opset that the engine upgrades from, newest that it reads. */
  oldestOpset: 7,
  newestOpset: 24,
} as const;
