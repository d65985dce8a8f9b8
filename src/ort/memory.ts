import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { type Address, align, ALIGNMENT, type DeviceCopies, type Reach } from "../runtime/executor.ts";
import { UserError } from "../base/errors.ts";
import { loadSession, type OrtEnvironment } from "./environment.ts";
import { cString, created, type OrtApi } from "./library.ts";
import { copyModel, zeroModel } from "./copy-models.ts";

/** Memory that programs' inputs and outputs lie in. Addresses are pointers of the device. */
export interface OrtMemory {
  /** Names it, in tensors and to allocators. */
  readonly info: Pointer;
  /** True if `reserve` takes from the arena of the programs' temporary memory. */
  readonly isInArena: boolean;
  /** Bytes reserved so far. */
  readonly reserved: number;
  reserve(bytes: number): Address;
  /** Hands `bytes` to a function that writes all of them. */
  fill(address: Address, bytes: number, write: (target: Uint8Array) => void): void;
  write(address: Address, data: Uint8Array): void;
  read(address: Address, bytes: number, target?: Uint8Array): Uint8Array;
  zero(address: Address, bytes: number): void;
  readonly reach: Reach;
  /** Gives back what was reserved. */
  release(address: Address): void;
  /** Pinned memory of this process; see `Card`. */
  pin(bytes: number): Address | null;
  close(): void;
}

/** An ArrayBuffer has at most 4 GiB; memory is cleared in pieces. */
const VIEW_BYTES = 2 ** 30;

/** Memory of this process, reached in place. */
export function hostMemory(environment: OrtEnvironment): OrtMemory {
  const { api, memoryInfo } = environment;
  const blocks = createBlocks(
    environment,
    created((out) => api.GetAllocatorWithDefaultOptions(out)),
  );
  const view = (address: Address, bytes: number) =>
    bytes === 0 ? new Uint8Array() : new Uint8Array(toArrayBuffer(address as Pointer, 0, bytes));
  return {
    info: memoryInfo,
    isInArena: false,
    get reserved() {
      return blocks.reserved();
    },
    reserve: blocks.reserve,
    fill: (address, bytes, write) => write(view(address, bytes)),
    write: (address, data) => view(address, data.length).set(data),
    read(address, bytes, target = new Uint8Array(bytes)) {
      target.set(view(address, bytes));
      return target;
    },
    zero(address, bytes) {
      for (let done = 0; done < bytes; done += VIEW_BYTES) view(address + done, Math.min(VIEW_BYTES, bytes - done)).fill(0);
    },
    reach: { kind: "process" },
    release: blocks.release,
    pin: () => null,
    close: blocks.close,
  };
}

/** Bytes of a copy: what passes through ONNX Runtime's temporary memory at a time. */
const PIECE = 2 ** 26;
/** ONNXTensorElementDataType: bytes. */
const UINT8 = 2;

/** Moves bytes between memory of this process and a device's, on the thread that calls it. */
export interface Copier {
  toDevice(from: Pointer, to: Address, bytes: number): void;
  toHost(from: Address, to: Pointer, bytes: number): void;
}

/** A copier by the session of `copyModel`, whose input and output are bound to where bytes come from and go to. */
export function createCopier(api: OrtApi, { session, runOptions, host, device }: DeviceCopies): Copier {
  const copy = (input: Pointer, inputPlace: number, output: Pointer, outputPlace: number, bytes: number) => {
    for (let at = 0; at < bytes; at += PIECE) {
      const count = Math.min(PIECE, bytes - at);
      runBound(
        api,
        session as Pointer,
        runOptions as Pointer,
        bytesAt(api, inputPlace as Pointer, (input + at) as Pointer, count),
        bytesAt(api, outputPlace as Pointer, (output + at) as Pointer, count),
      );
    }
  };
  return {
    toDevice: (from, to, bytes) => copy(from, host, to as Pointer, device, bytes),
    toHost: (from, to, bytes) => copy(from as Pointer, device, to, host, bytes),
  };
}

function bytesAt(api: OrtApi, place: Pointer, address: Pointer, bytes: number, type = UINT8, elements = bytes): Pointer {
  return created((out) => {
    const shape = BigInt64Array.of(BigInt(elements));
    api.CreateTensorWithDataAsOrtValue(place, address, bytes, shape, 1, type, out);
  });
}

/**
 * Runs a model of one input and one output, and releases both. The binding lives for this run alone, so that no input is older than it. What is
 * bound to the CPU is copied to the card when it is bound, on a stream that the run does not wait for: hence the wait behind it, and the one for
 * outputs, each for all that the card does. Threads that copy beside programs have a stream of their own (`cuda-copies.ts`).
 */
