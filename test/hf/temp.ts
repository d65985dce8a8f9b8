import { afterAll, beforeAll } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { fileIo, type FileIo } from "../../src/base/files/files.ts";

/** A folder for this test file, removed when its tests have ended. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "remat-test-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A folder for the caches of this test file alone, removed when its tests have ended. */
export function temporaryCache(): void {
  const folder = temporaryFolder();
  const before = process.env["REMAT_CACHE"];
  beforeAll(() => void (process.env["REMAT_CACHE"] = folder));
  // test/preload.ts says where others lie.
  afterAll(() => void (process.env["REMAT_CACHE"] = before!));
}

/** Runs `action` and returns the message of the `UserError` it must throw; anything else fails the test. */
export function userError(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  throw new Error(`expected a UserError, got a result from ${action}`);
}

/** The message of the `UserError` that a promise must be rejected with; anything else fails the test. */
export async function rejection(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
  throw new Error("expected a UserError, got a result");
}

/** A disk with room for `capacity` bytes; a write past it is cut short, the next one fails like a full disk. */
export function fullDisk(capacity: number): FileIo {
  let left = capacity;
  return {
    ...fileIo,
    openSync: (path, flags) => fileIo.openSync(path, flags),
    writeSync(fd, bytes, offset, length, position) {
      if (left === 0) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      const written = fileIo.writeSync(fd, bytes, offset, Math.min(length, left), position);
      left -= written;
      return written;
    },
  };
}

export function filesIn(folder: string): string[] {
  return readdirSync(folder).sort();
}
