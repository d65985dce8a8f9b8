import { afterAll, describe, expect, test } from "bun:test";
import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { type CudaRuntime, createThreadCopier } from "../../src/ort/cuda-copies.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { cString, loadOrt } from "../../src/ort/library.ts";
import type { DeviceCopies } from "../../src/runtime/executor.ts";

const executor = createOrtExecutor({ threads: 1, copies: true });
afterAll(() => executor.close());
const { reach } = executor;
if (reach.kind !== "device") throw new Error(`a device's memory expected, got ${reach.kind}`);
const { copies } = reach;

const STREAM = 4096;

/** A runtime whose card is memory of this process, which notes what it is asked for. */
function fake(fails: Partial<Record<keyof CudaRuntime, number>> = {}) {
  const calls: string[] = [];
  const noted = (name: keyof CudaRuntime, ...args: readonly (string | number)[]) => {
    calls.push([name, ...args].join(" "));
    return fails[name] ?? 0;
  };
  const message = cString("out of memory");
  const runtime: CudaRuntime = {
    cudaSetDevice: (device) => noted("cudaSetDevice", device),
    cudaStreamCreateWithFlags(stream, flags) {
      stream[0] = BigInt(STREAM);
      return noted("cudaStreamCreateWithFlags", flags);
    },
    cudaMemcpyAsync(to, from, bytes, kind, stream) {
      const view = (at: Pointer) => new Uint8Array(toArrayBuffer(at, 0, bytes));
      view(to).set(view(from));
      return noted("cudaMemcpyAsync", bytes, kind, stream);
    },
    cudaStreamSynchronize: (stream) => noted("cudaStreamSynchronize", stream),
    cudaGetErrorString: () => ptr(message),
  };
  return { calls, runtime };
}

const onCuda: DeviceCopies = { ...copies, isCuda: true };
const { api } = loadOrt();
const bytes = () => Uint8Array.from({ length: 300 }, (_, i) => i * 3);

describe("copies of a thread beside programs", () => {
  test("on CUDA they go over one stream of the thread, and each waits for it alone", () => {
    const { calls, runtime } = fake();
    const copier = createThreadCopier(api, onCuda, () => runtime);
    const [from, to] = [bytes(), new Uint8Array(300)];
    copier.toDevice(ptr(from), ptr(to), 300);
    expect(to).toEqual(from);
    to[7] = 1;
    copier.toHost(ptr(to), ptr(from), 8);
    expect(from[7]).toBe(1);
    expect(from[8]).toBe(24);
    copier.toHost(ptr(to), ptr(from), 0);
    const wait = `cudaStreamSynchronize ${STREAM}`;
    expect(calls).toEqual([
      "cudaSetDevice 0",
      "cudaStreamCreateWithFlags 1",
      `cudaMemcpyAsync 300 1 ${STREAM}`,
      wait,
      `cudaMemcpyAsync 8 2 ${STREAM}`,
      wait,
    ]);
  });

  test.each(["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaMemcpyAsync", "cudaStreamSynchronize"] as const)(
    "an error of %s is told in CUDA's words",
    (name) => {
      const { runtime } = fake({ [name]: 2 });
      const [from, to] = [bytes(), bytes()];
      expect(() => createThreadCopier(api, onCuda, () => runtime).toDevice(ptr(from), ptr(to), 300)).toThrow(
        `CUDA, ${name}: out of memory`,
      );
    },
  );

  test.each([
    ["elsewhere", copies],
    ["where CUDA's runtime cannot be loaded", onCuda],
  ])("%s they are ONNX Runtime's", (_, some) => {
    const copier = createThreadCopier(api, some, () => {
      throw new Error("libcudart.so.13: cannot open shared object file");
    });
    const address = executor.reserve(300);
    const from = bytes();
    copier.toDevice(ptr(from), address, 300);
    expect(executor.read(address, 300)).toEqual(from);
    const back = new Uint8Array(300);
    copier.toHost(address, ptr(back), 300);
    expect(back).toEqual(from);
  });
});
