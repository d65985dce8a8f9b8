import { createHash, randomBytes } from "node:crypto";
import { type Home, newId, now } from "./home.ts";
import type { Scope } from "./scopes.ts";

/** A key without its secret, of which only the hash is kept. */
export interface KeyRecord {
  readonly number: number;
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly created_at: number;
}

export interface KeyStore {
  /** Makes a key; its secret is never seen again. */
  create(name: string, scopes: readonly Scope[]): { readonly key: KeyRecord; readonly secret: string };
  list(): KeyRecord[];
  delete(id: string): boolean;
  /** The key of a secret, or null. */
  find(secret: string): KeyRecord | null;
  readonly count: number;
}

export function createKeyStore({ database }: Pick<Home, "database">): KeyStore {
  return {
    create(name, scopes) {
      // 256 random bits: no salt and no slow hash make them harder to guess.
      const secret = `rk-${randomBytes(32).toString("base64url")}`;
      const id = newId("key");
      database.run("INSERT INTO keys (id, name, hash, scopes, created_at) VALUES (?, ?, ?, ?, ?)", [
        id,
        name,
        hashOf(secret),
        scopes.join(" "),
        now(),
      ]);
      return { key: keyOf(database.query("SELECT * FROM keys WHERE id = ?").get(id) as Row), secret };
    },
    list: () => (database.query("SELECT * FROM keys ORDER BY number").all() as Row[]).map(keyOf),
    delete: (id) => database.run("DELETE FROM keys WHERE id = ?", [id]).changes > 0,
    find(secret) {
      const row = database.query("SELECT * FROM keys WHERE hash = ?").get(hashOf(secret));
      return row === null ? null : keyOf(row as Row);
    },
    get count() {
      return (database.query("SELECT count(*) AS count FROM keys").get() as { readonly count: number }).count;
    },
  };
}

interface Row extends Omit<KeyRecord, "scopes"> {
  readonly scopes: string;
}

function keyOf({ number, id, name, scopes, created_at }: Row): KeyRecord {
  return { number, id, name, scopes: scopes.split(" ") as Scope[], created_at };
}

function hashOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}
