import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { evaluate, type RunEvent, train } from "../../src/index.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { writeTinyModel } from "../support/cli.ts";
import { type FusedLayout, fuseFolder } from "../support/fused.ts";
import { some } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
process.env["REMAT_CACHE"] = join(folder, "cache");

const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`)
    .join(""),
);

const MIXTURES = {
  qwen3_moe: { architectures: ["Qwen3MoeForCausalLM"], num_experts: 4, moe_intermediate_size: 64 },
  gpt_oss: {
    architectures: ["GptOssForCausalLM"],
    num_local_experts: 4,
    intermediate_size: 64,
    tie_word_embeddings: false,
    quantization_config: { quant_method: "mxfp4" },
  },
} as const;

/** A folder whose file has the experts of a block in one tensor each. */
function mixture(family: keyof typeof MIXTURES, layout: FusedLayout): string {
  const own = { ...MIXTURES[family], model_type: family, num_experts_per_tok: 2, hidden_size: 64, head_dim: 16 };
  const single = writeTinyModel(join(folder, `single-${family}`), own);
  const source = randomCheckpoint(loadConfig(single), "bf16");
  const tensors = [...source.tensors.values()].map((entry): TensorData => {
    return { name: entry.name, dtype: "bf16", shape: entry.shape, data: readBytes(source, entry) };
  });
  writeSafetensors(join(single, "model.safetensors"), tensors);
  return fuseFolder(single, join(folder, `fused-${family}-${layout}`), layout);
}

const CASES = [
  ["gpt_oss", "mxfp4", {}],
  ["qwen3_moe", "rows", {}],
  ["gpt_oss", "columns", { weightCache: false }],
  ["gpt_oss", "mxfp4", { quantize: "q8" }],
] as const;

for (const [family, layout, more] of some(CASES, 1))
  test(`a run on ${family} with fused experts (${layout}, ${JSON.stringify(more)}) whose weights stay in their file is the same to the bit as one in memory`, async () => {
    const model = mixture(family, layout);
    const run = async (stream: "off" | "all") => {
      const output = join(folder, `run-${family}-${layout}-${stream}-${Object.keys(more).join()}`);
      const events: RunEvent[] = [];
      const adapters = {
        targets: ["q_proj" as const],
        targetParameters: ["experts.gate_up_proj", "experts.down_proj"],
        rank: 2,
      } satisfies Partial<Parameters<typeof train>[0]>;
      const settings = { data, output, sequenceLength: 64, steps: 2, threads: 2, sample: false, stream, ...adapters, ...more };
      const { loss } = await train({ model, ...settings }, { isolate: false, sink: (event) => events.push(event) });
      const asked = { model, adapter: output, data, sequenceLength: 64, stream, ...more };
      const start = events.find((event) => event.type === "start")!;
      return { start, loss, adapter: readFileSync(join(output, "adapter_model.safetensors")), scores: await evaluate(asked) };
    };
    const [resident, streamed] = [await run("off"), await run("all")];
    expect(resident.start.stream).toBeNull();
    expect(streamed.start.stream).toContain("of frozen weights stay in their files");
    expect(streamed.adapter.equals(resident.adapter)).toBe(true);
    expect([streamed.loss, streamed.scores]).toEqual([resident.loss, resident.scores]);
  });
