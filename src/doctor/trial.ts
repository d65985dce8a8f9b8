import type { DeviceName, Trial } from "../device.ts";
import { type ApartOptions, examineApart } from "./apart.ts";
import type { DeviceReport } from "./report.ts";

/** Tries a device in a child process, so that a driver that crashes does not end this one. */
export interface DeviceTrial {
  /** For `openDevice`. */
  readonly pass: Trial;
  /** Does something else while a device is tried that is sure to be opened; when `action` fails, the trial ends too. */
  beside<T>(action: () => Promise<T>): Promise<T>;
}

/** Null where opening the device says the same in this process. */
function dangerIn({ crashed, test, problem }: DeviceReport): string | null {
  return crashed || test !== null ? problem : null;
}

/** Makes a trial of the device that was asked for. With `auto`, a card is tried when it is to be opened. */
export function createTrial(asked: DeviceName, options: Omit<ApartOptions, "signal"> = {}): DeviceTrial {
  const controller = new AbortController();
  const problems = new Map<string, Promise<string | null>>();
  const pass: Trial = (device) => {
    let problem = problems.get(device);
    if (!problem) {
      const { signal } = controller;
      problem = examineApart({ device, matmul: null }, { ...options, signal }).then(dangerIn);
      problems.set(device, problem);
    }
    return problem;
  };
  return {
    pass,
    async beside(action) {
      if (asked === "cuda" || asked === "webgpu") void pass(asked);
      try {
        return await action();
      } catch (error) {
        controller.abort();
        throw error;
      }
    },
  };
}
