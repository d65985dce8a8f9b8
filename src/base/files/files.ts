import * as fs from "node:fs";
import { dirname } from "node:path";
import { messageOf, systemCode, UserError } from "../errors.ts";
import { temporaryPath } from "./drafts.ts";

/** The file system calls that a durable write makes; a test replaces them to simulate a full disk. */
export interface FileIo {
  openSync(path: string, flags: string): number;
  /** Writes at `position`, or without one where the last write ended. */
  writeSync(fd: number, bytes: Uint8Array, offset: number, length: number, position?: number | null): number;
  fsyncSync(fd: number): void;
  closeSync(fd: number): void;
  renameSync(from: string, to: string): void;
  rmSync(path: string, options: { force: boolean }): void;
}

export const fileIo: FileIo = fs;

/** One call of write(2) or read(2) moves at most 2^31 - 4096 bytes on Linux; larger pieces are looped over anyway. */
const MAX_TRANSFER = 1 << 30;

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full; free some space or choose another folder",
  EDQUOT: "the disk quota is used up; free some space or choose another folder",
  EFBIG: "the file would be larger than the file system or the process limit allows",
  EACCES: "permission denied; choose a folder that you may write to",
  EPERM: "operation not permitted",
  EROFS: "the file system is read-only; choose another folder",
  ENOENT: "no such file or folder",
  ENOTDIR: "a part of the path is a file, not a folder",
  EISDIR: "it is a folder, not a file",
  EEXIST: "a file of that name is in the way",
  EMFILE: "too many open files; raise the limit (ulimit -n)",
  ENAMETOOLONG: "the name is too long",
  ELOOP: "too many symbolic links",
  EIO: "the device reports an input/output error",
};

/** Turns an error of a file system call into one sentence: what could not be done, to what, and why. */
export function fileError(action: string, path: string, error: unknown): UserError {
  if (error instanceof UserError) return error;
  const code = systemCode(error) ?? "";
  return new UserError(`cannot ${action} ${path}: ${REASONS[code] ?? messageOf(error)}`, 2, { cause: error });
}

/** @throws {UserError} a file that is there and is not to be replaced */
export function expectNoFile(path: string, overwrite: boolean): void {
  if (!overwrite && fs.existsSync(path)) throw new UserError(`${path} exists; choose another file, or give --overwrite`);
}

/** Makes a folder and its parents. @throws {UserError} */
export function makeFolder(path: string): void {
  try {
    fs.mkdirSync(path, { recursive: true });
  } catch (error) {
    throw fileError("create the folder", path, error);
  }
}

export function writeFully(fd: number, bytes: Uint8Array, io: FileIo = fileIo, position: number | null = null): void {
  for (let done = 0; done < bytes.length;) {
    const at = position === null ? null : position + done;
    const written = io.writeSync(fd, bytes, done, Math.min(bytes.length - done, MAX_TRANSFER), at);
    if (written <= 0) throw new Error("the system accepted no more bytes");
    done += written;
  }
}

/**
 * Fills `target` from byte `position` of an open file. `target` may view shared memory, so weights go from the file
 * into a kernel's memory without a copy between.
 * @throws {UserError} when the file ends early
 */
export function readFully(fd: number, target: Uint8Array, position: number, path: string): void {
  for (let done = 0; done < target.length;) {
    let read: number;
    try {
      read = fs.readSync(fd, target, done, Math.min(target.length - done, MAX_TRANSFER), position + done);
    } catch (error) {
      throw fileError("read", path, error);
    }
    if (read === 0) {
      throw new UserError(
        `${path} is truncated: expected ${target.length} bytes at offset ${position}, got ${done}; copy or download the file again`,
      );
    }
    done += read;
  }
}

/**
 * Writes a file so that a reader sees the old content or all of the new one, whatever happens in between: temporary
 * file beside it, write, fsync, rename, fsync of the folder. After a failure nothing is left behind.
 * @throws {UserError} on any file system error
 */
export function writeAtomic(path: string, chunks: Iterable<Uint8Array>, io: FileIo = fileIo): void {
  const file = openAtomic(path, io);
  try {
    for (const chunk of chunks) file.write(chunk);
  } catch (error) {
    file.discard();
    throw fileError("write", path, error);
  }
  file.finish();
}

