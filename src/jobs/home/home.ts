import type { Database } from "bun:sqlite";
import { lstatSync, realpathSync } from "node:fs";
import { join, resolve, sep } from "node:path";
import { UserError } from "../../base/errors.ts";
import { makeFolder } from "../../base/files/files.ts";
import { holderOf, lockRun } from "../../train/run/lock.ts";
import { BACKUP_FILE, backUp, DATABASE_FILE, openDatabase } from "./database.ts";

/**
 * The folder that a server keeps its state in: a database, uploaded files by their SHA-256, and a run folder for each job. A copy of
 * it is a backup, also while the server runs: the database's log is copied along, and files and checkpoints appear whole.
 */
export interface Home {
  readonly folder: string;
  readonly database: Database;
  /** The folder of uploaded files. */
  readonly files: string;
  /** The run folder of a job. */
  runOf(job: string): string;
  /** The file that says which attempt at a job is the newest. */
  fenceOf(job: string): string;
  close(): void;
}

/** Opens a home for one server, and makes what is missing in it. @throws {UserError} a home in use, or a damaged database */
export function openHome(path: string): Home {
  const folder = resolve(path);
  for (const each of ["", "files", "runs", "attempts"]) makeFolder(join(folder, each));
  const lock = lockRun(folder, path, (file) => {
    const pid = holderOf(file);
    return new UserError(
      `--home ${path}: another server${pid ? ` (process ${pid})` : ""} works in this folder; end it, or choose another one`,
    );
  });
  try {
    const database = openDatabase(join(folder, DATABASE_FILE));
    try {
      backUp(database, join(folder, BACKUP_FILE));
    } catch (error) {
      database.close();
      throw error;
    }
    return {
      folder,
      database,
      files: join(folder, "files"),
      runOf: (job) => join(folder, "runs", job),
      fenceOf: (job) => join(folder, "attempts", job),
      close() {
        database.close();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** Tells whether a path lies in a folder when all links are followed. What is not there lies nowhere. */
export function isInside(path: string, folder: string): boolean {
  try {
    lstatSync(path);
    return `${realpathSync(path)}${sep}`.startsWith(`${realpathSync(folder)}${sep}`);
  } catch {
    return false;
  }
}

/** A new name of a thing: the kind, and 24 random letters and digits. */
export function newId(kind: "file" | "ftjob" | "key"): string {
  const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  const random = crypto.getRandomValues(new Uint32Array(24));
  return `${kind}-${Array.from(random, (value) => letters[value % letters.length]!).join("")}`;
}

/** The time in whole seconds, as OpenAI's API has it. */
export const now = (): number => Math.floor(Date.now() / 1000);
