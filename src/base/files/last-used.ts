import { readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * The time when a file of a cache was last used is that of an empty file beside it: the cached file's own times must not change, since
 * verdicts hang on them, and the time of the last access is seldom kept by a file system.
 */
const USED = ".used";

/** Milliseconds after which what nobody has used can go: it can be made again, and would fill the disk in the end. */
export const UNUSED_MS = 30 * 24 * 3600 * 1000;

/** Notes that a file is used now; a cache that may only be read stays as it is. */
export function markUsed(path: string): void {
  try {
    writeFileSync(path + USED, "");
  } catch {}
}

/** Returns the time when a file was made or last used, in milliseconds; 0 where it is not there. */
export function lastUsed(path: string): number {
  const time = (file: string) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return Math.max(time(path), time(path + USED));
}

/** Removes a file with the note of its use. */
export function removeCached(path: string): void {
  for (const file of [path, path + USED]) rmSync(file, { force: true });
}

/** Lists the files of a cache's folder with one of these endings that nobody has used for long. */
export function unusedFiles(folder: string, endings: readonly string[]): string[] {
  return readdirSync(folder)
    .filter((name) => endings.some((ending) => name.endsWith(ending)))
    .map((name) => join(folder, name))
    .filter((path) => Date.now() - lastUsed(path) > UNUSED_MS);
}
