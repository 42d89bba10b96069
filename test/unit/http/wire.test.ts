import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { preferred } from '../../../src/http/accept.ts';
import { nestsTooDeep } from '../../../src/http/json.ts';
import { preferredWait } from '../../../src/http/prefer.ts';
import { schemaErrors, toHalftoneError } from '../../../src/http/problem.ts';
import { requestedContent } from '../../../src/http/ranges.ts';
import { lastEventId, sseStream } from '../../../src/http/sse.ts';
import { watched } from '../../../src/http/upload.ts';

describe('Accept', () => {
  const offered = ['application/json', 'text/html'];
  it.each([
    [undefined, 'application/json'],
    ['', 'application/json'],
    ['*/*', 'application/json'],
    ['text/html', 'text/html'],
    ['text/*', 'text/html'],
    ['text/html;q=0.5, application/json;q=0.4', 'text/html'],
    ['text/html, application/json', 'application/json'],
    ['application/json;q=0, */*', 'text/html'],
    ['TEXT/HTML; charset=utf-8', 'text/html'],
    ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', 'text/html'],
    ['image/png', null],
    ['*/*;q=0', null],
    [';;,,q=', null],
  ])('%s → %s', (header, type) => expect(preferred(header, offered)).toBe(type));
});

describe('Prefer: wait', () => {
  it.each([
    ['wait=10', 10],
    ['respond-async, wait=10', 10],
    ['wait = "7"; foo', 7],
    ['wait=100000', 60],
    ['await=5', 0],
    ['wait=abc', 0],
    ['wait=-1', 0],
    [undefined, 0],
  ])('%s → %s', (header, seconds) => expect(preferredWait(header)).toBe(seconds));
});

describe('ranges', () => {
  const etag = '"abc"';
  it('stay within the content whatever is asked', () => {
    const number = fc.option(fc.nat({ max: 3000 }), { nil: undefined });
    fc.assert(
      fc.property(number, number, fc.nat({ max: 2000 }), (start, end, size) => {
        if (start === undefined && end === undefined) return;
        try {
          const { status, range } = requestedContent({ range: `bytes=${start ?? ''}-${end ?? ''}` }, etag, size);
          if (status === 206) {
            expect(range.start).toBeGreaterThanOrEqual(0);
            expect(range.end).toBeLessThan(size);
            expect(range.start).toBeLessThanOrEqual(range.end);
            if (start !== undefined) expect(range.start).toBe(start);
          } else expect(range).toEqual({ start: 0, end: size - 1 });
        } catch (error) {
          expect(error).toMatchObject({ code: 'range-not-satisfiable', headers: { 'content-range': `bytes */${size}` } });
          expect(start === undefined ? end === 0 || size === 0 : start >= size).toBe(true);
        }
      }),
    );
  });
  it('of another form are ignored', () => {
    for (const range of ['items=0-1', 'bytes=5-2', 'bytes=a-b', 'bytes', 'bytes=0-1,3-4', 'bytes=--1', '']) {
      expect(requestedContent({ range }, etag, 10).status).toBe(200);
    }
  });
  it('conditions come first', () => {
    expect(requestedContent({ 'if-none-match': '*' }, etag, 10).status).toBe(304);
    expect(requestedContent({ 'if-none-match': 'W/"abc"', range: 'bytes=0-1' }, etag, 10).status).toBe(304);
    expect(requestedContent({ 'if-none-match': '"abcd"' }, etag, 10).status).toBe(200);
    expect(requestedContent({ 'if-range': 'W/"abc"', range: 'bytes=0-1' }, etag, 10).status).toBe(200);
    expect(() => requestedContent({ 'if-match': 'W/"abc"' }, etag, 10)).toThrow(expect.objectContaining({ code: 'precondition-failed' }));
    expect(requestedContent({ 'if-match': '"x", "abc"' }, etag, 10).status).toBe(200);
  });
});

