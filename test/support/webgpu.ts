import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "bun:test";
import { SLOW } from "./slow.ts";

/** Describes how a process ended that opened WebGPU devices. */
export interface WebGpuTrial {
  /** Null where a library or a driver has ended the process. */
  readonly exitCode: number | null;
  /** `opened, halves: TYPES`, or `absent: why`. */
  readonly output: string;
}

/** Opens devices in a process of their own, which a driver may crash. @param env more of its environment */
export function tryWebGpu(env: Readonly<Record<string, string>> = {}): WebGpuTrial {
  const script = join(import.meta.dir, "webgpu-devices.ts");
  const { exitCode, stdout } = Bun.spawnSync([process.execPath, script], {
    stdout: "pipe",
    stderr: "ignore",
    env: { ...process.env, ...env },
  });
  return { exitCode, output: stdout.toString().trim() };
}

const found = tryWebGpu();

/** False where there is no Vulkan driver, or none that ONNX Runtime takes; tests say so and are passed over there. */
export const HAS_WEBGPU = !found.output.startsWith("absent: ");

if (!HAS_WEBGPU) process.stderr.write(`tests on WebGPU are passed over: ${found.output}\n`);

/** True if the adapter computes in f16. */
export const HAS_HALF = found.output.endsWith("halves: f16");

export const webGpuTest = HAS_WEBGPU ? test : test.skip;

/** One that only the full suite runs. */
export const slowWebGpuTest = HAS_WEBGPU && SLOW ? test : test.skip;

export const halfTest = HAS_HALF ? test : test.skip;
export const slowHalfTest = HAS_HALF && SLOW ? test : test.skip;

/** Describes Mesa's software driver to Vulkan's loader. */
export const LAVAPIPE = "/usr/share/vulkan/icd.d/lvp_icd.json";

export const slowLavapipeTest = HAS_WEBGPU && SLOW && existsSync(LAVAPIPE) ? test : test.skip;
