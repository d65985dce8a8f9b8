import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { createAddonExecutor } from "../../src/ort/addon.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { SAMPLES } from "../onnx/samples.ts";
import { rematApart } from "../support/cli.ts";
import { gradients, llama, lora } from "../support/engine.ts";
import { runOn } from "../support/executor.ts";
import { expectSameBits, expectWithin, opGraph, relativeError, runGraph } from "../support/ops.ts";
import { userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const addon = createAddonExecutor({ threads: 1 });
const library = createOrtExecutor({ threads: 1 });
afterAll(() => {
  addon.close();
  library.close();
});

describe.each(Object.keys(OPS) as OpName[])("%s through the addon", (name) => {
  SAMPLES[name].forEach(({ attrs, inputs, bound = 1e-6 }, i) => {
    if (inputs.some((tensor) => tensor?.dtype === "bf16" || tensor?.dtype === "f16")) return;
    test(`sample ${i}: as on the wasm executor, relative error <= ${bound}; in place the same`, async () => {
      const { builder, outputs, feeds } = opGraph({ op: opOf({ op: name }), inputs, attrs });
      for (const output of outputs) builder.output({ name: output, role: "boundary" });
      const graph = builder.build();
      const expected = await runGraph(graph, feeds);
      const actual = runOn(addon, graph, feeds, { times: 2 });
      for (const [output, data] of expected)
        expectWithin(output, relativeError(actual.get(output)!, data), data instanceof Float32Array ? bound : 0);
    });
  });
});

describe("the addon's executor", () => {
  test("memory is aligned, read back and cleared; what was not reserved is refused", () => {
    const address = addon.reserve(100);
    expect(address % 64).toBe(0);
    addon.write(address, Uint8Array.of(1, 2, 3));
    addon.fill(address + 3, 1, (target) => (target[0] = 4));
    addon.zero(address + 1, 2);
    expect(addon.read(address, 4)).toEqual(Uint8Array.of(1, 0, 0, 4));
    expect(addon.read(address, 0)).toEqual(new Uint8Array());
    expect(() => addon.read(address + 64, 65)).toThrow("outside of what was reserved");
    expect(userError(() => addon.reserve(2 ** 50))).toContain(`cannot reserve ${2 ** 50} bytes`);
  });

  test.each([["LoRA with dropout", lora(0.2)] as const, ["full tuning", { method: "full" }] as const])(
    "%s on bf16 weights: the same bits of losses and gradients as through the library",
    (_, tuning) => {
      const config = llama(2);
      const run = (executor: Executor, dtype?: "f32") => {
        const source = randomCheckpoint(config, "bf16");
        const engine = createEngine(executor, {
          config,
          source,
          tuning,
          strategy: { name: "per-segment" },
          tokens: [24],
          optimizer: chooseOptimizer({}),
          dtype,
        });
        initialiseAdapter(engine, 3);
        return gradients(engine, 24);
      };
      const [expected, actual] = [run(library, "f32"), run(addon)];
      expect(actual.losses).toEqual(expected.losses);
      expectSameBits("gradients", [...actual.values.values()], [...expected.values.values()]);
    },
  );

  test("REMAT_ORT=addon has ort-cpu use it, and doctor says so", async () => {
    const { stdout, code } = await rematApart(["doctor", "--json"], undefined, { REMAT_ORT: "addon" });
    expect(code).toBe(0);
    const devices = (JSON.parse(stdout) as { devices: { device: string; works: boolean; description: string }[] }).devices;
    const { works, description } = devices.find(({ device }) => device === "ort-cpu")!;
    expect(works).toBe(true);
    expect(description).toContain("through its addon");
    expect(description).toContain("slower, half types are widened to f32, and its temporary memory is not counted");
  });
});
