import { existsSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from "node:fs";
import { UserError } from "../errors.ts";
import { temporaryPath } from "./drafts.ts";
import { fileError, makeFolder } from "./files.ts";

/** @param what it is to hold @throws {UserError} a folder that is not empty, or a file */
export function expectFree(folder: string, what: string): void {
  if (!existsSync(folder) || (statSync(folder).isDirectory() && readdirSync(folder).length === 0)) return;
  throw new UserError(`${folder} is not an empty folder; choose a new one for ${what}`);
}

/** Makes a folder that appears whole or not at all: `write` fills a draft beside it. @throws {UserError} and what `write` throws */
export function writeFolder(folder: string, write: (draft: string) => void): void {
  const draft = temporaryPath(folder);
  makeFolder(draft);
  try {
    write(draft);
    try {
      if (existsSync(folder)) rmdirSync(folder);
      renameSync(draft, folder);
    } catch (error) {
      throw fileError("write", folder, error);
    }
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}
