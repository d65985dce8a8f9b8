import { type DeviceName, openDevice } from "../device.ts";
import { messageOf } from "../base/errors.ts";
import { findCuda, type Missing } from "../ort/cuda.ts";
import { BOUND, type SelfTest, selfTest } from "./self-test.ts";

/** What is examined: a device, and of `wasm` the way in which it computes matrix products. */
export interface Target {
  readonly device: Exclude<DeviceName, "auto">;
  readonly matmul: "wasm" | "native" | null;
}

/** What was found out of one device. */
export interface DeviceReport extends Target {
  readonly works: boolean;
  readonly description: string | null;
  readonly test: SelfTest | null;
  /** Why it does not work, where that is not something missing. */
  readonly problem: string | null;
  /** Whether that is the end of the process that it was tested in. */
  readonly crashed: boolean;
  readonly missing: readonly Missing[];
  /** Parts of it that are there. */
  readonly found: readonly string[];
}

/** A device of which nothing is known but its name. */
export function unknownDevice({ device, matmul }: Target): DeviceReport {
  const nothing = { description: null, test: null, problem: null, missing: [], found: [] };
  return { device, matmul, works: false, crashed: false, ...nothing };
}

/** Opens and tests a device in this process, which a library or a driver may end. */
export async function examineDevice(target: Target): Promise<DeviceReport> {
  const { device, matmul } = target;
  const nothing = unknownDevice(target);
  const state = device === "cuda" ? cudaState() : { missing: [], found: [] };
  if (state.missing.length > 0) return { ...nothing, ...state };
  try {
    const opened = await openDevice({ device, ...(matmul !== null && { matmul }) });
    try {
      const test = selfTest(opened.executor);
      const works = test.error <= BOUND;
      const problem = works ? null : `${test.worst} is wrong by ${test.error.toExponential(1)}, more than ${BOUND}`;
      const description = [opened.description, ...(opened.notice === null ? [] : [opened.notice])].join("; ");
      return { ...nothing, works, description, test, problem, found: state.found };
    } finally {
      opened.close();
    }
  } catch (error) {
    return { ...nothing, problem: messageOf(error), found: state.found };
  }
}

/** Without ONNX Runtime's library its error is the problem, which opening the device tells. */
function cudaState(): ReturnType<typeof findCuda> {
  try {
    return findCuda();
  } catch {
    return { missing: [], found: [] };
  }
}

/** The child process of `examineApart`: prints the report of the device that its argument describes, a `Target` as JSON. */
export async function run([argument]: readonly string[]): Promise<number> {
  const report = await examineDevice(JSON.parse(argument!) as Target);
  process.stdout.write(`${JSON.stringify(report)}\n`);
  return 0;
}
