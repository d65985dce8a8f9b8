import { existsSync, rmSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { type AtomicFile, openAtomic } from "../../base/files/files.ts";
import { type Home, newId, now } from "./home.ts";

/** Purposes of files: what is trained on, and what a job has measured. */
export type Purpose = "fine-tune" | "fine-tune-results";

/** An uploaded file. Several may have the same bytes, which are stored once. */
export interface FileRecord {
  readonly number: number;
  readonly id: string;
  readonly sha256: string;
  /** The ending of the stored file, by which readers tell some formats. */
  readonly kind: string;
  readonly bytes: number;
  readonly created_at: number;
  readonly expires_at: number | null;
  readonly filename: string;
  readonly purpose: Purpose;
}

/** Endings that say something to readers of data; a file of any other name is stored as what its bytes are. */
const KINDS: ReadonlySet<string> = new Set([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jinja"]);

/** A file that is being written under its hash. */
export interface Upload {
  readonly bytes: number;
  /** @throws {UserError} */
  write(piece: Uint8Array): void;
  finish(about: { readonly filename: string; readonly purpose: Purpose; readonly lifetime: number | null }): FileRecord;
  /** Instead of `finish`: nothing is left. */
  discard(): void;
}

export interface Page<T> {
  readonly data: readonly T[];
  readonly has_more: boolean;
}

/** Which part of a list is wanted. */
export interface PageQuery {
  /** The number of the entry that the page begins behind; null: with the first. */
  readonly after: number | null;
  readonly limit: number;
}

export interface FileStore {
  begin(): Upload;
  get(id: string): FileRecord | null;
  list(query: PageQuery & { readonly order: "asc" | "desc"; readonly purpose: string | null }): Page<FileRecord>;
  /** The stored bytes. */
  pathOf(file: Pick<FileRecord, "sha256" | "kind">): string;
  delete(file: FileRecord): void;
  /** Deletes files whose time is over, except those that `isUsed` says are in use. */
  expire(isUsed: (id: string) => boolean): void;
}

export function createFileStore({ database, files }: Home): FileStore {
  let uploads = 0;
  const pathOf = ({ sha256, kind }: Pick<FileRecord, "sha256" | "kind">) => join(files, `${sha256}${kind}`);
  const get = (id: string) => database.query("SELECT * FROM files WHERE id = ?").get(id) as FileRecord | null;
  const store: FileStore = {
    pathOf,
    get,
    begin() {
      const draft = join(files, `.upload-${process.pid}-${uploads++}`);
      const hash = new Bun.CryptoHasher("sha256");
      const file: AtomicFile = openAtomic(draft);
      let bytes = 0;
      return {
        get bytes() {
          return bytes;
        },
        write(piece) {
          hash.update(piece);
          file.write(piece);
          bytes += piece.length;
        },
        finish({ filename, purpose, lifetime }) {
          const ending = extname(filename).toLowerCase();
          const kind = KINDS.has(ending) ? ending : ".jsonl";
          const sha256 = hash.digest("hex");
          const path = pathOf({ sha256, kind });
          if (existsSync(path) && statSync(path).size === bytes) file.discard();
          else file.finish(path);
          const id = newId("file");
          const created = now();
          database.run(
            "INSERT INTO files (id, sha256, kind, bytes, created_at, expires_at, filename, purpose) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [id, sha256, kind, bytes, created, lifetime === null ? null : created + lifetime, filename, purpose],
          );
          return get(id)!;
        },
        discard: file.discard,
      };
    },
    list({ after, limit, order, purpose }) {
      const [compare, direction] = order === "asc" ? [">", "ASC"] : ["<", "DESC"];
      const rows = database
        .query(
          `SELECT * FROM files WHERE (?1 IS NULL OR number ${compare} ?1) AND (?2 IS NULL OR purpose = ?2) ORDER BY number ${direction} LIMIT ?3`,
        )
        .all(after, purpose, limit + 1) as FileRecord[];
      return { data: rows.slice(0, limit), has_more: rows.length > limit };
    },
    delete(file) {
      database.run("DELETE FROM files WHERE id = ?", [file.id]);
      const others = database.query("SELECT 1 FROM files WHERE sha256 = ? AND kind = ?").get(file.sha256, file.kind);
      if (others === null) rmSync(pathOf(file), { force: true });
    },
    expire(isUsed) {
      const over = database.query("SELECT * FROM files WHERE expires_at <= ?").all(now()) as FileRecord[];
      for (const file of over) if (!isUsed(file.id)) store.delete(file);
    },
  };
  return store;
}
