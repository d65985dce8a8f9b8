import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { ReplayError } from "../../src/runtime/verify.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const TOKENS = 37;

const STRATEGIES: Checkpointing[] = [
  { name: "off" },
  { name: "per-segment" },
  { name: "sqrt" },
  { name: "revolve", slots: 2 },
  { name: "optimal", limit: { share: 0.5 } },
  { name: "optimal", limit: { share: 0.25 } },
];

test("replays are the same to the bit, for every strategy, with dropout; the check changes no gradient", async () => {
  const reference = gradients(await build(llama(5), lora(0.2), { name: "off" }, TOKENS), TOKENS);
  for (const strategy of STRATEGIES) {
    const engine = await build(llama(5), lora(0.2), strategy, TOKENS, 2, { verifyReplay: true });
    expect(gradients(engine, TOKENS)).toEqual(reference);
  }
});

describe("the first operator that differs is named", () => {
  /** An engine whose executor calls `disturb` once, right after the head's program has run. */
  async function disturbed(strategy: Checkpointing, disturb: (engine: Engine) => void): Promise<string> {
    const inner = await createWasmExecutor({ threads: 1 });
    let engine: Engine | null = null;
    const executor: Executor = {
      ...inner,
      get reserved() {
        return inner.reserved;
      },
      run(call) {
        inner.run(call);
        if (engine && call.program.graph.name === "head") disturb(engine);
      },
    };
    const config = llama(5);
    const source = randomCheckpoint(config, "f32");
    const tuning = { method: "full" } as const;
    const options = { config, source, tuning, strategy, tokens: [TOKENS], optimizer: null, verifyReplay: true };
    engine = createEngine(executor, options);
    const batch = packedBatch(TOKENS, config.vocabSize);
    try {
      engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
      return "nothing";
    } catch (error) {
      expect(error).toBeInstanceOf(ReplayError);
      return (error as Error).message;
    } finally {
      inner.close();
    }
  }

  const changeWeight = ({ executor, resident }: Engine) =>
    executor.write(resident.param.get("model.layers.2.self_attn.v_proj.weight")!, new Uint8Array(Float32Array.of(0.5).buffer));

  test("a weight that changes between forward and backward: where a backward computes again", async () => {
    const message = await disturbed({ name: "per-segment" }, changeWeight);
    expect(message).toContain("in model.layers.2, Gemm (self_attn.v_proj) is not what it was in the first forward");
    expect(message).toContain("when its backward computes it again");
  });

  test("the same where a forward is replayed", async () => {
    const message = await disturbed({ name: "sqrt" }, changeWeight);
    expect(message).toContain("in model.layers.2, Gemm (self_attn.v_proj) is not what it was in the first forward");
    expect(message).toContain("when its forward is replayed");
  });

  test("with everything kept, nothing is computed again and nothing differs", async () => {
    expect(await disturbed({ name: "off" }, changeWeight)).toBe("nothing");
  });
});
