import type { Pointer } from "bun:ffi";
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

/** A call that reads and writes tensors where they are: in memory that the provider computes on. */
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
