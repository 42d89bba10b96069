/**
 * Every error that a user can meet: code → title, HTTP status, what to do about it. Nothing else is thrown to a user;
 * a bug is an `internal-error` and looks like one. A job's failure carries the same codes (its status is then not sent).
 */
interface CatalogueEntry {
  title: string;
  status: number;
  remedy: string;
}
const entry = (status: number, title: string, remedy: string): CatalogueEntry => ({ status, title, remedy });

export const ERRORS = {
  // the request
  'validation-failed': entry(422, 'The request does not match the schema', 'Correct the fields that `errors` points at.'),
  'malformed-body': entry(400, 'The body could not be read', 'Send well-formed JSON, or the bytes that Content-Length promises.'),
  'unsupported-media-type': entry(
    415,
    'The content type is not taken here',
    'Use one of the content types that the API reference names for this route.',
  ),
  'not-found': entry(404, 'There is no such thing', 'Check the id; deleted things do not come back.'),
  'method-not-allowed': entry(405, 'The method is not allowed on this path', 'See the Allow header and the API reference.'),
  unauthenticated: entry(
    401,
    'A valid API key is needed',
    'Send `Authorization: Bearer <key>` with a key that is neither deleted nor expired.',
  ),
  forbidden: entry(403, 'The key may not do this', 'Use a key with the scope named in the detail.'),
  'rate-limited': entry(429, 'Too many requests', 'Wait as long as Retry-After says.'),
  'payload-too-large': entry(413, 'The body is over the limit', 'Send a smaller file, or have the operator raise the limit.'),
  'upload-incomplete': entry(400, 'The upload ended before all its bytes had come', 'Send the file again; nothing of it was kept.'),
  'upload-stalled': entry(408, 'The upload stalled', 'Send the file again over a steadier connection.'),
  'idempotency-key-reused': entry(422, 'This Idempotency-Key was used with another request', 'Use a new key for a new request.'),
  'idempotency-key-in-flight': entry(409, 'A request with this Idempotency-Key is still being handled', 'Wait, then repeat it.'),
  'page-token-invalid': entry(422, 'The page token is not one of ours', 'Start again without pageToken.'),
  conflict: entry(409, 'The thing is in a state that does not allow this', 'See the detail.'),
  'in-use': entry(409, 'The thing is used by a job that has not ended', 'Cancel the job or wait for its end.'),
  'range-not-satisfiable': entry(416, 'The range lies outside the content', 'Ask for a range within the size that Content-Range names.'),
  'precondition-failed': entry(412, 'The precondition does not hold', 'Fetch the current ETag and repeat.'),
  'not-acceptable': entry(406, 'None of the accepted types can be produced', 'Accept application/json or text/html.'),
  'service-unavailable': entry(503, 'The service cannot do this now', 'Try again after Retry-After.'),
  'storage-full': entry(507, 'The storage is full', 'Free space or have the operator add some; nothing of the request was kept.'),
  'internal-error': entry(500, 'Something went wrong on our side', 'Try again; report the request id if it stays.'),
  // the model
  'not-onnx': entry(422, 'The file is not an ONNX model', 'Export the model to ONNX and send the .onnx file.'),
  'model-corrupt': entry(422, 'The ONNX file is damaged', 'Export it again; the detail names the place that does not add up.'),
  'model-limit-exceeded': entry(422, 'The model goes beyond a limit of the reader', 'The detail names the limit and its reason.'),
  'external-data-missing': entry(
    422,
    'An external-data file is missing',
    'Send it as a further multipart part, named by its relative path.',
  ),
  'external-data-path': entry(
    422,
    'An external-data path leaves the model’s folder',
    'Save the model with relative paths inside its folder.',
  ),
  'external-data-range': entry(422, 'A tensor’s external data lies outside its file', 'Export again, or send the file whole.'),
  'opset-unsupported': entry(422, 'The opset is not supported', 'Export with an opset within the range that the detail names.'),
  'graph-invalid': entry(422, 'The graph is not valid', 'The detail names the node and what is wrong with it.'),
  'operator-unsupported': entry(
    422,
    'An operator is not known to the runtime',
    'Replace the custom operator, or leave it out of the exported model.',
  ),
  'already-quantized': entry(422, 'The model is quantized already', 'Send the float model that it was made from.'),
  'nothing-to-quantize': entry(422, 'Nothing in the model can be quantized', 'The detail says what the model consists of.'),
  'model-does-not-run': entry(
    422,
    'The float model does not run',
    'Check it in ONNX Runtime with the same data; the detail has the runtime’s words.',
  ),
  'model-not-finite': entry(422, 'The float model gives NaN or Inf on this data', 'Check the data’s preprocessing and the model.'),
  'model-input': entry(
    422,
    'An input of the model cannot be fed',
    'Inputs must be tensors of numbers; leave what turns texts into numbers out of the model.',
  ),
  'model-output': entry(
    422,
    'An output of the model cannot be read',
    'Outputs must be tensors of numbers; leave what makes texts, lists or maps of them out of the model (scikit-learn’s converter: zipmap=False).',
  ),
  'model-deleted': entry(422, 'The model was deleted', 'Upload it again.'),
  // the data
  'not-npz': entry(422, 'The file is not an .npz', 'Save the arrays with numpy.savez.'),
  'dataset-corrupt': entry(422, 'The .npz is damaged', 'Save it again.'),
  'dataset-pickled': entry(422, 'An array holds pickled objects', 'Save plain numeric arrays; pickles are never read.'),
  'dataset-array-refused': entry(422, 'An array is not wanted', 'Name arrays as the model’s inputs, and labels `labels`.'),
  'dataset-missing-input': entry(422, 'An input of the model has no array', 'Add an array named as the input.'),
  'dataset-dtype': entry(422, 'An array has a type that is not taken', 'Convert it to the type that the detail names.'),
  'dataset-shape': entry(422, 'An array’s shape does not fit', 'The detail has both shapes.'),
  'dataset-not-finite': entry(422, 'An array holds NaN or Inf', 'Clean the sample that the detail names.'),
  'dataset-empty': entry(422, 'The data set has no samples', 'Send at least one.'),
  'dataset-labels': entry(422, 'The labels do not fit', 'One integer a sample, or a sequence padded with −1.'),
  'dataset-deleted': entry(422, 'The data set was deleted', 'Upload it again.'),
  // the job
  'calibration-missing': entry(
    422,
    'A static recipe needs calibration data',
    'Give `calibration`, a data set of some hundred representative samples.',
  ),
  'recipe-unsupported': entry(
    422,
    'The recipe asks for what does not exist yet',
    'The detail names the option and what can be used instead.',
  ),
  'profile-forbids': entry(422, 'The device profile forbids what the recipe asks', 'Change the recipe or the profile.'),
  'profile-not-measurable': entry(
    422,
    'No worker can measure this device profile',
    'Start a worker that carries the profile’s labels (WORKER_LABELS), then post the job again.',
  ),
  'metric-unsuitable': entry(422, 'The metric does not fit the data or the output', 'The detail says what the metric needs.'),
  'output-unknown': entry(422, 'The model has no output of this name', 'The detail names the outputs.'),
  'gate-load': entry(422, 'The quantized file does not load', 'This is a fault of ours; the detail names node and cause.'),
  'gate-not-finite': entry(422, 'The quantized model gives NaN or Inf', 'The detail names the node; leave it out with `exclude`.'),
  'gate-io-changed': entry(422, 'The quantized file has other inputs or outputs', 'This is a fault of ours.'),
  'child-crashed': entry(500, 'The job’s process died', 'Tried three times at the same stage; the detail has the signal.'),
  'child-memory': entry(
    500,
    'The job’s process went over its memory limit',
    'Raise JOB_MEMORY_BYTES, or send a smaller model or fewer samples at once.',
  ),
  'child-deadline': entry(500, 'The job went over its deadline', 'Raise JOB_DEADLINE_SECONDS.'),
  canceled: entry(409, 'The job was canceled', 'Start a new one.'),
  // webhooks
  'webhook-target': entry(422, 'The webhook’s address is not allowed', 'Use https and a public address.'),
} as const satisfies Record<string, CatalogueEntry>;
export type ErrorCode = keyof typeof ERRORS;

