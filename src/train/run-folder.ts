import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
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
 * Makes the run folder. One that holds files is refused, or, with `overwrite`, emptied if it is a run's.
 * @throws {UserError} not a folder, not writable, or something else's
 */
export function prepareRunFolder(path: string, overwrite: boolean): string {
  const folder = resolve(path);
  if (existsSync(folder)) {
    if (!statSync(folder).isDirectory())
      throw new UserError(`--output ${path}: is a file; expected a folder that is new or empty`);
    const entries = readdirSync(folder);
    if (entries.length > 0) {
      if (!overwrite)
        throw new UserError(
          `--output ${path}: the folder is not empty; choose another one, or pass --overwrite to replace the run in it`,
        );
      if (!entries.includes(RUN_FILES.config)) {
        throw new UserError(
          `--output ${path}: the folder holds no ${RUN_FILES.config}, so it is no run of ours and is not overwritten`,
        );
      }
      for (const entry of entries) rmSync(join(folder, entry), { recursive: true });
    }
  }
  try {
    mkdirSync(folder, { recursive: true });
    // Fails now rather than after the training when the folder cannot be written to.
    const probe = join(folder, ".probe");
    closeSync(openSync(probe, "w"));
    rmSync(probe);
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
