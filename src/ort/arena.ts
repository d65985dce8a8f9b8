import { CString, type Pointer, ptr } from "bun:ffi";
import { openLibc } from "../base/process/libc.ts";
import type { TemporaryMemory } from "../runtime/executor.ts";
import { copyModel } from "./copy-models.ts";
import { loadSession, type OrtEnvironment } from "./environment.ts";
import { cString, created } from "./library.ts";
import { createCopier, type OrtMemory } from "./memory.ts";

/** The arena that programs take temporary memory from; one for all sessions of the process on a device. */
export interface Arena extends TemporaryMemory {
  stats(): ArenaStats;
  /** To be called before programs run: only then is a piece for them there to be cut, so that no memory is reserved from it. */
  open(): void;
  close(): void;
}

export interface ArenaStats {
  /** Bytes that the arena has taken from the system. */
  readonly total: number;
  /** Most bytes that were in use at a time. */
  readonly peak: number;
}

/** Bytes that are copied for nothing but the end of a run. */
const COPIED = 64;

export interface ArenaOptions {
  readonly sessionOptions: Pointer;
  readonly memory: OrtMemory;
  readonly device: string;
  /** False where a provider need not know how to give memory back; it keeps what it has then. */
  readonly mustShrink?: boolean;
}

/**
 * The arena in the memory that `memory.info` names; `device` is what ONNX Runtime calls it in the option by which the end of a run
 * gives back the regions of the arena in which nothing is in use (`cpu:0`, `gpu:0`).
 */
export function createArena(
  environment: OrtEnvironment,
  { sessionOptions, memory, device, mustShrink = false }: ArenaOptions,
): Arena {
  const { api } = environment;
  const session = loadSession(environment, copyModel(), sessionOptions);
  const allocator = created((out) => api.CreateAllocator(session, memory.info, out));
  const shrinking = created((out) => api.CreateRunOptions(out));
  api.AddRunConfigEntry(shrinking, cString("memory.enable_memory_arena_shrinkage"), cString(device));

  const stats = (): ArenaStats => {
    const pairs = created((out) => api.AllocatorGetStats(allocator, out));
    const read = (key: string) => {
      const value = api.GetKeyValue(pairs, cString(key));
      return value ? Number(new CString(value).toString()) : 0;
    };
    const found = { total: read("TotalAllocated"), peak: read("MaxInUse") };
    api.ReleaseKeyValuePairs(pairs);
    return found;
  };
  const borrow: TemporaryMemory["borrow"] = (bytes, use) => {
    const address = memory.reserve(bytes);
    try {
      return use(address);
    } finally {
      memory.release(address);
    }
  };
  /** The piece, until programs run. */
  let held: Pointer | null = null;
  const open = (): void => {
    if (held !== null) api.AllocatorFree(allocator, held);
    held = null;
  };
  const copier = createCopier(api, { session, runOptions: shrinking, host: memory.info, device: memory.info, isCuda: false });
  // Where memory is reserved in the arena itself, from the beginning: whatever lies in a region keeps it.
  const own = memory.isInArena ? created((out) => api.AllocatorAlloc(allocator, 2 * COPIED, out)) : null;
  const buffer = new Uint8Array(2 * COPIED);
  /** False where the provider does not know how. */
  const shrink = (): boolean => {
    const at = own ?? ptr(buffer);
    try {
      copier.toDevice(at, at + COPIED, COPIED);
      return true;
    } catch (error) {
      if (mustShrink) throw error;
      return false;
    }
  };
  return {
    stats,
    get bytes() {
      return Math.max(0, stats().total - (memory.isInArena ? memory.reserved : 0));
    },
    reset(bytes) {
      open();
      const isEmpty = shrink();
      trimHeap();
      if (isEmpty && bytes > 0) held = created((out) => api.AllocatorAlloc(allocator, bytes, out));
    },
    borrow,
    open,
    close() {
      open();
      if (own !== null) api.AllocatorFree(allocator, own);
      api.ReleaseRunOptions(shrinking);
      api.ReleaseAllocator(allocator);
      api.ReleaseSession(session);
    },
  };
}

/** Gives what the C library has kept of freed memory back to the system: loading a session leaves some hundred KiB. */
function trimHeap(): void {
  // glibc alone has such a function (malloc_trim(3)).
  heap ??= openLibc({ malloc_trim: { args: ["usize"], returns: "i32" } }) ?? { malloc_trim: () => 0 };
  heap.malloc_trim(0);
}

interface Heap {
  malloc_trim(keep: number): unknown;
}

let heap: Heap | null = null;