/** An error a user may see: a code of the catalogue and what exactly happened. */
export class HalftoneError extends Error {
  override readonly name = 'HalftoneError';
  readonly code: ErrorCode;
  readonly detail: string;
  /** JSON pointers into the request, with what is wrong at each. */
  readonly errors: { pointer: string; detail: string }[];
  /** Response headers that belong to the error, as Retry-After. */
  readonly headers: Record<string, string>;
  constructor(
    code: ErrorCode,
    detail: string,
    options: { cause?: unknown; errors?: { pointer: string; detail: string }[]; headers?: Record<string, string> } = {},
  ) {
    super(`${ERRORS[code].title}: ${detail}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.detail = detail;
    this.errors = options.errors ?? [];
    this.headers = options.headers ?? {};
  }
}

/** An error that points at a field of the request. */
export function at(pointer: string, code: ErrorCode, detail: string): HalftoneError {
  return new HalftoneError(code, detail, { errors: [{ pointer, detail }] });
}

/**
 * Whether something failed for want of room on a disk: Node's and PostgreSQL's codes, or their words where a library keeps nothing
 * else, anywhere along the causes (Prisma has its adapter's in `meta`).
 */
export function isOutOfRoom(error: unknown, depth = 0): boolean {
  if (typeof error !== 'object' || error === null || depth > 5) return false;
  const { code, originalCode, message, cause, meta } = error as Record<string, unknown>;
  if ([code, originalCode].some((one) => one === 'ENOSPC' || one === 'EDQUOT' || one === '53100')) return true;
  if (typeof message === 'string' && /no space left on device|disk quota exceeded/i.test(message)) return true;
  return [cause, (meta as { driverAdapterError?: unknown } | undefined)?.driverAdapterError].some((inner) => isOutOfRoom(inner, depth + 1));
}
