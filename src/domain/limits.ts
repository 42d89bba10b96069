/** Limits on what comes in, each with its reason. Settings may lower or raise those that `config.ts` names. */
export const LIMITS = {
  /** Default size limits of uploads, in bytes; MAX_MODEL_BYTES and MAX_DATASET_BYTES change them. */
  modelBytes: 20e9,
  datasetBytes: 50e9,
  /** A multipart upload's files: the largest published models come in a few hundred external-data files. */
  modelFiles: 4096,
  /** Depth of nested protobuf messages and subgraphs: real models stay under 20; recursion beyond it is an attack on the stack. */
  protobufDepth: 100,
  /** Nodes of a model, subgraphs included: the largest seen has some 100 thousand. A hostile node costs 8 bytes in the file and some 400 in memory. */
  graphNodes: 250_000,
  /** Initializers and tensor attributes: the largest models have some 10 thousand; each costs some 300 bytes in memory. */
  initializers: 250_000,
  /** Inputs, outputs and inner values with a stated type: some 100 thousand in the largest models, 100 bytes each in memory. */
  valueInfos: 1_000_000,
  /** Numbers in the models' attributes: tree ensembles have a million; a packed int is 1 byte in the file and 32 in memory. */
  attributeNumbers: 4_000_000,
  /** Strings in tensors and attributes: vocabularies have a million; an empty one is 2 bytes in the file and some 100 in memory. */
  strings: 2_000_000,
  /** Fields kept unread: newer exporters write some five notes a node; each is 2 bytes or more in the file and some 180 in memory. */
  unknownFields: 1_000_000,
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
  /** Newest IR version that the runtime reads (ONNX Runtime 1.30; facts.test.ts asks it). */
  newestIrVersion: 13,
  /** What a model's inputs, outputs and operators take as JSON: every answer that shows the model holds them. Language models with their caches take 100 kB. */
  descriptionBytes: 1_000_000,
} as const;
