/** What the repositories give and take: plain values, sizes as numbers, JSON columns with the types of domain/. */
import type { ErrorCode } from '../../domain/errors.ts';
import type { JobEventType } from '../../domain/execution.ts';
import type { Benchmark, Evaluation, JobStatus, KernelReport, Metric, ProblemSummary, Stage, StageRun } from '../../domain/job.ts';
import type { DeviceProfile } from '../../domain/profile.ts';
import type { Recipe } from '../../domain/recipe.ts';

/** One stored file of a model or an artifact, under its relative path. */
export interface StoredFile {
  path: string;
  sha256: string;
  sizeBytes: number;
}

export interface ApiKeyRecord {
  id: string;
  name: string;
  hash: string;
  hint: string;
  scopes: string[];
  bootstrap: boolean;
  createdAt: Date;
  expiresAt: Date | null;
  lastUsedAt: Date | null;
}

export interface ModelRecord {
  id: string;
  name: string;
  /** Of the model file. */
  sha256: string;
  /** Of all files and their names. */
  contentSha256: string;
  /** Of all files together. */
  sizeBytes: number;
  description: Record<string, unknown>;
  createdAt: Date;
  /** Set once it was deleted: its files are then gone, the row stays for the jobs that name it. */
  deletedAt: Date | null;
  /** The model file first; empty once deleted. */
  files: StoredFile[];
}

export interface DatasetRecord {
  id: string;
  name: string;
  sha256: string;
  sizeBytes: number;
  samples: number;
  description: Record<string, unknown>;
  createdAt: Date;
  deletedAt: Date | null;
}

export interface ProfileRecord extends DeviceProfile {
  createdAt: Date;
}

export interface JobRecord {
  id: string;
  status: JobStatus;
  modelId: string;
  calibrationId: string | null;
  evaluationId: string | null;
  recipes: Recipe[];
  metric: Metric | null;
  maxAccuracyDrop: number;
  shapes: Record<string, number>;
  seed: number;
  /** As they were when the job was made; the first is the target. */
  deviceProfiles: DeviceProfile[];
  /** Those a worker must carry to take it, sorted and joined with `,`; empty = any worker. */
  labels: string;
  webhookEndpointId: string | null;
  apiKeyId: string | null;
  stage: Stage | null;
  /** 0..1. */
  progress: number;
  etaSeconds: number | null;
  stages: StageRun[];
  error: { code: ErrorCode; detail: string } | null;
  bestVariantId: string | null;
  bestReason: string | null;
  cancelRequested: boolean;
  leaseOwner: string | null;
  leaseExpiresAt: Date | null;
  /** Deaths of the child by its own doing, by stage. */
  attempts: Partial<Record<Stage, number>>;
  starts: number;
  createdAt: Date;
  startedAt: Date | null;
  endedAt: Date | null;
}

export type { JobEventType };
export interface JobEventRecord {
  jobId: string;
  /** 1, 2, … within the job: an SSE stream's event id. */
  sequence: number;
  type: JobEventType;
  data: Record<string, unknown>;
  createdAt: Date;
}

export interface ArtifactRecord {
  id: string;
  variantId: string;
  jobId: string;
  modelId: string;
  /** Of what is downloaded: the file, or the .tar of several. */
  sha256: string;
  sizeBytes: number;
  manifest: Record<string, unknown>;
  createdAt: Date;
  /** The model file first. */
  files: StoredFile[];
}

export interface VariantRecord {
  id: string;
  jobId: string;
  /** Index of its recipe in the job; −1 = the float model. */
  position: number;
  recipe: Recipe | null;
  kernels: KernelReport | null;
  error: ProblemSummary | null;
  /** Without manifest and files; null where the gate refused or the artifact was deleted. */
  artifact: { id: string; sha256: string; sizeBytes: number } | null;
  evaluation: Evaluation | null;
  benchmarks: Benchmark[];
}

export interface BenchmarkRecord {
  /** A number that grows with time, as a string: the cursor of a list. */
  id: string;
  variantId: string;
  jobId: string;
  modelId: string;
  position: number;
  recipe: Recipe | null;
  deviceProfileId: string;
  artifactId: string | null;
  benchmark: Benchmark;
  createdAt: Date;
}

export interface WebhookEndpointRecord {
  id: string;
  url: string;
  description: string | null;
  /** Event types wanted; empty = all. */
  events: string[];
  secret: string;
  previousSecret: string | null;
  previousSecretExpires: Date | null;
  failingSince: Date | null;
  disabledAt: Date | null;
  disabledReason: string | null;
  apiKeyId: string | null;
  createdAt: Date;
}

/** One try of a delivery. */
export interface DeliveryTry {
  at: string;
  ms: number;
  /** HTTP status; null where none came. */
  status: number | null;
  error: string | null;
}
export interface DeliveryRecord {
  id: string;
  endpointId: string;
  jobId: string | null;
  eventType: string;
  /** The body, byte for byte as it is signed and sent. */
  body: string;
  status: 'pending' | 'succeeded' | 'failed';
  attempts: number;
  nextAttemptAt: Date | null;
  lastAttemptAt: Date | null;
  lastStatus: number | null;
  lastError: string | null;
  log: DeliveryTry[];
  replayOf: string | null;
  createdAt: Date;
  endedAt: Date | null;
}

export interface IdempotencyRecord {
  ownerId: string;
  key: string;
  fingerprint: string;
  /** Null while the first request is in flight. */
  responseStatus: number | null;
  responseHeader: Record<string, string> | null;
  responseBody: string | null;
  lockedUntil: Date | null;
  expiresAt: Date;
}

/** A page of a list that is ordered by id, newest first. */
export interface PageQuery {
  limit: number;
  /** Only ids below it: the last id of the page before. */
  before?: string;
}
