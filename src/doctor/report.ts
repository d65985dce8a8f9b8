import type { DeviceName } from "../device.ts";
import type { Missing } from "../ort/cuda.ts";
import type { Adapter } from "../ort/webgpu/adapter.ts";
import type { SelfTest } from "./self-test.ts";

/** Describes what is examined: a device, and of `wasm` the way in which it computes matrix products. */
export interface Target {
  readonly device: Exclude<DeviceName, "auto">;
  readonly matmul: "wasm" | "native" | null;
  /** Looks for what the device leaves to the CPU, too. */
  readonly operators?: true;
}

/** Describes what was found out of one device. */
export interface DeviceReport extends Target {
  readonly works: boolean;
  readonly description: string | null;
  readonly test: SelfTest | null;
  /** Why it does not work, where that is not something missing. */
  readonly problem: string | null;
  /** True if that is the end of the process that it was tested in. */
  readonly crashed: boolean;
  readonly missing: readonly Missing[];
  /** Parts of it that are there. */
  readonly found: readonly string[];
  /** Operators of training that it leaves to the CPU in part, with the types of their inputs; null where nobody has looked. */
  readonly leftToCpu: readonly string[] | null;
  /** WebGPU's; null where nobody can tell. */
  readonly adapter: Adapter | null;
}

/** A device of which nothing is known but its name. */
export function unknownDevice({ device, matmul }: Target): DeviceReport {
  const nothing = { description: null, test: null, problem: null, missing: [], found: [], leftToCpu: null, adapter: null };
  return { device, matmul, works: false, crashed: false, ...nothing };
}
