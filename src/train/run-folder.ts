import { accessSync, closeSync, constants, existsSync, mkdirSync, openSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../errors.ts";
import { fileError, writeFully } from "../hf/files.ts";

/** What a run writes, by name. */
export const RUN_FILES = {
  config: "train-config.json",
  metrics: "metrics.jsonl",
  segments: "segments",
  adapterConfig: "adapter_config.json",
  adapter: "adapter_model.safetensors",
} as const;

/**
 * Checks that a run can be written to `path`, and writes nothing. One that holds files is refused, unless `overwrite` is
 * given and they are a run's.
 * @throws {UserError} not a folder, not writable, or something else's
 */
export function checkRunFolder(path: string, overwrite: boolean): void {
  const folder = resolve(path);
  if (existsSync(folder) && statSync(folder).isDirectory()) {
    const entries = readdirSync(folder);
    if (entries.length > 0 && !overwrite) {
      throw new UserError(
        `--output ${path}: the folder is not empty; choose another one, or pass --overwrite to replace the run in it`,
      );
    }
    if (entries.length > 0 && !entries.includes(RUN_FILES.config)) {
      throw new UserError(
        `--output ${path}: the folder holds no ${RUN_FILES.config}, so it is no run of ours and is not overwritten`,
      );
    }
  }
  let parent = folder;
  while (!existsSync(parent)) parent = dirname(parent);
  if (!statSync(parent).isDirectory()) throw new UserError(`--output ${path}: ${parent} is a file; expected a folder`);
  try {
    accessSync(parent, constants.W_OK);
  } catch (error) {
    throw fileError("write to", parent, error);
  }
}

/** Makes the run folder, empty. Call `checkRunFolder` first. */
export function prepareRunFolder(path: string): string {
  const folder = resolve(path);
  try {
    mkdirSync(folder, { recursive: true });
    for (const entry of readdirSync(folder)) rmSync(join(folder, entry), { recursive: true });
  } catch (error) {
    throw fileError("write to", folder, error);
  }
  return folder;
}

/** Appends JSON lines to a file. */
export interface JsonLines {
  write(record: Readonly<Record<string, unknown>>): void;
  close(): void;
}

export function openJsonLines(path: string): JsonLines {
  let fd: number;
  try {
    fd = openSync(path, "a");
  } catch (error) {
    throw fileError("write", path, error);
  }
  return {
    write(record) {
      try {
        writeFully(fd, new TextEncoder().encode(`${JSON.stringify(record)}\n`));
      } catch (error) {
        throw fileError("write", path, error);
      }
    },
    close: () => closeSync(fd),
  };
}
