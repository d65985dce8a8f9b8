import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";
import { openLibc } from "../../base/process/libc.ts";

/**
 * One process at a time trains in a run folder: `flock` on a file in it. The system gives the lock back when its process
 * ends, however it ends, so that no lock outlives its run. Where files cannot be locked (Windows, some network file
 * systems) nothing is.
 */
export const LOCK_FILE = ".lock";

/** LOCK_EX | LOCK_NB, the same on Linux and macOS. */
const EXCLUSIVE = 2 | 4;

type Flock = (fd: number, operation: number) => number;
let flock: Flock | null | undefined;

function loadFlock(): Flock | null {
  return openLibc({ flock: { args: ["i32", "i32"], returns: "i32" } })?.flock ?? null;
}

export interface RunLock {
  release(): void;
}

/**
 * Locks a run folder, which must exist.
 * @param name the folder as the user calls it
 * @throws {UserError} another process has it
 */
export function lockRun(folder: string, name: string): RunLock {
  const path = join(folder, LOCK_FILE);
  for (;;) {
    const fd = open(path);
    if (!tryLock(fd, path)) {
      closeSync(fd);
      throw inUse(path, name);
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

function open(path: string): number {
  try {
    return openSync(path, "a+");
  } catch (error) {
    throw fileError("write", path, error);
  }
}

/** False only when another process has the lock. */
function tryLock(fd: number, path: string): boolean {
  flock ??= loadFlock();
  if (!flock || flock(fd, EXCLUSIVE) === 0) return true;
  // A file system without locks refuses any file, a new one too.
  const probe = `${path}.${process.pid}.tmp`;
  const other = openSync(probe, "w");
  const locks = flock(other, EXCLUSIVE) === 0;
  closeSync(other);
  rmSync(probe);
  return !locks;
}

function inUse(path: string, name: string): UserError {
  const pid = readFileSync(path, "utf8").trim();
  return new UserError(
    `--output ${name}: another run${pid ? ` (process ${pid})` : ""} is at work in this folder; wait for it to end, or choose another folder`,
  );
}
