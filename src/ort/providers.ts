import type { Pointer } from "bun:ffi";
import { messageOf, UserError } from "../base/errors.ts";
import { ARENA, createArenaConfig, type OrtEnvironment } from "./environment.ts";
import { cString, created, type OrtApi, textPairs } from "./library.ts";

/** Where ONNX Runtime computes. */
export type OrtProvider = "cpu" | "cuda" | "webgpu";

export interface ProviderOptions {
  /** Bytes of device memory that ONNX Runtime may take at most; by default all there is. CUDA alone. */
  readonly memoryLimit?: number;
}

/** Arguments of CreateMemoryInfo: OrtDeviceAllocator, the first card, OrtMemTypeDefault. */
const DEVICE_ALLOCATOR = 0;
const FIRST_CARD = 0;
const DEFAULT_MEMORY = 0;

/**
 * Options of the CUDA provider. TF32 keeps 10 bits of a factor's mantissa, too few for gradients that must agree with
 * the CPU's; the arena grows by what is asked for.
 */
export function cudaOptions({ memoryLimit }: ProviderOptions = {}): Record<string, string> {
  return {
    device_id: String(FIRST_CARD),
    use_tf32: "0",
    arena_extend_strategy: "kSameAsRequested",
    ...(memoryLimit !== undefined && { gpu_mem_limit: String(memoryLimit) }),
  };
}

/** Lets sessions with `options` compute on a provider. */
export function appendProvider(api: OrtApi, options: Pointer, provider: OrtProvider, settings: ProviderOptions): void {
  if (provider === "cuda") appendCuda(api, options, cudaOptions(settings));
  if (provider === "webgpu") appendWebGpu(api, options);
}

/** A message of ONNX Runtime without the place in its source, which comes first. */
function withoutSource(message: string): string {
  return message.replace(/^ONNX Runtime, \w+: \/.*?(\[ONNXRuntimeError\] : \d+ : \w+ : |was false\. )/s, "").trim();
}

/** Opens a provider. @throws {UserError} when ONNX Runtime cannot, with its reason */
export function explainFailure<T>(provider: OrtProvider, open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (provider === "cpu" || error instanceof UserError) throw error;
    throw new UserError(
      `ONNX Runtime's ${provider} provider cannot be used here: ${withoutSource(messageOf(error))}; see remat doctor`,
    );
  }
}

/** Has a device work. @throws {UserError} when it fails, with ONNX Runtime's reason: its memory is exhausted, or its driver is gone */
export function explainWork<T>(provider: OrtProvider, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(
      `ONNX Runtime's ${provider} device has failed: ${withoutSource(messageOf(error)).replace(/\.$/, "")}; where its memory is exhausted, lower the batch or a budget; see remat doctor`,
    );
  }
}

function appendCuda(api: OrtApi, options: Pointer, entries: Readonly<Record<string, string>>): void {
  const cuda = created((out) => api.CreateCUDAProviderOptions(out));
  try {
    const { keys, values, count } = textPairs(entries);
    api.UpdateCUDAProviderOptions(cuda, keys, values, count);
    api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda);
  } finally {
    api.ReleaseCUDAProviderOptions(cuda);
  }
}

/**
 * Options of the WebGPU provider; the first time that they are given in a process counts. The provider counts the users of its device: one
 * for each time that it is appended, but each session gives one back at its end, so that of several sessions with the same options the first
 * one would take the device from the others. Hence it is kept. It has kernels for integers of 64 bits, of which the lower 32 count, where it
 * is asked: shapes and indices do with them. Its buffers have the sizes that are asked for, not those of buckets, and are given
 * back when they are not needed.
 */
const WEBGPU_OPTIONS: Readonly<Record<string, string>> = {
  preserveDevice: "1",
  storageBufferCacheMode: "lazyRelease",
  enableInt64: "1",
};

function appendWebGpu(api: OrtApi, options: Pointer): void {
  for (const [name, value] of Object.entries(WEBGPU_OPTIONS))
    api.AddSessionConfigEntry(options, cString(`ep.webgpuexecutionprovider.${name}`), cString(value));
  api.SessionOptionsAppendExecutionProvider(options, cString("WebGPU"), null, null, 0);
}

let cudaMemory: { readonly info: Pointer; readonly memoryLimit: number | undefined } | null = null;

/** @throws {UserError} a second limit for the memory of a card, whose arena all executors of a process share */
export function expectSameLimit(first: number | undefined, asked: number | undefined): void {
  if (asked === first) return;
  const limit = (bytes: number | undefined) => (bytes === undefined ? "none" : `${bytes} bytes`);
  throw new UserError(
    `the limit of the card's memory is that of the first executor of a process: expected ${limit(first)}, got ${limit(asked)}`,
  );
}

/**
 * Names the card's memory, and gives it one arena for all sessions, which `session.use_env_allocators` makes them use:
 * the programs of a step run one after the other in the same temporary memory. Once per process; the name and the arena live as long as it.
 */
export function openCudaMemory({ api, env }: OrtEnvironment, settings: ProviderOptions): Pointer {
  if (cudaMemory) {
    expectSameLimit(cudaMemory.memoryLimit, settings.memoryLimit);
    return cudaMemory.info;
  }
  const info = created((out) => api.CreateMemoryInfo(cString("Cuda"), DEVICE_ALLOCATOR, FIRST_CARD, DEFAULT_MEMORY, out));
  const { memoryLimit } = settings;
  const arena = createArenaConfig(api, memoryLimit === undefined ? ARENA : { ...ARENA, max_mem: memoryLimit });
  try {
    const { keys, values, count } = textPairs(cudaOptions(settings));
    api.CreateAndRegisterAllocatorV2(env, cString("CUDAExecutionProvider"), info, arena, keys, values, count);
  } finally {
    api.ReleaseArenaCfg(arena);
  }
  cudaMemory = { info, memoryLimit };
  return info;
}
