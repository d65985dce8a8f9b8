import type { DeviceName, Trial } from "../device.ts";
import { mayHaveAdapter } from "../ort/webgpu/adapter.ts";
import { rememberedChoice } from "../ort/webgpu/choice.ts";
import { type ApartOptions, examineApart } from "./apart.ts";
import { prefersWebGpu } from "./choice.ts";
import type { DeviceReport } from "./report.ts";

/** Tries a device in a child process, so that a driver that crashes does not end this one. */
export interface DeviceTrial extends Trial {
  /** Does something else while a device is tried that is likely to be opened; when `action` fails, the trial ends too. */
  beside<T>(action: () => Promise<T>): Promise<T>;
}

/** Null where opening the device says the same in this process. */
function dangerIn({ crashed, test, problem }: DeviceReport): string | null {
  return crashed || test !== null ? problem : null;
}

/** The device with a driver that is going to be opened, or may be; null where there is none. */
async function candidate(asked: DeviceName): Promise<"cuda" | "webgpu" | null> {
  if (asked === "cuda" || asked === "webgpu") return asked;
  if (asked !== "auto") return null;
  const { hasProviderFiles } = await import("../ort/cuda.ts");
  if (hasProviderFiles()) return "cuda";
  return mayHaveAdapter() && rememberedChoice() === true ? "webgpu" : null;
}

/** Makes a trial of the device that was asked for. */
export function createTrial(asked: DeviceName, options: Omit<ApartOptions, "signal"> = {}): DeviceTrial {
  const controller = new AbortController();
  const apart = { ...options, signal: controller.signal };
  const problems = new Map<string, Promise<string | null>>();
  const dangerOf: Trial["dangerOf"] = (device) => {
    let problem = problems.get(device);
    if (!problem) {
      problem = examineApart({ device, matmul: null }, apart).then(dangerIn);
      problems.set(device, problem);
    }
    return problem;
  };
  return {
    dangerOf,
    prefersWebGpu: () => prefersWebGpu(apart),
    async beside(action) {
      const device = await candidate(asked);
      if (device !== null) void dangerOf(device);
      try {
        return await action();
      } catch (error) {
        controller.abort();
        throw error;
      }
    },
  };
}
