import pino, { type DestinationStream, type Logger } from 'pino';

export type { Logger } from 'pino';

export interface LoggerOptions {
  level: string;
  /** Which process speaks: api, worker, child, … */
  name: string;
  /** Values that must never appear, whatever field they are in: keys and passwords from the configuration. */
  secrets?: readonly (string | null | undefined)[];
  /** Standard output by default. */
  destination?: DestinationStream;
}

/** Fields that hold a secret by their name, at the top and one level down. */
const SECRET_FIELDS = ['authorization', 'cookie', 'password', 'secret', 'secretAccessKey', 'accessKeyId', 'apiKeySecret'];
const CENSOR = '[redacted]';

/**
 * Secrets known by their form. They are looked for in the finished line, because they come in through messages and stacks of
 * other people's errors (a database URL in a connection error, a presigned URL in one of the S3 client's), which no list of
 * fields can name.
 */
const SECRET_FORMS: [RegExp, string][] = [
  [/\bBearer\s+[^"\\\s,]+/gi, `Bearer ${CENSOR}`],
  [/\bhft_[0-9A-Za-z]{6,}/g, `hft_${CENSOR}`],
  [/\bwhsec_[0-9A-Za-z+/=_-]+/g, `whsec_${CENSOR}`],
  [/([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=)[^"&\\\s]*/gi, `$1${CENSOR}`],
  [/(\b[a-z][a-z0-9+.-]*:\/\/)[^\s"/@:]*:[^\s"/@]*@/gi, `$1${CENSOR}@`],
];
/** Shorter values would redact half of every line. */
const SHORTEST_SECRET = 6;

/**
 * A logger that writes a JSON line for each event, without keys, secrets or presigned URLs in it.
 * Request and job ids belong into child loggers' bindings: `log.child({ job: id })`.
 */
export function createLogger({ level, name, secrets = [], destination }: LoggerOptions): Logger {
  // As they stand inside a JSON string.
  const known = secrets.flatMap((secret) => (secret && secret.length >= SHORTEST_SECRET ? [JSON.stringify(secret).slice(1, -1)] : []));
  const options = {
    name,
    level,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: {
      paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]).concat([
        'req.headers.authorization',
        'req.headers.cookie',
        'headers.authorization',
      ]),
      censor: CENSOR,
    },
    hooks: {
      streamWrite(line: string): string {
        let clean = line;
        for (const secret of known) clean = clean.replaceAll(secret, CENSOR);
        for (const [form, replacement] of SECRET_FORMS) clean = clean.replace(form, replacement);
        return clean;
      },
    },
  };
  return destination === undefined ? pino(options) : pino(options, destination);
}