/** A file that is written piece by piece. After a failure nothing is left behind. */
export interface AtomicFile {
  /** @throws {UserError} */
  write(chunk: Uint8Array): void;
  /** Gives the file its name, or another one in the same folder. @throws {UserError} */
  finish(name?: string): void;
  /** Instead of `finish`: removes what was written. */
  discard(): void;
}

/** As `writeAtomic`, for content that comes over time. @throws {UserError} */
export function openAtomic(path: string, io: FileIo = fileIo): AtomicFile {
  const temporary = temporaryPath(path);
  let fd = -1;
  const discard = () => {
    if (fd >= 0) closeQuietly(fd, io);
    fd = -1;
    removeQuietly(temporary, io);
  };
  const attempt = (action: () => void) => {
    try {
      action();
    } catch (error) {
      discard();
      throw fileError("write", path, error);
    }
  };
  attempt(() => (fd = io.openSync(temporary, "w")));
  return {
    write: (chunk) => attempt(() => writeFully(fd, chunk, io)),
    finish(name = path) {
      attempt(() => {
        io.fsyncSync(fd);
        io.closeSync(fd);
        fd = -1;
        io.renameSync(temporary, name);
      });
      syncFolder(dirname(path), io);
    },
    discard,
  };
}

const COPIED_AT_A_TIME = 1 << 20;

/** Copies a file, which appears whole or not at all; a link that stands in its place is replaced. @throws {UserError} */
export function copyAtomic(from: string, to: string, io: FileIo = fileIo): void {
  let fd: number;
  try {
    fd = fs.openSync(from, "r");
  } catch (error) {
    throw fileError("open", from, error);
  }
  function* pieces(): Generator<Uint8Array> {
    const piece = new Uint8Array(COPIED_AT_A_TIME);
    for (let count = fs.readSync(fd, piece); count > 0; count = fs.readSync(fd, piece)) yield piece.subarray(0, count);
  }
  try {
    writeAtomic(to, pieces(), io);
  } finally {
    fs.closeSync(fd);
  }
}

export function writeTextAtomic(path: string, text: string, io: FileIo = fileIo): void {
  writeAtomic(path, [new TextEncoder().encode(text)], io);
}

/** Makes a rename durable. Some file systems refuse to open or sync a folder; the data itself is already synced then. */
export function syncFolder(path: string, io: FileIo): void {
  let fd: number;
  try {
    fd = io.openSync(path, "r");
  } catch {
    return;
  }
  try {
    io.fsyncSync(fd);
  } catch {
    // The rename is done; only its durability across a power cut is up to the file system.
  } finally {
    closeQuietly(fd, io);
  }
}

function closeQuietly(fd: number, io: FileIo): void {
  try {
    io.closeSync(fd);
  } catch {
    // The error that led here is the one to report.
  }
}

function removeQuietly(path: string, io: FileIo): void {
  try {
    io.rmSync(path, { force: true });
  } catch {
    // It may never have been created.
  }
}

/**
 * Refuses pipes and devices, which would be waited for or never end. What is not there is left to the one who opens it.
 * @throws {UserError}
 */
export function checkRegular(path: string): void {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || stat.isFile() || stat.isDirectory()) return;
  throw new UserError(`cannot read ${path}: it is a pipe or a device, not a file; write its content to a file first`);
}

/** The text of a UTF-8 file. @throws {UserError} */
export function readText(path: string): string {
  let bytes: Uint8Array;
  checkRegular(path);
  try {
    bytes = fs.readFileSync(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(`${path} is not UTF-8 text; convert it or copy it again`);
  }
}

/**
 * The bytes of a file, piece by piece, each in the memory of the one before it. A last piece is empty.
 * @throws {UserError} a file that cannot be read
 */
export function* filePieces(path: string, bytes = 1 << 20): Generator<Uint8Array> {
  let fd: number;
  checkRegular(path);
  try {
    fd = fs.openSync(path, "r");
  } catch (error) {
    throw fileError("open", path, error);
  }
  try {
    const piece = new Uint8Array(bytes);
    let count: number;
    do {
      try {
        count = fs.readSync(fd, piece);
      } catch (error) {
        throw fileError("read", path, error);
      }
      yield piece.subarray(0, count);
    } while (count > 0);
  } finally {
    fs.closeSync(fd);
  }
}

/** SHA-256 of a file, in hexadecimal, read piece by piece. */
export function hashFile(path: string): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const piece of filePieces(path)) hasher.update(piece);
  return hasher.digest("hex");
}
