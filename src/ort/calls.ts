import { type Pointer, ptr } from "bun:ffi";
import { created, type OrtApi } from "./library.ts";

export interface NamedTensor {
  readonly name: Uint8Array;
  readonly value: Pointer;
}

/** Runs a session on the tensors that it was made for, as often as wanted, until `end` releases them. */
export interface BoundCall {
  start(): void;
  end(): void;
}

/**
 * A call that reads and writes tensors where they are: in memory that the provider computes on. The binding is made once and lives until
 * `end`. A run puts its kernels on the stream that all sessions of the device share and waits for that stream before it returns, so that what it
 * wrote is there for any stream. An input that a node on the CPU reads would be copied here, when it is bound, and never again.
 */
export function callInPlace(
  api: OrtApi,
  session: Pointer,
  runOptions: Pointer,
  inputs: readonly NamedTensor[],
  outputs: readonly NamedTensor[],
): BoundCall {
  const binding = created((out) => api.CreateIoBinding(session, out));
  for (const { name, value } of inputs) api.BindInput(binding, name, value);
  for (const { name, value } of outputs) api.BindOutput(binding, name, value);
  // The binding keeps references of its own.
  for (const { value } of [...inputs, ...outputs]) api.ReleaseValue(value);
  return {
    start: () => void api.RunWithBinding(session, runOptions, binding),
    end: () => api.ReleaseIoBinding(binding),
  };
}

/**
 * A call of a session with nodes on the CPU: inputs are handed over anew at each run, which copies what such nodes read, so that they never see
 * what memory held before. The values live until `end`.
 */
export function callByValue(
  api: OrtApi,
  session: Pointer,
  runOptions: Pointer,
  inputs: readonly NamedTensor[],
  outputs: readonly NamedTensor[],
): BoundCall {
  const names = (tensors: readonly NamedTensor[]) => BigUint64Array.from(tensors, ({ name }) => BigInt(ptr(name)));
  const values = (tensors: readonly NamedTensor[]) => BigUint64Array.from(tensors, ({ value }) => BigInt(value));
  const [inputNames, inputValues] = [names(inputs), values(inputs)];
  const [outputNames, outputValues] = [names(outputs), values(outputs)];
  return {
    start: () =>
      void api.Run(session, runOptions, inputNames, inputValues, inputs.length, outputNames, outputs.length, outputValues),
    // The names' characters must live as long as the pointers to them.
    end: () => [...inputs, ...outputs].forEach(({ value }) => api.ReleaseValue(value)),
  };
}
