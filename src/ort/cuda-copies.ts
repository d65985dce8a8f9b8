import { CString, dlopen, type Pointer } from "bun:ffi";
import type { DeviceCopies } from "../runtime/executor.ts";
import { CUDA_RUNTIME } from "./cuda.ts";
import type { OrtApi } from "./library.ts";
import { type Copier, createCopier } from "./memory.ts";

/** The functions of CUDA's runtime that copies on a stream of their own need; each returns a cudaError_t, 0 if all is well. */
export interface CudaRuntime {
  cudaSetDevice(device: number): number;
  cudaStreamCreateWithFlags(stream: BigUint64Array, flags: number): number;
  cudaMemcpyAsync(to: Pointer, from: Pointer, bytes: number, kind: number, stream: Pointer): number;
  cudaStreamSynchronize(stream: Pointer): number;
  cudaGetErrorString(status: number): Pointer | null;
}

const FIRST_CARD = 0;
/** cudaStreamNonBlocking: it does not wait for the default stream, nor that one for it. */
const NON_BLOCKING = 1;
/** cudaMemcpyKind. */
const HOST_TO_DEVICE = 1;
const DEVICE_TO_HOST = 2;

/**
 * A copier for a thread that moves bytes while programs run: by CUDA on a stream of its own, so that a copy waits for no kernel, or else by
 * ONNX Runtime's session, whose copies wait for all that the card does.
 */
export function createThreadCopier(api: OrtApi, copies: DeviceCopies, open: () => CudaRuntime = openRuntime): Copier {
  if (!copies.isCuda) return createCopier(api, copies);
  let runtime: CudaRuntime;
  try {
    runtime = open();
  } catch {
    // Another version of the runtime, under another name.
    return createCopier(api, copies);
  }
  return createCudaCopier(runtime);
}

/**
 * The stream is made once and lives as long as the thread. A copy needs no event to wait for: programs have ended when `run` returns, which
 * waits for their stream, and only then is a copy of what they wrote begun; what is copied in is read behind the end of this function,
 * which waits for the copy.
 */
function createCudaCopier(runtime: CudaRuntime): Copier {
  const expect = (what: string, status: number): void => {
    if (status === 0) return;
    const text = runtime.cudaGetErrorString(status);
    throw new Error(`CUDA, ${what}: ${text ? new CString(text).toString() : `error ${status}`}`);
  };
  // A thread begins without a card.
  expect("cudaSetDevice", runtime.cudaSetDevice(FIRST_CARD));
  const out = new BigUint64Array(1);
  expect("cudaStreamCreateWithFlags", runtime.cudaStreamCreateWithFlags(out, NON_BLOCKING));
  const stream = Number(out[0]) as Pointer;
  const copy = (to: number, from: number, bytes: number, kind: number): void => {
    if (bytes === 0) return;
    expect("cudaMemcpyAsync", runtime.cudaMemcpyAsync(to as Pointer, from as Pointer, bytes, kind, stream));
    expect("cudaStreamSynchronize", runtime.cudaStreamSynchronize(stream));
  };
  return {
    toDevice: (from, to, bytes) => copy(to, from, bytes, HOST_TO_DEVICE),
    toHost: (from, to, bytes) => copy(to, from, bytes, DEVICE_TO_HOST),
  };
}

function openRuntime(): CudaRuntime {
  return dlopen(CUDA_RUNTIME, {
    cudaSetDevice: { args: ["i32"], returns: "i32" },
    cudaStreamCreateWithFlags: { args: ["ptr", "u32"], returns: "i32" },
    cudaMemcpyAsync: { args: ["ptr", "ptr", "usize", "i32", "ptr"], returns: "i32" },
    cudaStreamSynchronize: { args: ["ptr"], returns: "i32" },
    cudaGetErrorString: { args: ["i32"], returns: "ptr" },
  }).symbols as unknown as CudaRuntime;
}
