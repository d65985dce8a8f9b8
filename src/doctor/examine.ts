import { freemem, totalmem } from "node:os";
import type { DeviceName } from "../device.ts";
import { type ApartOptions, examineApart } from "./apart.ts";
import type { DeviceReport, Target } from "./report.ts";

export interface Report {
  readonly system: string;
  readonly runtime: string;
  readonly cores: number;
  readonly memory: { readonly total: number; readonly free: number };
  readonly devices: readonly DeviceReport[];
  /** What `--device auto` takes. */
  readonly auto: DeviceName;
}

const TARGETS: readonly Target[] = [
  { device: "wasm", matmul: "wasm" },
  { device: "wasm", matmul: "native" },
  { device: "ort-cpu", matmul: null },
  { device: "cuda", matmul: null },
  { device: "webgpu", matmul: null },
];

/** Tests each device in a process of its own, one after the other, so that none slows another down. */
export async function examine(options: ApartOptions = {}): Promise<Report> {
  const devices: DeviceReport[] = [];
  for (const target of TARGETS) devices.push(await examineApart(target, options));
  return {
    system: `${process.platform} ${process.arch}`,
    runtime: `Bun ${Bun.version}`,
    cores: navigator.hardwareConcurrency,
    memory: { total: totalmem(), free: freemem() },
    devices,
    auto: devices.some(({ device, works }) => device === "cuda" && works) ? "cuda" : "wasm",
  };
}
