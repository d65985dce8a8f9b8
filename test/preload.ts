import { setDefaultTimeout } from "bun:test";
import { kernelsAreCurrent } from "../src/wasm/build.ts";

if (!kernelsAreCurrent()) {
  throw new Error('the compiled kernels do not fit assembly/; run "bun run test", which builds them first');
}

// A slow or busy machine is no failure.
setDefaultTimeout(60_000);
