import type { Pointer } from "bun:ffi";
import { bindFunctions, text } from "../ort/library.ts";
import type { Address } from "../runtime/executor.ts";

/** What threads need to call ONNX Runtime: addresses in the process, the same for all. */
export interface NativeBoot {
  readonly entries: Readonly<
    Record<"Run" | "CreateTensorWithDataAsOrtValue" | "ReleaseValue" | "GetErrorMessage" | "ReleaseStatus", Pointer>
  >;
  readonly runOptions: Pointer;
  readonly memoryInfo: Pointer;
  /** The shared WebAssembly memory. */
  readonly base: Pointer;
  /** In that memory: `char*` of the inputs "A", "B", "C" and of the output "Y". */
  readonly names: Address;
}

/** With NATIVE_SCRATCH bytes of the thread's own. */
export interface NativeThread extends NativeBoot {
  readonly scratch: Address;
}

/** What the kernels import under `native`: `product` of assembly/gemm-native.ts. */
export type NativeProduct = (
  session: number,
  a: number,
  b: number,
  c: number,
  out: number,
  m: number,
  n: number,
  k: number,
  transA: number,
  transB: number,
  addend: number,
) => void;

/** Bytes of scratch that each thread's `NativeProduct` needs. */
export const NATIVE_SCRATCH = 64;
/** Where in the scratch the pieces are: two dimensions (i64), and handles of A, B, C, Y. */
const VALUES = 16;
const OUTPUT = VALUES + 24;
/** ONNXTensorElementDataType: float. */
const FLOAT = 1;

/** Products without native library: no command asks for one. */
export const noNativeProduct: NativeProduct = () => {
  throw new Error("a native product without a native library");
};

/**
 * One thread's way into ONNX Runtime: makes tensors that view the shared memory, runs the session on this thread (sessions
 * have one thread), lets go of the tensors; about 3 microseconds besides the product.
 */
export function createNativeProduct(memory: WebAssembly.Memory, thread: NativeThread): NativeProduct {
  const { Run, CreateTensorWithDataAsOrtValue, ReleaseValue, GetErrorMessage, ReleaseStatus } = bindFunctions(thread.entries);
  const { base, memoryInfo, runOptions, scratch } = thread;
  const words = new Uint32Array(memory.buffer, scratch, NATIVE_SCRATCH / 4);
  const dims = base + scratch;
  const values = dims + VALUES;
  const output = dims + OUTPUT;
  const inputNames = base + thread.names;
  const outputName = inputNames + 24;

  const check = (status: Pointer | null): void => {
    if (!status) return;
    const message = text(GetErrorMessage(status));
    ReleaseStatus(status);
    throw new Error(`ONNX Runtime: ${message}`);
  };
  const createValue = (address: number, rows: number, columns: number, to: number): void => {
    // A row [columns] is a matrix of rows 0.
    words[0] = rows === 0 ? columns : rows;
    words[2] = columns;
    const bytes = 4 * Math.max(1, rows) * columns;
    check(CreateTensorWithDataAsOrtValue(memoryInfo, base + (address >>> 0), bytes, dims, rows === 0 ? 1 : 2, FLOAT, to));
  };
  const handle = (at: number): number => words[at / 4]! + 2 ** 32 * words[at / 4 + 1]!;

  return (session, a, b, c, out, m, n, k, transA, transB, addend) => {
    createValue(a, transA ? k : m, transA ? m : k, values);
    createValue(b, transB ? n : k, transB ? k : n, values + 8);
    if (addend) createValue(c, addend === 2 ? 0 : m, n, values + 16);
    createValue(out, m, n, output);
    const inputs = addend ? 3 : 2;
    const status = Run(session, runOptions, inputNames, values, inputs, outputName, 1, output);
    for (let i = 0; i < inputs; i++) ReleaseValue(handle(VALUES + 8 * i));
    ReleaseValue(handle(OUTPUT));
    check(status);
  };
}
