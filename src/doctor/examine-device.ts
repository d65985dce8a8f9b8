import { openDevice } from "../device.ts";
import { messageOf } from "../base/errors.ts";
import { findAdapter } from "../ort/webgpu/adapter.ts";
import { findCuda } from "../ort/cuda.ts";
import { type DeviceReport, type Target, unknownDevice } from "./report.ts";
import { leftToCpu } from "./left-to-cpu.ts";
import { BOUND, selfTest } from "./self-test.ts";

/** Opens and tests a device in this process, which a library or a driver may end. */
export async function examineDevice(target: Target): Promise<DeviceReport> {
  const { device, matmul, operators } = target;
  const nothing = unknownDevice(target);
  const state = device === "cuda" ? cudaState() : { missing: [], found: [] };
  if (state.missing.length > 0) return { ...nothing, ...state };
  try {
    const opened = await openDevice({ device, ...(matmul !== null && { matmul }) });
    try {
      const test = selfTest(opened.executor);
      const works = test.error <= BOUND;
      const problem = works ? null : `${test.worst} is wrong by ${test.error.toExponential(1)}, more than ${BOUND}`;
      const adapter = device === "webgpu" ? findAdapter() : null;
      const on = adapter ? [`on ${adapter.name}${adapter.isSoftware ? " (software)" : ""}`] : [];
      const description = [[opened.description, ...on].join(" "), ...(opened.notice === null ? [] : [opened.notice])].join("; ");
      const { leavesToCpu } = opened.executor;
      const left = works && operators && leavesToCpu ? leftToCpu(leavesToCpu) : null;
      return { ...nothing, works, description, test, problem, found: state.found, leftToCpu: left, adapter };
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
