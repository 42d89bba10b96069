/** API keys: made, listed, deleted, and told apart at the door. */
import { HalftoneError } from '../domain/errors.ts';
import { SCOPES, type Scope } from '../domain/keys.ts';
import { type ApiKeyRecord, keys, type Tx } from '../store/db/index.ts';
import type { ServiceContext } from './context.ts';
import { hashApiKey, isMistypedKey, keyHint, newApiKey, sameHash } from './key-format.ts';
import { type Page, type PageRequest, page } from './pages.ts';

/** Whose request it is. */
export interface Principal {
  /** key_… */
  id: string;
  name: string;
  scopes: string[];
}

export interface ApiKeyView {
  id: string;
  name: string;
  /** The key's first characters. */
  hint: string;
  scopes: Scope[];
  createdAt: string;
  expiresAt: string | null;
  lastUsedAt: string | null;
}
/** The one answer that holds the key itself. */
export interface NewApiKeyView extends ApiKeyView {
  secret: string | null;
}

const view = (row: ApiKeyRecord): ApiKeyView => ({
  id: row.id,
  name: row.name,
  hint: row.hint,
  scopes: SCOPES.filter((scope) => row.scopes.includes(scope)),
  createdAt: row.createdAt.toISOString(),
  expiresAt: row.expiresAt?.toISOString() ?? null,
  lastUsedAt: row.lastUsedAt?.toISOString() ?? null,
});

/** Names the key that the environment gave: when that changes, the one before stops working. */
const ENVIRONMENT_KEY = 'HALFTONE_API_KEY';
/** Shorter ones can be guessed. */
const SHORTEST_ENVIRONMENT_KEY = 16;

export class KeyService {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /**
   * Sees to it that there is an admin key at start: the configured one, or else, when there is no key at all, a new one.
   * @returns the new key, to be printed once; null where none was made
   */
  async ensureFirst(configured: string | undefined): Promise<string | null> {
    if (configured !== undefined) {
      if (configured.length < SHORTEST_ENVIRONMENT_KEY) {
        throw new Error(`${ENVIRONMENT_KEY} has ${configured.length} characters; ${SHORTEST_ENVIRONMENT_KEY} are the least`);
      }
      const { db } = this.#context;
      const key = await keys.ensure(db.client, {
        name: ENVIRONMENT_KEY,
        hash: hashApiKey(configured),
        hint: keyHint(configured),
        scopes: ['admin'],
        bootstrap: true,
      });
      for (const old of await keys.list(db.client, { limit: 1000 })) {
        if (old.bootstrap && old.name === ENVIRONMENT_KEY && old.id !== key.id) await keys.remove(db.client, old.id);
      }
      return null;
    }
    return this.#context.db.transaction(async (tx) => {
      // Two processes that start together on an empty database must not both make one.
      await tx.$executeRaw`select pg_advisory_xact_lock(7264182, 1)`;
      if ((await keys.count(tx)) > 0) return null;
      const secret = newApiKey();
      await keys.create(tx, { name: 'First key', hash: hashApiKey(secret), hint: keyHint(secret), scopes: ['admin'], bootstrap: true });
      return secret;
    });
  }

  /**
   * Who sends this Authorization header.
   * @throws HalftoneError `unauthenticated`
   */
  async authenticate(authorization: string | undefined): Promise<Principal> {
    const challenge = { headers: { 'www-authenticate': 'Bearer realm="halftone"' } };
    const refuse = (why: string) => new HalftoneError('unauthenticated', why, challenge);
    if (authorization === undefined) throw refuse('The request has no Authorization header.');
    const token = /^Bearer +([\x21-\x7e]{1,512})$/i.exec(authorization)?.[1];
    if (token === undefined) throw refuse('The Authorization header is not of the form `Bearer <key>`.');
    const hash = hashApiKey(token);
    const { db } = this.#context;
    const row = await keys.findByHash(db.client, hash);
    if (row === null || !sameHash(row.hash, hash)) {
      throw refuse(isMistypedKey(token) ? 'The key’s checksum is wrong: it was mistyped or cut off.' : 'The key is not known.');
    }
    if (row.expiresAt !== null && row.expiresAt.getTime() <= Date.now()) throw refuse(`The key expired at ${row.expiresAt.toISOString()}.`);
    // Nobody waits for it, and a request must not fail because of it.
    keys.touch(db.client, row.id).catch((error) => this.#context.log.warn({ err: error }, 'the last use of a key was not noted'));
    return { id: row.id, name: row.name, scopes: row.scopes };
  }

  async create(
    input: { name: string; scopes: Scope[]; expiresAt?: string | null },
    commit: (tx: Tx, key: NewApiKeyView) => Promise<void>,
  ): Promise<NewApiKeyView> {
    const expiresAt = input.expiresAt ? new Date(input.expiresAt) : null;
    if (expiresAt !== null && expiresAt.getTime() <= Date.now()) {
      throw new HalftoneError('validation-failed', 'expiresAt lies in the past.', {
        errors: [{ pointer: '/expiresAt', detail: 'lies in the past' }],
      });
    }
    const secret = newApiKey();
    return this.#context.db.transaction(async (tx) => {
      const row = await keys.create(tx, {
        name: input.name,
        hash: hashApiKey(secret),
        hint: keyHint(secret),
        scopes: [...new Set(input.scopes)],
        expiresAt,
      });
      const made = { ...view(row), secret };
      await commit(tx, made);
      return made;
    });
  }

  async list(request: PageRequest): Promise<Page<ApiKeyView>> {
    return page(
      'api-keys',
      request,
      (query) => keys.list(this.#context.db.client, query),
      (rows) => rows.map(view),
    );
  }

  async get(id: string): Promise<ApiKeyView> {
    const row = await keys.get(this.#context.db.client, id);
    if (row === null) throw new HalftoneError('not-found', `There is no API key ${id}.`);
    return view(row);
  }

  /** The last key that may make others cannot be deleted: nobody could get in any more. */
  async remove(id: string): Promise<void> {
    await this.#context.db.transaction(async (tx) => {
      await tx.$executeRaw`select pg_advisory_xact_lock(7264182, 1)`;
      const row = await keys.get(tx, id);
      if (row === null) throw new HalftoneError('not-found', `There is no API key ${id}.`);
      if (row.scopes.includes('admin')) {
        const others = await tx.apiKey.count({
          where: { id: { not: id }, scopes: { has: 'admin' }, OR: [{ expiresAt: null }, { expiresAt: { gt: new Date() } }] },
        });
        if (others === 0) throw new HalftoneError('conflict', 'This is the last admin key; make another one first.');
      }
      await keys.remove(tx, id);
    });
  }
}
