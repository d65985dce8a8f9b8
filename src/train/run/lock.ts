import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";
import { tryLock } from "../../base/files/flock.ts";

/**
 * One process at a time trains in a run folder, which has a lock on this file in it.
 */
export const LOCK_FILE = ".lock";

/** The code in an error's cause (`systemCode`) that says that another process works in a folder, or has just looked whether one does. */
export const IN_USE = "EBUSY";

export interface RunLock {
  release(): void;
}

/**
 * Locks a run folder, which must exist.
 * @param name the folder as the user calls it
 * @param refuse says that another process has it, by the folder's lock file
 * @throws {UserError} another process has it
 */
export function lockRun(folder: string, name: string, refuse = inUse): RunLock {
  const path = join(folder, LOCK_FILE);
  for (;;) {
    const fd = open(path);
    if (!tryLock(fd, path)) {
      closeSync(fd);
      throw refuse(path, name);
    }
    // A run that ends removes its file: the lock must be on the file that others find.
    if (!existsSync(path) || statSync(path).ino !== fstatSync(fd).ino) {
      closeSync(fd);
      continue;
    }
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`);
    return {
      release() {
        rmSync(path, { force: true });
        closeSync(fd);
      },
    };
  }
}

/** Checks early that no other process trains in a folder. @throws {UserError} */
export function checkUnlocked(folder: string, name: string): void {
  const path = join(folder, LOCK_FILE);
  if (!existsSync(path)) return;
  const fd = open(path);
  try {
    if (!tryLock(fd, path)) throw inUse(path, name);
  } finally {
    closeSync(fd);
  }
}

/** The process that works in a folder; null: none does, or it cannot be known. */
export function lockHolder(folder: string): number | null {
  try {
    checkUnlocked(folder, folder);
    return null;
  } catch {
    const pid = Number(holderOf(join(folder, LOCK_FILE)));
    return Number.isInteger(pid) && pid > 0 ? pid : null;
  }
}

/** The number of the process that has a lock, as text; "" where it is not known. */
export function holderOf(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8").trim() : "";
}

function open(path: string): number {
  try {
    return openSync(path, "a+");
  } catch (error) {
    throw fileError("write", path, error);
  }
}

function inUse(path: string, name: string): UserError {
  const pid = holderOf(path);
  return new UserError(
    `--output ${name}: another run${pid ? ` (process ${pid})` : ""} is at work in this folder; wait for it to end, or choose another folder`,
    2,
    { cause: { code: IN_USE } },
  );
}
