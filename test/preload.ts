import { afterAll } from "bun:test";
import { forbidTelemetry } from "../src/ort/telemetry.ts";
import { kernelsAreCurrent } from "../src/wasm/build.ts";

if (!kernelsAreCurrent()) {
  throw new Error('the compiled kernels do not fit assembly/; run "bun run test", which builds them first');
}

// Some tests begin ONNX Runtime by themselves.
forbidTelemetry();

/** Garbage that a process of tests may have. */
const MOST_RESIDENT = 1 << 30;
// The collector does not see how large the memories of closed executors are.
afterAll(() => {
  if (process.memoryUsage.rss() > MOST_RESIDENT) Bun.gc(true);
});
