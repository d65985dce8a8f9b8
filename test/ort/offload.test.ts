import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import type { OffloadOptions } from "../../src/train/memory/offload.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { gradients, llama, lora } from "../support/engine.ts";
import { boundFor, PROVIDER } from "../support/provider.ts";
import { expectSameBits, expectWithin, relativeError } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const executors: Executor[] = [];
const engines: Engine[] = [];
afterEach(() => engines.splice(0).forEach((engine) => engine.close()));
afterEach(() => executors.splice(0).forEach((executor) => executor.close()));

const TOKENS = 48;
const config = llama(5);
const tuning = lora(0.2);

function build(copies: boolean, strategy: Checkpointing, offload: OffloadOptions | null): Engine {
  const executor = createOrtExecutor({ threads: 2, provider: PROVIDER, copies });
  executors.push(executor);
  const source = randomCheckpoint(config, "f32");
  const options = {
    config,
    source,
    tuning,
    strategy,
    tokens: [TOKENS],
    optimizer: null,
    offload,
    verifyReplay: offload !== null,
  };
  const engine = createEngine(executor, options);
  initialiseAdapter(engine, 3);
  engines.push(engine);
  return engine;
}

// On the CPU the copies of a device go the same way, between two parts of the process's memory.
test.each([
  ["addresses of this process, into a file", false, PROVIDER === "cpu" ? "a file in" : "host memory"],
  // WebGPU's device is used by one thread alone.
  ...(PROVIDER === "webgpu"
    ? []
    : [["memory that is reached by copies alone, as a device's, into host memory", true, "host memory"] as const]),
] as const)("%s: gradients as without offload, what is fetched is what was copied", (_, copies, target) => {
  const reference = gradients(build(copies, { name: "off" }, null), TOKENS);
  for (const strategy of [{ name: "off" }, { name: "sqrt" }] as const) {
    const engine = build(copies, strategy, { folder, leastBytes: 4096 });
    const { losses, values } = gradients(engine, TOKENS);
    expect(engine.store!.description).toStartWith(target);
    const { out, in: into } = engine.store!.counts();
    expect(out).toBeGreaterThan(0);
    expect(into).toBeGreaterThan(0);
    // Temporary memory is that of all executors here.
    const { peak, temporary } = engine.predicted;
    const measured = engine.measuredPeak - (engine.executor.temporary?.bytes ?? 0);
    expect(Math.abs(measured / (peak - temporary) - 1)).toBeLessThan(0.02);
    if (PROVIDER === "cpu") {
      expect(losses).toEqual(reference.losses);
      expectSameBits("gradients", [...values.values()], [...reference.values.values()]);
    } else {
      for (const [name, gradient] of values) {
        expectWithin(name, relativeError(gradient, reference.values.get(name)!), boundFor(0));
      }
    }
  }
});
