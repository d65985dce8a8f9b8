import { afterAll } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { forbidTelemetry } from "../src/ort/telemetry.ts";
import { kernelsAreCurrent } from "../src/wasm/build.ts";
import { collectGarbage, spareCollections } from "./support/garbage.ts";

if (!kernelsAreCurrent()) {
  throw new Error('the compiled kernels do not fit assembly/; run "bun run test", which builds them first');
}

// What tests keep, and remove, is not the user's, nor that of the test files before.
const cache = mkdtempSync(join(tmpdir(), "remat-test-cache-"));
process.env["REMAT_CACHE"] = cache;
afterAll(() => rmSync(cache, { recursive: true, force: true }));

// Some tests begin ONNX Runtime by themselves.
forbidTelemetry();
spareCollections();

/** Garbage that a process of tests may have. */
const MOST_RESIDENT = 1 << 30;
// The collector does not see how large the memories of closed executors are.
afterAll(() => {
  if (process.memoryUsage.rss() > MOST_RESIDENT) collectGarbage();
});
