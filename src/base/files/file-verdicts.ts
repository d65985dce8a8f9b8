import { statSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder } from "./cache-folder.ts";
import { fileError, makeFolder, writeTextAtomic } from "./files.ts";
import { isRecord, readJsonObject } from "../json.ts";

/**
 * The verdict on a large file that was once read whole is kept under the user's cache folder, by device, inode, size and
 * time of change (in nanoseconds; any write and any rename over the file changes one of them).
 */
export interface VerdictOptions {
  /** Reads the file again, whatever is kept. */
  readonly fresh?: boolean | undefined;
}

/**
 * The verdict of `examine` on a file, kept under `kind`.
 * @param examine reads the file; its verdict must be JSON
 * @throws {UserError} a file that is not there; whatever `examine` throws, which is not kept
 */
export function fileVerdict<T extends Readonly<Record<string, unknown>>>(
  kind: string,
  path: string,
  examine: () => T,
  { fresh = false }: VerdictOptions = {},
): T {
  const before = identityOf(path);
  const kept = join(cacheFolder(), "verdicts", `${Bun.hash(`${kind} ${before}`).toString(16)}.json`);
  if (!fresh) {
    const known = read(kept, before);
    if (known !== null) return known as T;
  }
  const verdict = examine();
  // A file that changed while it was read has no verdict.
  if (identityOf(path) === before) write(kept, { file: before, verdict });
  return verdict;
}

/** A text that changes whenever the file is written to, or another takes its place. @throws {UserError} no such file */
export function identityOf(path: string): string {
  try {
    const { dev, ino, size, ctimeNs } = statSync(path, { bigint: true });
    return `${dev}:${ino}:${size}:${ctimeNs}`;
  } catch (error) {
    throw fileError("read", path, error);
  }
}

function read(path: string, file: string): unknown {
  try {
    const record = readJsonObject(path);
    return record["file"] === file && isRecord(record["verdict"]) ? record["verdict"] : null;
  } catch {
    // Not there, or damaged: the file is examined again.
    return null;
  }
}

function write(path: string, record: Readonly<Record<string, unknown>>): void {
  try {
    makeFolder(join(path, ".."));
    writeTextAtomic(path, JSON.stringify(record));
  } catch {
    // Without a place for it, the file is examined again the next time.
  }
}
