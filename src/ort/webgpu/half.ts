import { ptr } from "bun:ffi";
import { messageOf } from "../../base/errors.ts";
import { ONNX_DTYPE } from "../../onnx/encode.ts";
import { callByValue, type NamedTensor } from "../calls.ts";
import { halfModel } from "../copy-models.ts";
import type { OrtEnvironment } from "../environment.ts";
import { cString, created } from "../library.ts";
import type { SessionLoader } from "../sessions.ts";

/** How ONNX Runtime says that a shader computes in f16 and the adapter has no `shader-f16`. */
const LACKS_HALF = "requires f16";

let found: boolean | undefined;

/**
 * Tells whether WebGPU's adapter computes in f16: ONNX Runtime has kernels for it on all adapters, whose shaders then fail when they run. One is
 * tried, once in a process.
 */
export function computesInHalf(environment: OrtEnvironment, loader: SessionLoader): boolean {
  return (found ??= tryHalf(environment, loader));
}

function tryHalf(environment: OrtEnvironment, loader: SessionLoader): boolean {
  const { api, memoryInfo } = environment;
  const data = [new Uint16Array(1), new Uint16Array(1)] as const;
  const tensor = (name: string, element: Uint16Array): NamedTensor => ({
    name: cString(name),
    value: created((out) =>
      api.CreateTensorWithDataAsOrtValue(memoryInfo, ptr(element), 2, BigInt64Array.of(1n), 1, ONNX_DTYPE.f16, out),
    ),
  });
  const runOptions = created((out) => api.CreateRunOptions(out));
  const session = loader.load(halfModel()).session;
  const call = callByValue(api, session, runOptions, [tensor("x", data[0])], [tensor("y", data[1])]);
  try {
    call.start();
    return true;
  } catch (error) {
    if (!messageOf(error).includes(LACKS_HALF)) throw error;
    return false;
  } finally {
    call.end();
    api.ReleaseSession(session);
    api.ReleaseRunOptions(runOptions);
  }
}
