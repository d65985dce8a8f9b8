import { closeSync, openSync, rmSync } from "node:fs";
import { openLibc } from "../process/libc.ts";

/**
 * `flock` on an open file. The system gives a lock back when the file is closed or its process ends, however it ends, so that no lock
 * outlives its holder. Where files cannot be locked (Windows, some network file systems) nothing is.
 */
export type LockKind = "shared" | "exclusive";

/** LOCK_SH, LOCK_EX and LOCK_NB, the same on Linux and macOS. */
const OPERATIONS: Readonly<Record<LockKind, number>> = { shared: 1 | 4, exclusive: 2 | 4 };

type Flock = (fd: number, operation: number) => number;
let flock: Flock | null | undefined;

function loadFlock(): Flock | null {
  return openLibc({ flock: { args: ["i32", "i32"], returns: "i32" } })?.flock ?? null;
}

/**
 * Locks an open file without waiting, or returns false when another holder keeps it from that.
 * @param path the file's, beside which a probe is made for a moment
 */
export function tryLock(fd: number, path: string, kind: LockKind = "exclusive"): boolean {
  flock ??= loadFlock();
  return !flock || flock(fd, OPERATIONS[kind]) === 0 || !canLockBeside(path, flock);
}

/** A file system without locks refuses any file, a new one too. In a folder that cannot be written to, nobody needs a lock. */
function canLockBeside(path: string, lock: Flock): boolean {
  const probe = `${path}.${process.pid}.tmp`;
  let fd: number;
  try {
    fd = openSync(probe, "w");
  } catch {
    return false;
  }
  const locks = lock(fd, OPERATIONS.exclusive) === 0;
  closeSync(fd);
  rmSync(probe);
  return locks;
}
