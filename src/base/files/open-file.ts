import * as fs from "node:fs";
import { UserError } from "../errors.ts";
import { checkRegular, fileError } from "./files.ts";

/** A file that stays open for reading, with what tells that its content has changed since: plain data, which a thread gets by message. */
export interface OpenFile {
  readonly path: string;
  readonly fd: number;
  /** Bytes when it was opened. */
  readonly size: number;
  /** Device, inode, size and time of the last write, in nanoseconds. */
  readonly stamp: string;
}

/** Opens a file for reading. @throws {UserError} a file that is missing, may not be read, or is none */
export function openFile(path: string): OpenFile {
  checkRegular(path);
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch (error) {
    throw fileError("open", path, error);
  }
  return stamped(path, fd);
}

/** Takes the stamp of a file that is open. */
export function stamped(path: string, fd: number): OpenFile {
  const { stamp, size } = stampOf(fd);
  return { path, fd, size, stamp };
}

/**
 * Returns an error that names an open file which was cut or written to since it was opened; null: it is as it was. A file that was removed, or
 * that another has taken the place of, is as it was to whoever has it open.
 */
export function changed({ path, fd, size, stamp }: OpenFile): UserError | null {
  let now: { readonly stamp: string; readonly size: number };
  try {
    now = stampOf(fd);
  } catch (error) {
    return fileError("read", path, error);
  }
  if (now.stamp === stamp) return null;
  const what = now.size < size ? `was cut from ${size} to ${now.size} bytes` : "was written to";
  return new UserError(
    `${path} ${what} while it was in use; put it back as it was (a file of a cache is made anew), and start again`,
  );
}

/** The time of the last change of the inode is left out: a new name, a link or other rights change no content. */
function stampOf(fd: number): { readonly stamp: string; readonly size: number } {
  const { dev, ino, size, mtimeNs } = fs.fstatSync(fd, { bigint: true });
  return { stamp: `${dev}:${ino}:${size}:${mtimeNs}`, size: Number(size) };
}
