import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { writeAtomic } from "./files.ts";

/** What takes long to compute is kept in a file of the cache, with its SHA-256 behind it. */

const DIGEST_BYTES = 32;

function digest(parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** True if what was kept is whole, and of the size that is asked for; it is in its places then. */
export function readKept(file: string, parts: readonly Uint8Array[]): boolean {
  let kept: Uint8Array;
  try {
    kept = readFileSync(file);
  } catch {
    return false;
  }
  const size = parts.reduce((sum, { length }) => sum + length, 0);
  const content = kept.subarray(0, size);
  if (kept.length !== size + DIGEST_BYTES || !Buffer.from(digest([content])).equals(kept.subarray(size))) return false;
  let at = 0;
  for (const part of parts) {
    part.set(kept.subarray(at, at + part.length));
    at += part.length;
  }
  return true;
}

/** Where there is no room for it, it is computed anew the next time. */
export function keep(file: string, parts: readonly Uint8Array[]): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeAtomic(file, [...parts, digest(parts)]);
  } catch {
    return;
  }
}
