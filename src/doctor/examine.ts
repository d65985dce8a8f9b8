import { freemem, totalmem } from "node:os";
import { type DeviceName, openDevice } from "../device.ts";
import { messageOf } from "../base/errors.ts";
import { findCuda, type Missing } from "../ort/cuda.ts";
import { BOUND, type SelfTest, selfTest } from "./self-test.ts";

/** What was found out of one device. */
export interface DeviceReport {
  readonly device: Exclude<DeviceName, "auto">;
  /** Tells the two ways apart in which `wasm` computes matrix products. */
  readonly matmul: "wasm" | "native" | null;
  readonly works: boolean;
  readonly description: string | null;
  readonly test: SelfTest | null;
  /** Why it does not work, where that is not something missing. */
  readonly problem: string | null;
  readonly missing: readonly Missing[];
  /** Parts of it that are there. */
  readonly found: readonly string[];
}

export interface Report {
  readonly system: string;
  readonly runtime: string;
  readonly cores: number;
  readonly memory: { readonly total: number; readonly free: number };
  readonly devices: readonly DeviceReport[];
  /** What `--device auto` takes. */
  readonly auto: DeviceName;
}

/** Opens and tests each device, one after the other, so that none slows another down. */
export async function examine(): Promise<Report> {
  const devices = [
    await examineDevice("wasm", "wasm"),
    await examineDevice("wasm", "native"),
    await examineDevice("ort-cpu"),
    await examineDevice("cuda"),
    await examineDevice("webgpu"),
  ];
  return {
    system: `${process.platform} ${process.arch}`,
    runtime: `Bun ${Bun.version}`,
    cores: navigator.hardwareConcurrency,
    memory: { total: totalmem(), free: freemem() },
    devices,
    auto: devices.some(({ device, works }) => device === "cuda" && works) ? "cuda" : "wasm",
  };
}

async function examineDevice(device: DeviceReport["device"], matmul: DeviceReport["matmul"] = null): Promise<DeviceReport> {
  const nothing = { device, matmul, works: false, description: null, test: null, problem: null, missing: [], found: [] };
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
