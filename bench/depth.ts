import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { parseConfig } from "../src/hf/config.ts";
import type { Strategy } from "../src/schedule/strategies.ts";
import { createEngine } from "../src/train/engine.ts";
import { formatBytes } from "../src/train/memory.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import { plot, type Series } from "./plot.ts";
import { randomCheckpoint } from "./shapes.ts";

/**
 * Memory against depth: full fine-tuning of thin models of 8 to 1000 equal blocks under three strategies, one real step
 * each. What is plotted is the measured arena: boundaries, tapes, their gradients and workspace, without the weights.
 *
 *     bun bench/depth.ts --out docs/depth.svg
 */
const { values } = parseArgs({
  options: { out: { type: "string", default: "docs/depth.svg" }, most: { type: "string", default: "1000" } },
});
const TOKENS = 64;
const DEPTHS = [8, 16, 32, 64, 128, 256, 512, 1000].filter((depth) => depth <= Number(values.most));
const STRATEGIES: readonly Strategy[] = [{ name: "off" }, { name: "per-segment" }, { name: "sqrt" }];
const TITLES: Readonly<Record<string, string>> = { off: "off", "per-segment": "per segment", sqrt: "sqrt" };

const series: Series[] = [];
for (const strategy of STRATEGIES) {
  const points: [number, number][] = [];
  for (const depth of DEPTHS) {
    const config = parseConfig(
      {
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        hidden_size: 32,
        intermediate_size: 88,
        num_hidden_layers: depth,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        vocab_size: 128,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
      },
      "bench/depth.ts",
    );
    const executor = await createWasmExecutor({ threads: 1 });
    const engine = createEngine(executor, {
      config,
      source: randomCheckpoint(config, "f32"),
      tuning: { method: "full" },
      strategy,
      tokens: [TOKENS],
      optimizer: false,
    });
    const ids = Int32Array.from({ length: TOKENS }, (_, t) => (t * 37) % config.vocabSize);
    const labels = Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100);
    engine.forwardBackward(
      { ids, labels, starts: new Int32Array(TOKENS), positions: Int32Array.from(ids.keys()) },
      1 / (TOKENS - 1),
      1,
      0,
    );
    const arena = engine.measuredPeak - engine.predicted.resident;
    points.push([depth, arena]);
    console.log(
      `${TITLES[strategy.name]!.padEnd(12)} ${String(depth).padStart(5)} blocks  ${formatBytes(arena).padStart(10)} measured, ${formatBytes(engine.predicted.peak - engine.predicted.resident)} predicted`,
    );
    executor.close();
  }
  series.push({ name: TITLES[strategy.name]!, points });
}
writeFileSync(
  values.out,
  plot(series, {
    title: "Activation memory against depth, measured",
    xLabel: "decoder blocks",
    yLabel: "activation memory",
    yFormat: formatBytes,
  }),
);
console.log(`written ${values.out}`);
