import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fileError, makeFolder, writeFully, writeTextAtomic } from "../../base/files/files.ts";
import { checkUnlocked, LOCK_FILE, lockRun, type RunLock } from "./lock.ts";

/** The files of a run, by name. */
export const RUN_FILES = {
  config: "train-config.json",
  metrics: "metrics.jsonl",
  report: "report.html",
  segments: "segments",
  checkpoints: "checkpoints",
  costs: "costs.json",
  /** Beginning of the names of TensorBoard's files. */
  tensorBoard: "events.out.tfevents",
  adapterConfig: "adapter_config.json",
  adapter: "adapter_model.safetensors",
} as const;

/**
 * Checks that a run can be written to `path`, and writes nothing. One that holds files is refused, unless `overwrite` or
 * `resume` is given and they are a run's.
 * @throws {UserError} not a folder, not writable, something else's, or another process's
 */
export function checkRunFolder(path: string, mode: { readonly overwrite: boolean; readonly resume: boolean }): void {
  const folder = resolve(path);
  if (existsSync(folder) && statSync(folder).isDirectory()) {
    checkUnlocked(folder, path);
    const entries = readdirSync(folder).filter((name) => !isTemporary(name));
    if (entries.length > 0 && !mode.overwrite && !mode.resume) {
      throw new UserError(
        `--output ${path}: the folder is not empty; choose another one, or pass --resume to go on with the run in it or --overwrite to replace it`,
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

/** Returns what a run leaves that is killed: files that were being written, and its lock. */
function isTemporary(name: string): boolean {
  return (name.startsWith(".") && name.endsWith(".tmp")) || name === LOCK_FILE;
}

/**
 * Makes and locks the run folder, and empties it unless a run in it is to be resumed. Call `checkRunFolder` first.
 * @throws {UserError} not writable, or another process's
 */
export function prepareRunFolder(path: string, resume: boolean): { readonly folder: string; readonly lock: RunLock } {
  const folder = resolve(path);
  makeFolder(folder);
  const lock = lockRun(folder, path);
  try {
    // The configuration goes last: without it, what is left would be no run, and not be overwritten.
    const entries = readdirSync(folder).filter((entry) => entry !== LOCK_FILE && (!resume || isTemporary(entry)));
    entries.sort((a, b) => Number(a === RUN_FILES.config) - Number(b === RUN_FILES.config));
    for (const entry of entries) rmSync(join(folder, entry), { recursive: true });
  } catch (error) {
    lock.release();
    throw fileError("write to", folder, error);
  }
  return { folder, lock };
}

/**
 * Drops the records of a JSON lines file that are of later steps than `step`, so that a resumed run writes them again
 * once. A last line that was cut short goes too.
 */
export function rewindJsonLines(path: string, step: number): void {
  if (!existsSync(path)) return;
  // A byte that the disk damaged costs its line, not the run.
  const kept = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => {
      try {
        return (JSON.parse(line) as { step: number }).step <= step;
      } catch {
        return false;
      }
    });
  writeTextAtomic(path, kept.map((line) => `${line}\n`).join(""));
}

/** Appends JSON lines to a file. */
export interface JsonLines {
  write(record: Readonly<Record<string, unknown>>): void;
  close(): void;
}

/**
 * Opens a file of JSON lines to write on.
 * @throws {UserError} from `write` too: when the file is no longer where it was, what is written would be lost
 */
export function openJsonLines(path: string): JsonLines {
  let fd: number;
  try {
    fd = openSync(path, "a");
  } catch (error) {
    throw fileError("write", path, error);
  }
  return {
    write(record) {
      if (statSync(path, { throwIfNoEntry: false })?.ino !== fstatSync(fd).ino) {
        throw new UserError(
          `${path} was removed or replaced while the run was writing to it, and perhaps its whole folder; what was trained since the last checkpoint is lost`,
        );
      }
      try {
        writeFully(fd, new TextEncoder().encode(`${JSON.stringify(record)}\n`));
      } catch (error) {
        throw fileError("write", path, error);
      }
    },
    close: () => closeSync(fd),
  };
}
