import { freemem, totalmem } from "node:os";
import { freeMemory, memoryLimit } from "../base/process/free-memory.ts";
import type { DeviceName } from "../device.ts";
import { type ApartOptions, examineApart } from "./apart.ts";
import { rememberChoice } from "../ort/webgpu/choice.ts";
import { adapterWins } from "./choice.ts";
import type { DeviceReport, Target } from "./report.ts";

export interface Report {
  readonly system: string;
  readonly runtime: string;
  readonly cores: number;
  readonly memory: { readonly total: number; readonly free: number };
  readonly devices: readonly DeviceReport[];
  /** The device that `--device auto` takes. */
  readonly auto: DeviceName;
}

const TARGETS: readonly Target[] = [
  { device: "wasm", matmul: "wasm" },
  { device: "wasm", matmul: "native" },
  { device: "ort-cpu", matmul: null },
  { device: "cuda", matmul: null, operators: true },
  { device: "webgpu", matmul: null, operators: true },
];

/** Bytes that this process may hold, and may still take: a control group (a container) may allow less than the machine has. */
function memoryHere(): Report["memory"] {
  const total = Math.min(totalmem(), memoryLimit());
  try {
    return { total, free: Math.min(total, freeMemory()) };
  } catch {
    // Not a Linux: what the system says of itself.
    return { total, free: freemem() };
  }
}

/** Tests each device in a process of its own, one after the other, so that none slows another down. */
export async function examine(options: ApartOptions = {}): Promise<Report> {
  const devices: DeviceReport[] = [];
  for (const target of TARGETS) devices.push(await examineApart(target, options));
  const wins = adapterWins(devices);
  rememberChoice(wins);
  return {
    system: `${process.platform} ${process.arch}`,
    runtime: `Bun ${Bun.version}`,
    cores: navigator.hardwareConcurrency,
    memory: memoryHere(),
    devices,
    auto: devices.some(({ device, works }) => device === "cuda" && works) ? "cuda" : wins ? "webgpu" : "wasm",
  };
}
