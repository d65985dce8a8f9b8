import { forbidTelemetry } from "../src/ort/telemetry.ts";
import { kernelsAreCurrent } from "../src/wasm/build.ts";

if (!kernelsAreCurrent()) {
  throw new Error('the compiled kernels do not fit assembly/; run "bun run test", which builds them first');
}

// Some tests begin ONNX Runtime by themselves.
forbidTelemetry();
