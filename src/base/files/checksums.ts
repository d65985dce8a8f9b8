import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { fileVerdict, type VerdictOptions } from "./file-verdicts.ts";
import { type FileIo, fileIo, hashFile, readText, writeTextAtomic } from "./files.ts";

/**
 * SHA-256 of a folder's files, in the format that `sha256sum --check` reads: 64 hexadecimal digits, two spaces, the path within
 * the folder.
 */
export const CHECKSUM_FILE = "SHA256SUMS";

/** Forgets the checksums of a folder whose files are to be written anew. */
export function removeChecksums(folder: string): void {
  rmSync(join(folder, CHECKSUM_FILE), { force: true });
}

/** Writes the checksums of files of a folder, which are there already. @throws {UserError} a full disk */
export function writeChecksums(folder: string, names: readonly string[], io: FileIo = fileIo): void {
  const lines = [...names].sort().map((name) => `${hashFile(join(folder, name))}  ${name}\n`);
  writeTextAtomic(join(folder, CHECKSUM_FILE), lines.join(""), io);
}

/**
 * Compares files of a folder with its checksums. Files without one, and folders without any, are not judged.
 * @throws {UserError} a file that differs, by name
 */
export function verifyChecksums(folder: string, options: VerdictOptions = {}): void {
  const list = join(folder, CHECKSUM_FILE);
  if (!existsSync(list)) return;
  for (const [i, line] of readText(list).split("\n").entries()) {
    if (line === "") continue;
    const [, expected, name] = /^([0-9a-f]{64}) [ *](\S.*)$/.exec(line) ?? [];
    if (name === undefined || expected === undefined)
      throw new UserError(
        `${list}:${i + 1}: expected a checksum and a name, as sha256sum writes them; remove the file if it is damaged`,
      );
    const path = join(folder, name);
    if (!existsSync(path)) throw new UserError(`${path} is missing, which ${list} names; copy the folder again`);
    const { sha256 } = fileHash(path, options);
    if (sha256 === expected) continue;
    throw new UserError(
      `${path} is damaged or was changed: its SHA-256 is ${sha256.slice(0, 16)}..., ${list} has ${expected.slice(0, 16)}...; ` +
        "copy it again, or, if you changed it yourself, remove its line there",
    );
  }
}

/** SHA-256 of a file, in hexadecimal; the file is read once. @throws {UserError} a file that cannot be read */
export function fileHash(path: string, options: VerdictOptions = {}): { readonly sha256: string } {
  return fileVerdict("sha256", path, () => ({ sha256: hashFile(path) }), options);
}
