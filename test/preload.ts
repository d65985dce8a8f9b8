import { afterAll } from "bun:test";
import { forbidTelemetry } from "../src/ort/telemetry.ts";
import { kernelsAreCurrent } from "../src/wasm/build.ts";
import { collectGarbage, spareCollections } from "./support/garbage.ts";

if (!kernelsAreCurrent()) {
  throw new Error('the compiled kernels do not fit assembly/; run "bun run test", which builds them first');
}

// Some tests begin ONNX Runtime by themselves.
forbidTelemetry();
spareCollections();

/** Garbage that a process of tests may have. */
const MOST_RESIDENT = 1 << 30;
// The collector does not see how large the memories of closed executors are.
afterAll(() => {
  if (process.memoryUsage.rss() > MOST_RESIDENT) collectGarbage();
});
