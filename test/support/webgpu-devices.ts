import { UserError } from "../../src/base/errors.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";

/** Run as a process: opens devices of ONNX Runtime's WebGPU provider one after the other, then two at a time, and prints what came of it and what half types there are. */
if (import.meta.main) {
  try {
    createOrtExecutor({ provider: "webgpu" }).close();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.log(`absent: ${error.message}`);
    process.exit(0);
  }
  createOrtExecutor({ provider: "webgpu" }).close();
  const devices = [createOrtExecutor({ provider: "webgpu" }), createOrtExecutor({ provider: "webgpu" })];
  console.log(`opened, halves: ${devices[0]!.halves}`);
  for (const device of devices) device.close();
}
