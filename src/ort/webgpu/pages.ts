import type { Pointer } from "bun:ffi";
import { openLibc } from "../../base/process/libc.ts";
import type { Address } from "../../runtime/executor.ts";

/** Bytes of the largest pages that systems have by default. */
const PAGE = 2 ** 16;
const MADV_DONTNEED = 4;

interface Advice {
  madvise(address: Pointer, bytes: number, advice: number): unknown;
}

let libc: Advice | null | undefined;

/**
 * Gives whole pages of an interval of memory that nobody else uses back to Linux, which fills them with zeros when they are touched again.
 * Returns their interval; an empty one at its beginning where the system does not take them at once.
 */
export function discardPages(address: Address, bytes: number): { readonly from: Address; readonly to: Address } {
  const from = Math.ceil(address / PAGE) * PAGE;
  const to = Math.floor((address + bytes) / PAGE) * PAGE;
  const nothing = { from: address, to: address };
  if (to <= from) return nothing;
  if (libc === undefined) {
    const found = process.platform === "linux" ? openLibc({ madvise: { args: ["ptr", "usize", "int"], returns: "int" } }) : null;
    libc = found && { madvise: (at, count, advice) => found.madvise(at, count, advice) };
  }
  if (!libc || libc.madvise(from as Pointer, to - from, MADV_DONTNEED) !== 0) return nothing;
  return { from, to };
}