describe('events', () => {
  it('are framed one by one, a null as a comment', async () => {
    const stream = sseStream(
      (async function* () {
        yield { id: 1, event: 'stage', data: { text: 'two\nlines' } };
        yield null;
      })(),
    );
    let text = '';
    for await (const chunk of stream) text += chunk;
    expect(text).toBe('retry: 2000\n\nid: 1\nevent: stage\ndata: {"text":"two\\nlines"}\n\n: \n\n');
  });
  it('resume after a number of ours', () => {
    expect(lastEventId('12')).toBe(12);
    for (const other of [undefined, '', 'abc', '-1', '1.5', '99999999999']) expect(lastEventId(other)).toBe(0);
  });
});

describe('problems', () => {
  it('points at fields, also at those with odd names', () => {
    const errors = schemaErrors('body', [
      { keyword: 'required', instancePath: '/a', params: { requiredProperties: ['x/y', 'z~'] } },
      { keyword: 'boolean', instancePath: '/q' },
      { keyword: 'minimum', instancePath: '/n', message: 'must be >= 1' },
      { keyword: 'minimum', instancePath: '/n', message: 'must be >= 1' },
    ]);
    expect(errors).toEqual([
      { pointer: '/a/x~1y', detail: 'is missing' },
      { pointer: '/a/z~0', detail: 'is missing' },
      { pointer: '/n', detail: 'must be >= 1' },
    ]);
  });
  it('says nothing of what it does not know', () => {
    expect(toHalftoneError(new Error('password=1234')).detail).not.toContain('1234');
    expect(toHalftoneError('a string').code).toBe('internal-error');
    expect(toHalftoneError(Object.assign(new Error('x'), { code: 'ENOSPC' })).code).toBe('storage-full');
    expect(toHalftoneError(Object.assign(new Error('x'), { code: 'ECONNREFUSED' })).code).toBe('service-unavailable');
  });
});

describe('uploads', () => {
  const limits = { stallMs: 200, leastBytes: 10, longestMs: 2000 };
  const gather = async (source: AsyncIterable<Uint8Array>) => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of source) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  };

  it('pass whole', async () => {
    const source = new PassThrough();
    source.write('ab');
    setTimeout(() => source.end('cd'), 20);
    expect(await gather(watched(source, limits))).toBe('abcd');
  });
  it('that end before are empty', async () => {
    const source = new PassThrough();
    source.end();
    expect(await gather(watched(source, limits))).toBe('');
  });
  it('are incomplete when the source is destroyed', async () => {
    const source = new PassThrough();
    source.write('ab');
    setTimeout(() => source.destroy(), 20);
    await expect(gather(watched(source, limits))).rejects.toMatchObject({
      code: 'upload-incomplete',
      detail: expect.stringContaining('2 bytes'),
    });
  });
  it('are cut when they stall, and leave the source standing', async () => {
    const source = new PassThrough();
    source.write('ab');
    await expect(gather(watched(source, limits))).rejects.toMatchObject({ code: 'upload-stalled' });
    expect(source.destroyed).toBe(false);
  });
  it('are not blamed for a slow reader', async () => {
    const source = new PassThrough();
    for (let i = 0; i < 5; i++) source.write('a'.repeat(20));
    source.end();
    let seen = 0;
    for await (const chunk of watched(source, limits)) {
      seen += chunk.length;
      await new Promise((resolve) => setTimeout(resolve, 120));
    }
    expect(seen).toBe(100);
  });
  it('hold no more than a few chunks', async () => {
    const source = new PassThrough({ highWaterMark: 1000 });
    const reader = watched(source, limits)[Symbol.asyncIterator]();
    source.write(Buffer.alloc(1000));
    await reader.next();
    for (let i = 0; i < 50; i++) source.write(Buffer.alloc(1000));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(source.writableLength + source.readableLength).toBeGreaterThan(40_000);
    await reader.return?.(undefined);
  });
});

describe('nesting', () => {
  it('counts brackets outside of strings', () => {
    const deep = (n: number) => `${'[{"a":'.repeat(n)}1${'}]'.repeat(n)}`;
    expect(nestsTooDeep(deep(16))).toBe(false);
    expect(nestsTooDeep(deep(17))).toBe(true);
    expect(nestsTooDeep(JSON.stringify({ a: '['.repeat(1000), '{{{{\\"[': '\\'.repeat(33) }))).toBe(false);
    fc.assert(fc.property(fc.json({ maxDepth: 8 }), (text) => !nestsTooDeep(text)));
  });
});