function runBound(api: OrtApi, session: Pointer, runOptions: Pointer, input: Pointer, output: Pointer): void {
  const binding = created((out) => api.CreateIoBinding(session, out));
  try {
    api.BindInput(binding, cString("x"), input);
    api.BindOutput(binding, cString("y"), output);
    api.SynchronizeBoundInputs(binding);
    api.RunWithBinding(session, runOptions, binding);
    api.SynchronizeBoundOutputs(binding);
  } finally {
    api.ReleaseIoBinding(binding);
    api.ReleaseValue(input);
    api.ReleaseValue(output);
  }
}

/**
 * Memory of a device, `info`, from the arena of the sessions with `sessionOptions`. The CPU cannot reach it: bytes go in,
 * out and to zero by tiny models whose inputs and outputs are bound to where they come from and go to.
 */
export function copiedMemory(environment: OrtEnvironment, sessionOptions: Pointer, info: Pointer, isCuda: boolean): OrtMemory {
  const { api, memoryInfo: host } = environment;
  const runOptions = created((out) => api.CreateRunOptions(out));
  const copySession = loadSession(environment, copyModel(), sessionOptions);
  const zeroSession = loadSession(environment, zeroModel(), sessionOptions);
  const allocator = created((out) => api.CreateAllocator(copySession, info, out));
  const blocks = createBlocks(environment, allocator);
  const pinned = openPinned(environment, copySession);
  const copies: DeviceCopies = { session: copySession, runOptions, host, device: info, isCuda };
  const copier = createCopier(api, copies);
  const write = (address: Address, data: Uint8Array) => {
    if (data.length > 0) copier.toDevice(ptr(data), address, data.length);
  };
  return {
    info,
    isInArena: true,
    get reserved() {
      return blocks.reserved();
    },
    reserve: blocks.reserve,
    fill(address, bytes, fill) {
      const data = new Uint8Array(bytes);
      fill(data);
      write(address, data);
    },
    write,
    read(address, bytes, data = new Uint8Array(bytes)) {
      if (bytes > 0) copier.toHost(address, ptr(data), bytes);
      return data;
    },
    zero(address, bytes) {
      for (let at = 0; at < bytes; at += PIECE) {
        const count = Math.min(PIECE, bytes - at);
        const shape = BigInt64Array.of(BigInt(count));
        const target = bytesAt(api, info, (address + at) as Pointer, count);
        runBound(api, zeroSession, runOptions, bytesAt(api, host, ptr(shape), 8, INT64, 1), target);
      }
    },
    reach: { kind: "device", copies },
    release: blocks.release,
    pin(bytes) {
      try {
        return pinned?.blocks.reserve(bytes) ?? null;
      } catch {
        // The system has no more of it.
        return null;
      }
    },
    close() {
      blocks.close();
      pinned?.blocks.close();
      if (pinned) api.ReleaseAllocator(pinned.allocator);
      api.ReleaseAllocator(allocator);
      api.ReleaseSession(copySession);
      api.ReleaseSession(zeroSession);
      api.ReleaseRunOptions(runOptions);
    },
  };
}

/** Arguments of CreateMemoryInfo: OrtDeviceAllocator, the first card, OrtMemTypeCPUOutput. */
const DEVICE_ALLOCATOR = 0;
const FIRST_CARD = 0;
const CPU_OUTPUT = -1;

/** The allocator of pinned memory that the CUDA provider gives its sessions; null where there is none. */
function openPinned(environment: OrtEnvironment, session: Pointer) {
  const { api } = environment;
  try {
    const info = created((out) => api.CreateMemoryInfo(cString("CudaPinned"), DEVICE_ALLOCATOR, FIRST_CARD, CPU_OUTPUT, out));
    try {
      const allocator = created((out) => api.CreateAllocator(session, info, out));
      return { allocator, blocks: createBlocks(environment, allocator) };
    } finally {
      api.ReleaseMemoryInfo(info);
    }
  } catch {
    return null;
  }
}

/** ONNXTensorElementDataType: a shape's numbers. */
const INT64 = 7;

/** Aligned blocks of an allocator. */
function createBlocks({ api }: OrtEnvironment, allocator: Pointer) {
  /** By the aligned address in it. */
  const blocks = new Map<Address, { readonly block: Pointer; readonly bytes: number }>();
  let reserved = 0;
  return {
    reserved: () => reserved,
    reserve(bytes: number): Address {
      let block: Pointer;
      try {
        block = created((out) => api.AllocatorAlloc(allocator, align(bytes) + ALIGNMENT, out));
      } catch {
        throw new UserError(
          `memory is exhausted: cannot reserve ${bytes} bytes besides ${reserved}; lower the batch or a budget`,
        );
      }
      const address = align(block);
      blocks.set(address, { block, bytes: align(bytes) });
      reserved += align(bytes);
      return address;
    },
    release(address: Address): void {
      const { block, bytes } = blocks.get(address)!;
      api.AllocatorFree(allocator, block);
      blocks.delete(address);
      reserved -= bytes;
    },
    close(): void {
      for (const { block } of blocks.values()) api.AllocatorFree(allocator, block);
      blocks.clear();
    },
  };
}
