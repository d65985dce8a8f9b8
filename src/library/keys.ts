import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { suggestion } from "../base/names.ts";
import { DATABASE_FILE, openDatabaseBeside } from "../jobs/home/database.ts";
import { openHome } from "../jobs/home/home.ts";
import { createKeyStore, type KeyRecord, type KeyStore } from "../jobs/home/keys.ts";
import { KEY_NAME, type Scope, SCOPES } from "../jobs/home/scopes.ts";
import { AUDIT_FILE, createAudit } from "../serve/home/access.ts";
import { validateOptions } from "./options.ts";

export const keyOptionsSchema = z.strictObject({
  home: z.string().min(1).describe("folder of the server's state"),
});

export const newKeyOptionsSchema = keyOptionsSchema.extend({
  name: z
    .string()
    .regex(KEY_NAME.pattern, { error: `expected ${KEY_NAME.description}` })
    .describe("what the key is called in the audit"),
  scopes: z
    .array(z.enum(SCOPES, { error: `expected ${SCOPES.join(", ")}` }))
    .min(1)
    .describe(`what it opens: ${SCOPES.join(", ")} (everything)`),
});

export type KeyOptions = z.input<typeof keyOptionsSchema>;
export type NewKeyOptions = z.input<typeof newKeyOptionsSchema>;

/** A key of a home, without its secret. */
export interface Key {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Unix time. */
  readonly createdAt: number;
}

export interface NewKey extends Key {
  /** What clients send; it is kept nowhere. */
  readonly secret: string;
}

/** Makes a key, whether or not a server works in the home; a home that is not there yet is made. @throws {UserError} */
export function createKey(options: NewKeyOptions): NewKey {
  const { home, name, scopes } = validateOptions(newKeyOptionsSchema, options);
  if (!existsSync(databaseOf(home))) openHome(home).close();
  return withKeys(home, (keys, note) => {
    const { key, secret } = keys.create(name, [...new Set(scopes)]);
    note("POST", "/v1/keys");
    return { ...keyOf(key), secret };
  });
}

/** Keys by the time at which they were made. @throws {UserError} a folder that is no home */
export function listKeys(options: KeyOptions): Key[] {
  const { home } = validateOptions(keyOptionsSchema, options);
  return withKeys(home, (keys) => keys.list().map(keyOf));
}

/** Deletes a key: from the next request on it opens nothing. @throws {UserError} an id that is no key's */
export function deleteKey(id: string, options: KeyOptions): Key {
  const { home } = validateOptions(keyOptionsSchema, options);
  return withKeys(home, (keys, note) => {
    const all = keys.list();
    const key = all.find((each) => each.id === id);
    if (!key || !keys.delete(id)) {
      const ids = all.map((each) => each.id);
      throw new UserError(`there is no key ${JSON.stringify(id)} in ${home}${suggestion(id, ids)}; remat keys list shows them`);
    }
    note("DELETE", `/v1/keys/${id}`);
    return keyOf(key);
  });
}

const databaseOf = (home: string): string => join(resolve(home), DATABASE_FILE);

/** @param use is given what adds a line to the audit */
function withKeys<T>(home: string, use: (keys: KeyStore, note: (method: string, path: string) => void) => T): T {
  const path = databaseOf(home);
  if (!existsSync(path))
    throw new UserError(`--home ${home}: there is no ${DATABASE_FILE} in it; it is a folder of remat serve --home`);
  const database = openDatabaseBeside(path);
  try {
    const audit = createAudit(join(resolve(home), AUDIT_FILE));
    return use(createKeyStore({ database }), (method, where) =>
      audit.add({ caller: "remat keys", method, path: where, status: 200 }),
    );
  } finally {
    database.close();
  }
}

const keyOf = ({ id, name, scopes, created_at }: KeyRecord): Key => ({ id, name, scopes, createdAt: created_at });
