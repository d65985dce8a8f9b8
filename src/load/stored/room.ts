/**
 * How much of a disk converted weights may take: half of what would be free without them, or what `REMAT_WEIGHT_CACHE` says. The limit
 * belongs to the folder, which all runs of a user share, and not to a run: therefore it is no flag. Files that nobody has used for a month go, and for
 * a new file those go that were not used for longest; never one that a process has open.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { formatBytes, parseSize } from "../../base/bytes.ts";
import { UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";
import { tryLock } from "../../base/files/flock.ts";
import { lastUsed, removeCached, unusedFiles } from "../../base/files/last-used.ts";

/** Endings of whole files, and of those that are being made. */
export const WHOLE = ".weights";
export const DRAFT = ".weights.part";
const ENDINGS = [WHOLE, DRAFT];

/** Says why converted weights cannot be kept on disk; they can be made while reading instead. */
export class WeightCacheError extends UserError {
  constructor(reason: string) {
    super(
      `${reason}; --no-weight-cache converts weights whenever they are read, REMAT_CACHE names another folder for all caches`,
    );
  }
}

/**
 * Does something to files of the cache.
 * @param more what the user should know besides
 * @throws {WeightCacheError} in the place of an error of the file system
 */
export function onDisk<T>(work: string, path: string, action: () => T, more = ""): T {
  try {
    return action();
  } catch (error) {
    throw error instanceof WeightCacheError ? error : new WeightCacheError(fileError(work, path, error).message + more);
  }
}

/** The share of the disk that a folder may take unless the user says otherwise. */
const DEFAULT_LIMIT = "50%";

interface Cached {
  readonly path: string;
  readonly bytes: number;
}

/**
 * Makes room for a file, by removing others if need be: where that does not help, none is removed.
 * @param own the file itself, of which a part may be there
 * @param size its bytes in the end
 * @throws {WeightCacheError}
 */
export function makeRoom(folder: string, own: string, size: number): void {
  removeFree(unusedFiles(folder, ENDINGS).filter((path) => path !== own));
  const others = cachedIn(folder).filter(({ path }) => path !== own);
  const there = allocated(own);
  const used = others.reduce((sum, { bytes }) => sum + bytes, 0);
  const free = freeBytes(folder);
  const { limit, from } = limitOf(free + used + there);
  let lacking = Math.max(size - there - free, used + size - limit);
  const removed: { readonly path: string; readonly fd: number }[] = [];
  try {
    for (const { path, bytes } of others.toSorted((a, b) => lastUsed(a.path) - lastUsed(b.path))) {
      if (lacking <= 0) break;
      const fd = lockFree(path);
      if (fd === null) continue;
      removed.push({ path, fd });
      lacking -= bytes;
    }
    if (lacking <= 0) {
      for (const { path } of removed) onDisk("remove", path, () => removeCached(path));
      return;
    }
  } finally {
    for (const { fd } of removed) fs.closeSync(fd);
  }
  const reason = `the converted weights take ${formatBytes(size)} in ${folder}`;
  if (size - there > free) {
    throw new WeightCacheError(`${reason}, where ${formatBytes(free)} are free: ${formatBytes(size - there - free)} are missing`);
  }
  const inUse = used > 0 ? ` and ${formatBytes(used)} are in use` : "";
  throw new WeightCacheError(
    `${reason}, which may hold ${formatBytes(limit)} (${from})${inUse}; a larger limit is set with REMAT_WEIGHT_CACHE=${Math.ceil((used + size) / 2 ** 20)}MiB`,
  );
}

/** Returns the bytes that a disk has for this user. */
function freeBytes(folder: string): number {
  const { bavail, bsize } = onDisk("look for room in", folder, () => fs.statfsSync(folder));
  return bavail * bsize;
}

/** Returns the most that converted weights may take, and who says so. @param whole bytes that would be free without them */
function limitOf(whole: number): { readonly limit: number; readonly from: string } {
  const own = process.env["REMAT_WEIGHT_CACHE"];
  const size = parseSize(own || DEFAULT_LIMIT);
  if (size === null)
    throw new WeightCacheError(
      `REMAT_WEIGHT_CACHE is ${JSON.stringify(own)}: expected the most that converted weights may take, such as 50GiB or 25%`,
    );
  if ("bytes" in size) return { limit: size.bytes, from: `REMAT_WEIGHT_CACHE=${own}` };
  const named = own ? `REMAT_WEIGHT_CACHE=${own}` : DEFAULT_LIMIT;
  return { limit: Math.floor(whole * size.share), from: `${named} of what would be free without it` };
}

function cachedIn(folder: string): Cached[] {
  return fs
    .readdirSync(folder)
    .filter((name) => ENDINGS.some((ending) => name.endsWith(ending)))
    .map((name) => ({ path: join(folder, name), bytes: allocated(join(folder, name)) }));
}

/** Returns the bytes that a file takes on its disk; 0: it is not there. */
function allocated(path: string): number {
  return 512 * (fs.statSync(path, { throwIfNoEntry: false })?.blocks ?? 0);
}

function removeFree(paths: readonly string[]): void {
  for (const path of paths) {
    const fd = lockFree(path);
    if (fd === null) continue;
    onDisk("remove", path, () => removeCached(path));
    fs.closeSync(fd);
  }
}

/** Locks a file that nobody else has open, until the descriptor is closed; null: somebody has, or it is not there any more. */
function lockFree(path: string): number | null {
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch {
    return null;
  }
  if (tryLock(fd, path) && isAt(path, fd)) return fd;
  fs.closeSync(fd);
  return null;
}

/** Tells whether an open file is what others find under that name. */
export function isAt(path: string, fd: number): boolean {
  const there = fs.statSync(path, { throwIfNoEntry: false });
  const own = fs.fstatSync(fd);
  return there !== undefined && there.ino === own.ino && there.dev === own.dev;
}
