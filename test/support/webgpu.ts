import { join } from "node:path";
import { test } from "bun:test";
import { SLOW } from "./slow.ts";

/** Describes how a process ended that opened WebGPU devices. */
export interface WebGpuTrial {
  /** Null where a library or a driver has ended the process. */
  readonly exitCode: number | null;
  /** `opened`, or `absent: why`. */
  readonly output: string;
}

/** Opens devices in a process of their own, which a driver may crash. */
export function tryWebGpu(): WebGpuTrial {
  const script = join(import.meta.dir, "webgpu-devices.ts");
  const { exitCode, stdout } = Bun.spawnSync([process.execPath, script], { stdout: "pipe", stderr: "ignore" });
  return { exitCode, output: stdout.toString().trim() };
}

const found = tryWebGpu();

/** False where there is no Vulkan driver, or none that ONNX Runtime takes; tests say so and are passed over there. */
export const HAS_WEBGPU = !found.output.startsWith("absent: ");

if (!HAS_WEBGPU) process.stderr.write(`tests on WebGPU are passed over: ${found.output}\n`);

export const webGpuTest = HAS_WEBGPU ? test : test.skip;

/** One that only the full suite runs. */
export const slowWebGpuTest = HAS_WEBGPU && SLOW ? test : test.skip;
