import { ptr } from "bun:ffi";
import { ALIGNMENT, align, type Address } from "../runtime/executor.ts";
import { UserError } from "../base/errors.ts";
import { lazily } from "../base/lazily.ts";
import { openLibc } from "../base/process/libc.ts";

/** A page of WebAssembly memory. */
const PAGE = 65536;
/** Pages that 32-bit addresses reach: 4 GiB. */
const MAX_PAGES = 65536;

/** Addresses below belong to the static data of the modules (`memoryBase` in asconfig.json) and to null pointers. */
export const STATIC_BYTES = PAGE;

/**
 * One shared WebAssembly memory from which bytes are reserved for good, upwards. It grows as needed, up to `limit`
 * bytes (4 GiB at most); the operating system commits a page only when it is first written.
 */
export interface SharedMemory {
  readonly memory: WebAssembly.Memory;
  /** Bytes handed out. */
  readonly reserved: number;
  /** Bytes that are left. */
  readonly capacity: number;
  /** Reserves bytes, zeroed. Throws when they do not fit; `what` names them in the error. */
  reserve(bytes: number, what: string): Address;
  /** Gives the pages of a reserved range back to the system, until they are touched again, with zeros. False where it does not take them. */
  giveBack(address: Address, bytes: number): boolean;
  /** A view of memory; growth does not invalidate it, but keep none beyond the call: a view holds on to its buffer. */
  bytes(address: Address, length: number): Uint8Array;
  words(address: Address, length: number): Int32Array;
}

export function createMemory(limit = MAX_PAGES * PAGE): SharedMemory {
  const maximum = Math.min(MAX_PAGES, Math.floor(limit / PAGE));
  const memory = reserveAddresses();
  let top = STATIC_BYTES;

  return {
    memory,
    get reserved() {
      return top - STATIC_BYTES;
    },
    get capacity() {
      return maximum * PAGE - top;
    },
    reserve(bytes, what) {
      const end = top + align(bytes);
      if (end > maximum * PAGE) {
        const free = formatBytes(maximum * PAGE - top);
        throw new UserError(
          `out of memory: ${what} needs ${formatBytes(bytes)}, but ${free} of the ${formatBytes(maximum * PAGE)} that the WebAssembly executor can address are free; ` +
            "use a smaller model, fewer tokens per step or a smaller gradient checkpointing budget",
        );
      }
      const missing = Math.ceil(end / PAGE) - memory.buffer.byteLength / PAGE;
      if (missing > 0) memory.grow(missing);
      const address = top;
      top = end;
      return address;
    },
    giveBack(address, bytes) {
      const libc = linuxLibc();
      if (!libc) return false;
      const first = align(address, PAGE);
      const end = Math.floor((address + bytes) / PAGE) * PAGE;
      if (end <= first) return true;
      return libc.madvise(ptr(new Uint8Array(memory.buffer, first, 1)), end - first, MADV_DONTNEED) === 0;
    },
    bytes: (address, length) => new Uint8Array(memory.buffer, address, length),
    words: (address, length) => new Int32Array(memory.buffer, address, length),
  };
}

/** Linux alone takes pages away at once; elsewhere advice of this name means that it may, some time. */
const linuxLibc = lazily(() =>
  process.platform === "linux" ? openLibc({ madvise: { args: ["ptr", "usize", "int"], returns: "int" } }) : null,
);
const MADV_DONTNEED = 4;

/** @throws {UserError} the process may not have as many addresses */
function reserveAddresses(): WebAssembly.Memory {
  try {
    return new WebAssembly.Memory({ initial: STATIC_BYTES / PAGE, maximum: MAX_PAGES, shared: true });
  } catch {
    throw new UserError(
      "the WebAssembly executor cannot reserve 4 GiB of addresses (they take no memory until they are used); " +
        "a limit of the address space (ulimit -v) is too low for it, take it away and use --memory instead",
    );
  }
}

function formatBytes(bytes: number): string {
  return bytes < 1 << 20 ? `${bytes} bytes` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

export function expectAligned(address: Address, what: string): void {
  if (address % ALIGNMENT !== 0 || address < STATIC_BYTES) {
    throw new Error(
      `${what}: expected an address that is a multiple of ${ALIGNMENT} and at least ${STATIC_BYTES}; got ${address}`,
    );
  }
}
