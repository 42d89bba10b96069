/** Depth of the deepest sensible body is 5. V8 takes a second for a megabyte of brackets, in which nobody else is served. */
const DEEPEST = 32;

/** Whether a JSON text nests deeper than any body of ours; brackets inside strings do not count. */
export function nestsTooDeep(text: string): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x22) {
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
    } else if (code === 0x5b || code === 0x7b) {
      if (++depth > DEEPEST) return true;
    } else if (code === 0x5d || code === 0x7d) depth--;
  }
  return false;
}
