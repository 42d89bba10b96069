import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import type { App } from '../types.ts';

/** What a query's text stands for; text that is no such thing is left to the schema to refuse. TypeBox's own conversion makes 5 of "5.5" and 0 of "". */
function fromText(schema: { type?: unknown }, value: unknown): unknown {
  if (typeof value !== 'string') return value;
  if (schema.type === 'integer') return /^-?\d{1,15}$/.test(value) ? Number(value) : value;
  if (schema.type === 'number') return /^-?\d{1,15}(\.\d{1,15})?$/.test(value) ? Number(value) : value;
  if (schema.type === 'boolean') return value === 'true' ? true : value === 'false' ? false : value;
  return value;
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
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
}
