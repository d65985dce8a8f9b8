import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import type { ModelConfig } from "../src/models/config.ts";
import { parseConfig } from "../src/models/families/index.ts";
import { drawing } from "../src/base/charts/drawing.ts";
import { lineChart } from "../src/base/charts/line-chart.ts";
import { simulate } from "../src/schedule/simulate.ts";
import { strategySchedule } from "../src/schedule/strategies.ts";
import { createEngine } from "../src/train/step/engine.ts";
import { formatBytes } from "../src/base/bytes.ts";
import { planModel } from "../src/train/memory/model-plan.ts";
import type { Checkpointing } from "../src/train/memory/step-plan.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import { randomCheckpoint } from "./shapes.ts";

/**
 * Memory against depth: activation memory (stash and workspace) of full fine-tuning of a thin model, for the strategies
 * off, per-segment and sqrt, from the executor's exact plans, as an SVG. Then, run and timed: `--shallow` blocks that
 * save everything against `--deep` blocks at the same peak. Prints one JSON line.
 *
 *     bun bench/depth.ts --svg build/depth.svg
 */
const { values } = parseArgs({
  options: {
    svg: { type: "string", default: "build/depth.svg" },
    tokens: { type: "string", default: "256" },
    hidden: { type: "string", default: "128" },
    shallow: { type: "string", default: "60" },
    deep: { type: "string", default: "1000" },
    steps: { type: "string", default: "5" },
    threads: { type: "string", default: "1" },
    run: { type: "boolean", default: true },
  },
  allowNegative: true,
});
const tokens = Number(values.tokens);
const [shallow, deep] = [Number(values.shallow), Number(values.deep)];

function model(layers: number): ModelConfig {
  const hidden = Number(values.hidden);
  return parseConfig(
    {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: hidden,
      intermediate_size: Math.round((8 * hidden) / 3),
      num_hidden_layers: layers,
      num_attention_heads: 4,
      num_key_value_heads: 4,
      vocab_size: 512,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
    },
    "bench/depth.ts",
  );
}

const executor = await createWasmExecutor({ threads: Number(values.threads) });

function planned(layers: number, strategy: Checkpointing) {
  return planModel(executor, {
    config: model(layers),
    tuning: { method: "full" },
    weightType: () => "f32",
    strategy,
    tokens: [tokens],
    optimizer: null,
  });
}

const strategies: { title: string; strategy: Checkpointing }[] = [
  { title: "off: save everything", strategy: { name: "off" } },
  { title: "per segment", strategy: { name: "per-segment" } },
  { title: "sqrt: groups taped as a whole", strategy: { name: "sqrt" } },
];
const depths = [4, 8, 16, 32, 64, 128, 256, 512, 1000];
const series = strategies.map(({ title, strategy }) => ({
  name: title,
  points: depths.map((layers) => {
    const { predicted } = planned(layers, strategy);
    return [layers, predicted.stash + predicted.workspace] as const;
  }),
}));
mkdirSync(dirname(values.svg), { recursive: true });
writeFileSync(
  values.svg,
  drawing([
    lineChart({
      title: `Activation memory against depth (width ${values.hidden}, ${tokens} tokens, full fine-tuning)`,
      x: { label: "decoder blocks", log: 2 },
      y: { label: "peak of stash and workspace", log: 4, format: formatBytes },
      series,
    }),
  ]),
);

/** Activation memory as counted while running, and the median processor seconds of a step (other programs don't count). */
async function run(layers: number, strategy: Checkpointing) {
  const config = model(layers);
  const own = await createWasmExecutor({ threads: Number(values.threads) });
  const engine = createEngine(own, {
    config,
    source: randomCheckpoint(config, "f32"),
    tuning: { method: "full" },
    strategy,
    tokens: [tokens],
    optimizer: null,
  });
  const ids = Int32Array.from({ length: tokens }, (_, t) => (t * 7919) % 512);
  const batch = {
    ids,
    labels: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100),
    starts: new Int32Array(tokens),
    positions: Int32Array.from(ids, (_, t) => t),
  };
  const times = Array.from({ length: Number(values.steps) + 1 }, (_, draw) => {
    const begin = process.cpuUsage();
    engine.forwardBackward(batch, 1 / (tokens - 1), 1, draw);
    return process.cpuUsage(begin).user / 1e6;
  });
  const activations = engine.measuredPeak - engine.predicted.resident;
  const { time } = simulate(engine.chain, engine.schedule);
  const ideal = simulate(engine.chain, strategySchedule(engine.chain, { name: "off" })).time;
  own.close();
  const seconds = times.slice(1).sort((a, b) => a - b)[Number(values.steps) >> 1]!;
  return { layers, activations, seconds, secondsPerBlock: seconds / layers, modelledOverhead: time / ideal - 1 };
}

/** More time per block, at most, at the peak of so many saved blocks. */
const PROMISED = 0.35;
const measured = [];
if (values.run) {
  const off = await run(shallow, { name: "off" });
  measured.push(
    off,
    await run(deep, { name: "optimal", limit: { bytes: off.activations } }),
    await run(deep, { name: "per-segment" }),
  );
}
console.log(
  JSON.stringify({
    svg: values.svg,
    memory: Object.fromEntries(series.map(({ name, points }) => [name, Object.fromEntries(points)])),
    measured,
    ...(measured.length > 0 ? { timePerBlock: measured[1]!.secondsPerBlock / measured[0]!.secondsPerBlock - 1 } : {}),
  }),
);
executor.close();
const slower = measured.length > 0 ? measured[1]!.secondsPerBlock / measured[0]!.secondsPerBlock - 1 : 0;
if (slower > PROMISED || (measured[1]?.activations ?? 0) > (measured[0]?.activations ?? 0)) {
  process.stderr.write(
    `FAIL ${deep} blocks at the memory of ${shallow}: ${(100 * slower).toFixed(0)} % more time per block, at most ${100 * PROMISED} % is promised\n`,
  );
  process.exitCode = 1;
}
