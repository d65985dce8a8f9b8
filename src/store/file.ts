/**
 * The file that boundaries and tapes go to. It has no name: whatever becomes of the process, the system takes its bytes back.
 *
 * It is opened for direct access (O_DIRECT) where the file system has it. Through the page cache bytes would not leave memory but
 * move into another part of it, which a control group counts as the process's own; they would be copied by the cores that compute; and a
 * measured bandwidth would be that of the cache until it is full. Nothing is synced: no copy is needed after a crash.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { ptr } from "bun:ffi";
import { fileError } from "../base/files/files.ts";

export interface OffloadFile {
  readonly fd: number;
  /** True if bytes go past the page cache. */
  readonly isDirect: boolean;
  /** True if the file system itself is in memory, so that nothing is saved. */
  readonly isInMemory: boolean;
}

/** The number that addresses, sizes and offsets of direct access are multiples of, on every disk. */
export const DIRECT_ALIGNMENT = 4096;

/** Linux: a file without a name (O_TMPFILE includes O_DIRECTORY). Other systems make a file and remove its name at once. */
const O_TMPFILE = process.platform === "linux" ? 0o20000000 | (fs.constants.O_DIRECTORY ?? 0) : null;
const O_DIRECT = fs.constants.O_DIRECT ?? 0;
/** Types of file systems that statfs(2) gives: tmpfs and ramfs. */
const IN_MEMORY = new Set([0x01021994, 0x858458f6]);

/** Opens a nameless file in a folder. @throws {UserError} when that is not possible */
export function openOffloadFile(folder: string): OffloadFile {
  try {
    const isInMemory = IN_MEMORY.has(fs.statfsSync(folder).type);
    if (O_DIRECT !== 0) {
      const fd = openNameless(folder, O_DIRECT);
      if (fd !== null) {
        if (acceptsDirect(fd)) return { fd, isDirect: true, isInMemory };
        fs.closeSync(fd);
      }
    }
    const fd = openNameless(folder, 0)!;
    return { fd, isDirect: false, isInMemory };
  } catch (error) {
    throw fileError("write to the offload folder", folder, error);
  }
}

/** Opens a nameless file that passes through the page cache, for bytes that need not be aligned. @throws {UserError} */
export function openBufferedFile(folder: string): OffloadFile {
  try {
    const isInMemory = IN_MEMORY.has(fs.statfsSync(folder).type);
    return { fd: openNameless(folder, 0)!, isDirect: false, isInMemory };
  } catch (error) {
    throw fileError("write to the folder", folder, error);
  }
}

/** Null when the file system does not know the flags. */
function openNameless(folder: string, flags: number): number | null {
  const open = (path: string, more: number) => {
    try {
      return fs.openSync(path, fs.constants.O_RDWR | flags | more, 0o600);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === "EINVAL" || code === "EOPNOTSUPP" || code === "EISDIR") return null;
      throw error;
    }
  };
  const nameless = O_TMPFILE === null ? null : open(folder, O_TMPFILE);
  if (nameless !== null) return nameless;
  const path = join(folder, `.offload.${crypto.randomUUID()}.tmp`);
  const fd = open(path, fs.constants.O_CREAT | fs.constants.O_EXCL);
  if (fd !== null) fs.unlinkSync(path);
  return fd;
}

/** Some file systems take the flag and refuse the writes. */
function acceptsDirect(fd: number): boolean {
  const raw = new Uint8Array(2 * DIRECT_ALIGNMENT);
  const skip = (DIRECT_ALIGNMENT - (ptr(raw) % DIRECT_ALIGNMENT)) % DIRECT_ALIGNMENT;
  try {
    return fs.writeSync(fd, raw, skip, DIRECT_ALIGNMENT, 0) === DIRECT_ALIGNMENT;
  } catch (error) {
    if ((error as { code?: string }).code === "EINVAL") return false;
    throw error;
  }
}
