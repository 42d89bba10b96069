/** What an API key may do. `write` includes `read`, `admin` includes both and the keys themselves. */
export const SCOPES = ['read', 'write', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** Whether scopes that a key has cover the one that is needed. */
export function covers(have: readonly string[], need: Scope): boolean {
  if (have.includes('admin')) return true;
  if (need === 'read') return have.includes('read') || have.includes('write');
  return have.includes(need);
}
