/** Which of the types that can be produced a client likes best (RFC 9110, section 12.5.1); null where it takes none of them. The first one offered wins a draw. */
export function preferred(accept: string | undefined, offered: readonly string[]): string | null {
  if (accept === undefined || accept.trim() === '') return offered[0] ?? null;
  const ranges = accept.split(',').map((part) => {
    const [type = '', ...parameters] = part.split(';').map((word) => word.trim().toLowerCase());
    const q = parameters.find((parameter) => parameter.startsWith('q='));
    const weight = q === undefined ? 1 : Number(q.slice(2));
    return { type, weight: Number.isFinite(weight) ? weight : 0 };
  });
  let best: { type: string; weight: number } | null = null;
  for (const type of offered) {
    const [family] = type.split('/');
    // The most specific range that names the type decides its weight.
    const match =
      ranges.find((range) => range.type === type) ??
      ranges.find((range) => range.type === `${family}/*`) ??
      ranges.find((range) => range.type === '*/*');
    if (match && match.weight > 0 && (best === null || match.weight > best.weight)) best = { type, weight: match.weight };
  }
  return best?.type ?? null;
}
