import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import type { OrtEnvironment } from "../environment.ts";
import { cString, created } from "../library.ts";
import type { OrtMemory } from "../memory.ts";
import { explainWork } from "../providers.ts";
import { discardPages } from "./pages.ts";
import type { BufferDevice, BufferHandle } from "./pool.ts";

/** Arguments of CreateMemoryInfo: OrtDeviceAllocator, the first adapter, OrtMemTypeDefault. */
const DEVICE_ALLOCATOR = 0;
const FIRST_ADAPTER = 0;
const DEFAULT_MEMORY = 0;
/** ONNXTensorElementDataType: bytes. */
const UINT8 = 2;

/** An ArrayBuffer has at most 4 GiB. */
const VIEW_BYTES = 2 ** 30;

/** Bytes of the smallest buffer. */
const WORD = 16;

/** The buffers of WebGPU's adapter. */
interface OpenDevice {
  readonly device: BufferDevice;
  /** Makes a tensor of what lies in a buffer from its beginning on. */
  tensor(buffer: BufferHandle, bytes: number, dtype: number, shape: readonly number[]): Pointer;
  /** Waits for all that the device has been told to do. */
  wait(): void;
  close(): void;
}

/**
 * @param session one on the provider, whose allocator is used until `close`
 * @param host memory of this process, which bytes come from and go to
 */
export function openBufferDevice(environment: OrtEnvironment, session: Pointer, host: OrtMemory): OpenDevice {
  const { api } = environment;
  const info = created((out) =>
    api.CreateMemoryInfo(cString("WebGPU_Buffer"), DEVICE_ALLOCATOR, FIRST_ADAPTER, DEFAULT_MEMORY, out),
  );
  const allocator = created((out) => api.CreateAllocator(session, info, out));
  const tensorIn = (place: Pointer, at: number, bytes: number, dtype: number, shape: readonly number[]): Pointer =>
    created((out) =>
      api.CreateTensorWithDataAsOrtValue(
        place,
        at as Pointer,
        bytes,
        BigInt64Array.from(shape, BigInt),
        shape.length,
        dtype,
        out,
      ),
    );
  /** The library copies before it returns, or notes the copy down in front of the programs that run behind it. */
  const copy = (from: Pointer, to: Pointer): void => {
    try {
      const [source, target] = [BigUint64Array.of(BigInt(from)), BigUint64Array.of(BigInt(to))];
      explainWork("webgpu", () => api.CopyTensors(environment.env, source, target, null, 1));
    } finally {
      api.ReleaseValue(from);
      api.ReleaseValue(to);
    }
  };
  const bytesAt = (place: Pointer, at: number, bytes: number) => tensorIn(place, at, bytes, UINT8, [bytes]);
  const device: BufferDevice = {
    allocate: (bytes) => explainWork("webgpu", () => created((out) => api.AllocatorAlloc(allocator, bytes, out))),
    free: (buffer) => api.AllocatorFree(allocator, buffer as Pointer),
    upload(from, to, bytes) {
      if (bytes === 0) return;
      const source = typeof from === "number" ? from : ptr(from);
      copy(bytesAt(environment.memoryInfo, source, bytes), bytesAt(info, to, bytes));
    },
    download(from, to, bytes) {
      if (bytes > 0) copy(bytesAt(info, from, bytes), bytesAt(environment.memoryInfo, to, bytes));
    },
    clear(address, bytes) {
      const { from, to } = discardPages(address, bytes);
      host.zero(address, from - address);
      host.zero(to, address + bytes - to);
    },
    giveBack: (address, bytes) => void discardPages(address, bytes),
    move(from, to, bytes) {
      for (let done = 0; done < bytes; done += VIEW_BYTES) {
        const count = Math.min(VIEW_BYTES, bytes - done);
        host.read(from + done, count, new Uint8Array(toArrayBuffer((to + done) as Pointer, 0, count)));
      }
    },
  };
  // What comes back from the device comes behind all that it was told before.
  const last = device.allocate(WORD);
  const word = new Uint8Array(WORD);
  return {
    device,
    wait: () => device.download(last, ptr(word), WORD),
    tensor: (buffer, bytes, dtype, shape) => tensorIn(info, buffer, bytes, dtype, shape),
    close() {
      device.free(last);
      api.ReleaseAllocator(allocator);
      api.ReleaseMemoryInfo(info);
    },
  };
}
