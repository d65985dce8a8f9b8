import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { type Address, align, ALIGNMENT } from "../runtime/executor.ts";
import { UserError } from "../errors.ts";
import { loadSession, type OrtEnvironment } from "./environment.ts";
import { cString, created } from "./library.ts";
import { copyModel, zeroModel } from "./copy-models.ts";

/** Memory that programs' inputs and outputs lie in. Addresses are pointers of the device. */
export interface OrtMemory {
  /** Names it, in tensors and to allocators. */
  readonly info: Pointer;
  /** Whether `reserve` takes from the arena of the programs' temporary memory. */
  readonly isInArena: boolean;
  /** Bytes reserved so far. */
  readonly reserved: number;
  reserve(bytes: number): Address;
  /** Hands `bytes` to a function that writes all of them. */
  fill(address: Address, bytes: number, write: (target: Uint8Array) => void): void;
  write(address: Address, data: Uint8Array): void;
  read(address: Address, bytes: number, target?: Uint8Array): Uint8Array;
  zero(address: Address, bytes: number): void;
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
    close: blocks.close,
  };
}

/** Bytes of a copy: what passes through ONNX Runtime's temporary memory at a time. */
const PIECE = 2 ** 26;
/** ONNXTensorElementDataType: bytes. */
const UINT8 = 2;

/**
 * Memory of a device, `info`, from the arena of the sessions with `sessionOptions`. The CPU cannot reach it: bytes go in,
 * out and to zero by tiny models whose inputs and outputs are bound to where they come from and go to.
 */
export function copiedMemory(environment: OrtEnvironment, sessionOptions: Pointer, info: Pointer): OrtMemory {
  const { api, memoryInfo: host } = environment;
  const runOptions = created((out) => api.CreateRunOptions(out));
  const copySession = loadSession(environment, copyModel(), sessionOptions);
  const zeroSession = loadSession(environment, zeroModel(), sessionOptions);
  const allocator = created((out) => api.CreateAllocator(copySession, info, out));
  const blocks = createBlocks(environment, allocator);

  const bytesAt = (place: Pointer, address: Pointer, bytes: number, type = UINT8, elements = bytes) =>
    created((out) => {
      const shape = BigInt64Array.of(BigInt(elements));
      api.CreateTensorWithDataAsOrtValue(place, address, bytes, shape, 1, type, out);
    });
  const run = (session: Pointer, input: Pointer, output: Pointer) => {
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
  };
  const pieces = (bytes: number, copy: (at: number, count: number) => void) => {
    for (let at = 0; at < bytes; at += PIECE) copy(at, Math.min(PIECE, bytes - at));
  };
  const write = (address: Address, data: Uint8Array) => {
    if (data.length === 0) return;
    const from = ptr(data);
    pieces(data.length, (at, count) =>
      run(copySession, bytesAt(host, (from + at) as Pointer, count), bytesAt(info, (address + at) as Pointer, count)),
    );
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
      if (bytes === 0) return data;
      const to = ptr(data);
      pieces(bytes, (at, count) =>
        run(copySession, bytesAt(info, (address + at) as Pointer, count), bytesAt(host, (to + at) as Pointer, count)),
      );
      return data;
    },
    zero(address, bytes) {
      pieces(bytes, (at, count) => {
        const shape = BigInt64Array.of(BigInt(count));
        run(zeroSession, bytesAt(host, ptr(shape), 8, INT64, 1), bytesAt(info, (address + at) as Pointer, count));
      });
    },
    close() {
      blocks.close();
      api.ReleaseAllocator(allocator);
      api.ReleaseSession(copySession);
      api.ReleaseSession(zeroSession);
      api.ReleaseRunOptions(runOptions);
    },
  };
}

/** ONNXTensorElementDataType: a shape's numbers. */
const INT64 = 7;

/** Aligned blocks of an allocator. */
function createBlocks({ api }: OrtEnvironment, allocator: Pointer) {
  const blocks: Pointer[] = [];
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
      blocks.push(block);
      reserved += align(bytes);
      return align(block);
    },
    close(): void {
      for (const block of blocks.splice(0)) api.AllocatorFree(allocator, block);
    },
  };
}
