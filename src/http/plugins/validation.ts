import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { HalftoneError } from '../../domain/errors.ts';
import type { App } from '../types.ts';

/** What a query's text stands for; text that is no such thing is left to the schema to refuse. TypeBox's own conversion makes 5 of "5.5" and 0 of "". */
function fromText(schema: { type?: unknown }, value: unknown): unknown {
  if (typeof value !== 'string') return value;
  if (schema.type === 'integer') return /^-?\d{1,15}$/.test(value) ? Number(value) : value;
  if (schema.type === 'number') return /^-?\d{1,15}(\.\d{1,15})?$/.test(value) ? Number(value) : value;
  if (schema.type === 'boolean') return value === 'true' ? true : value === 'false' ? false : value;
  return value;
}

const isPlain = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype);

const holdsNul = (pointer: string) =>
  new HalftoneError('validation-failed', `${pointer || 'The body'} holds a NUL.`, { errors: [{ pointer, detail: 'holds a NUL' }] });

function refuseNul(value: unknown, pointer: string): void {
  if (typeof value === 'string' && value.includes('\0')) throw holdsNul(pointer);
  if (!isPlain(value)) return;
  for (const [name, member] of Object.entries(value)) {
    if (name.includes('\0')) throw holdsNul(pointer);
    refuseNul(member, `${pointer}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`);
  }
}

/** Validates with TypeBox; answers are written as they are (their schemas are checked by the compiler and the tests, a serializer would silently drop what they miss). */
export function registerValidation(app: App): void {
  app.setValidatorCompiler(({ schema, httpPart }) => {
    const validator = Compile(schema as TSchema);
    const properties = (schema as { properties?: Record<string, { type?: unknown }> }).properties ?? {};
    return (value: unknown) => {
      const input =
        httpPart === 'querystring' && typeof value === 'object' && value !== null
          ? Object.fromEntries(Object.entries(value).map(([name, text]) => [name, fromText(properties[name] ?? {}, text)]))
          : value;
      if (validator.Check(input)) return { value: input };
      return { error: validator.Errors(input) as unknown as Error };
    };
  });
  // PostgreSQL takes no NUL in a text, and nothing of ours has one in its name.
  app.addHook('preValidation', async (request) => {
    for (const value of Object.values((request.params ?? {}) as Record<string, unknown>)) {
      if (typeof value === 'string' && value.includes('\0'))
        throw new HalftoneError('not-found', 'There is nothing whose name holds a NUL.');
    }
    for (const [name, value] of Object.entries((request.query ?? {}) as Record<string, unknown>)) {
      if (typeof value === 'string' && value.includes('\0')) throw holdsNul(`/query/${name}`);
    }
  });
  // After the schema, which bounds how deep a body goes.
  app.addHook('preHandler', async (request) => {
    if (isPlain(request.body)) refuseNul(request.body, '');
  });
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
}
