import { Database } from "bun:sqlite";
import { existsSync, renameSync, rmSync, statSync } from "node:fs";
import { messageOf, UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";

/** The database of a home, and the copy of it that each start makes when it has found it whole. */
export const DATABASE_FILE = "remat.sqlite";
export const BACKUP_FILE = "remat.backup.sqlite";

/** The number by which a database is known for one of Remat's: "Rmat". */
const APPLICATION = 0x526d6174;

/**
 * What each version of the schema adds to the one before it. A row is never changed once it has been released: the databases that it has
 * made are upgraded by the rows behind it.
 */
const UPGRADES: readonly string[] = [
  `
  CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL
  ) STRICT;
  CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    paused INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    base TEXT NOT NULL,
    parent TEXT,
    name TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    config TEXT NOT NULL,
    examination TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    sudden_ends INTEGER NOT NULL DEFAULT 0,
    step INTEGER NOT NULL DEFAULT 0,
    trained_tokens INTEGER,
    result_file TEXT,
    error TEXT,
    kept TEXT NOT NULL DEFAULT 'whole' CHECK (kept IN ('whole', 'model', 'nothing')),
    idempotency_key TEXT UNIQUE,
    request_hash TEXT NOT NULL
  ) STRICT;
  CREATE INDEX jobs_by_status ON jobs (status, number);
  CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id),
    created_at INTEGER NOT NULL,
    level TEXT NOT NULL,
    type TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT,
    kind TEXT,
    step INTEGER,
    UNIQUE (job, kind, step)
  ) STRICT;
  CREATE INDEX events_by_job ON events (job, number);
  CREATE TABLE adapters (
    name TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE keys (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT;
  `,
];

/**
 * Opens the database of a home, which is made where there is none, and upgraded where it is of an older version. What is committed
 * is on the disk: a write-ahead log that is synced.
 * @throws {UserError} a file that is damaged, of a newer version, or not Remat's; it is left as it is
 */
export function openDatabase(path: string, upgrades = UPGRADES): Database {
  let database: Database | null = null;
  try {
    database = new Database(path, { create: true, strict: true });
    ask(database, "PRAGMA busy_timeout = 5000");
    const version = check(database, path, upgrades.length);
    ask(database, "PRAGMA journal_mode = WAL");
    ask(database, "PRAGMA synchronous = FULL");
    // The log only grows while the server runs, and the database beneath it stays as it is, so that a copy of both at any time is whole.
    ask(database, "PRAGMA wal_autocheckpoint = 0");
    // A database that has just got its log is locked until it is read.
    ask(database, "SELECT count(*) FROM sqlite_schema");
    ask(database, "PRAGMA wal_checkpoint(TRUNCATE)");
    ask(database, "PRAGMA foreign_keys = ON");
    if (version < upgrades.length) upgrade(database, upgrades, version);
    return database;
  } catch (error) {
    database?.close();
    throw error instanceof UserError ? error : problem(path, error);
  }
}

/**
 * Opens a database that a server may be working with: it is made by nobody here, and its log stays as it is, so that a copy that is being made of
 * both is whole.
 * @throws {UserError} a file that is damaged or of another version
 */
export function openDatabaseBeside(path: string): Database {
  let database: Database | null = null;
  try {
    database = new Database(path, { readwrite: true, create: false, strict: true });
    ask(database, "PRAGMA busy_timeout = 5000");
    if (check(database, path, UPGRADES.length) < UPGRADES.length)
      throw new UserError(`${path} is of an older version of Remat; start the server once, which upgrades it`);
    ask(database, "PRAGMA synchronous = FULL");
    ask(database, "PRAGMA wal_autocheckpoint = 0");
    return database;
  } catch (error) {
    database?.close();
    throw error instanceof UserError ? error : problem(path, error);
  }
}

/**
 * Commits something that may be lost when the machine, and not only this process, ends suddenly: it waits for no disk, which would hold answers
 * up. The next commit that is synced syncs it too.
 */
export function commitLazily(database: Database, write: () => void): void {
  ask(database, "PRAGMA synchronous = NORMAL");
  try {
    database.transaction(write)();
  } finally {
    ask(database, "PRAGMA synchronous = FULL");
  }
}

/** Bytes of the log from which on it goes into the database although the server runs. */
const LONGEST_LOG = 256 << 20;

/** Empties a log that has become too long. */
export function trimLog(database: Database): void {
  const log = statSync(`${database.filename}-wal`, { throwIfNoEntry: false });
  if (log && log.size > LONGEST_LOG) ask(database, "PRAGMA wal_checkpoint(TRUNCATE)");
}

/** Copies a database that was found whole, so that there is a way back from a damaged one. */
export function backUp(database: Database, path: string): void {
  const draft = `${path}.tmp`;
  try {
    rmSync(draft, { force: true });
    database.run("VACUUM INTO ?", [draft]);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw fileError("write", path, error);
  }
}

/** The first value of a statement's answer. A statement that is not ended holds the database. */
function ask(database: Database, text: string): unknown {
  const statement = database.prepare(text);
  try {
    return statement.values()[0]?.[0];
  } finally {
    statement.finalize();
  }
}

/** Returns the version of the schema; 0: there is none yet. @throws {UserError} */
function check(database: Database, path: string, newest: number): number {
  const first = (text: string) => ask(database, text);
  const [application, version] = [Number(first("PRAGMA application_id")), Number(first("PRAGMA user_version"))];
  if (Number(first("SELECT count(*) FROM sqlite_schema")) === 0) return 0;
  if (application !== APPLICATION)
    throw new UserError(`${path} is a database of another program, and is left as it is; choose another --home`);
  if (version > newest) {
    throw new UserError(
      `${path} was written by a newer version of Remat (schema ${version}, this one knows ${newest}); use that version, or put back a copy of the home that this version wrote`,
    );
  }
  const found = first("PRAGMA quick_check(1)");
  if (found !== "ok") throw new Error(String(found));
  return version;
}

function upgrade(database: Database, upgrades: readonly string[], version: number): void {
  database.transaction(() => {
    for (const text of upgrades.slice(version)) database.run(text);
    database.run(`PRAGMA application_id = ${APPLICATION}`);
    database.run(`PRAGMA user_version = ${upgrades.length}`);
  })();
}

/** Says what is wrong with a database that SQLite cannot use, and the way back. */
function problem(path: string, error: unknown): UserError {
  if (isFull(error)) return new UserError(`cannot write ${path}: the disk is full; free some space`, 2, { cause: error });
  const backup = path.replace(DATABASE_FILE, BACKUP_FILE);
  const way = existsSync(backup)
    ? `put the copy of the last good start in its place (cp ${backup} ${path}, without the files ${DATABASE_FILE}-wal and -shm)`
    : "put back a copy of the home, or move the file away to begin with an empty one";
  return new UserError(
    `${path} cannot be read as a database (${messageOf(error)}); ${way}. Uploads and run folders beside it are whole files of their own, and stay`,
    2,
    { cause: error },
  );
}

/** Tells whether SQLite could not write because the disk is full. */
export function isFull(error: unknown): boolean {
  return typeof error === "object" && error !== null && "code" in error && error.code === "SQLITE_FULL";
}
