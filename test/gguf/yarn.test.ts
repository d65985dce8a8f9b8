import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { inverseFrequencies } from "../../src/models/rotary-tables.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import type { GgufFile } from "../support/gguf.ts";
import { changeConfig, createExporter, modelWithTokenizer } from "../support/gguf-models.ts";
import type { GoldenFamily } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

const withYarn = (family: GoldenFamily, name: string, scaling: object): string => {
  const target = modelWithTokenizer(family, join(folder, name));
  const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32, ...scaling };
  changeConfig(target, { rope_theta: 10_000, rope_scaling: yarn });
  return target;
};

const scalingOf = ({ metadata }: GgufFile, architecture: string) =>
  Object.fromEntries(
    [...metadata].flatMap(([key, value]) =>
      key.startsWith(`${architecture}.rope.scaling.`) ? [[key.slice(architecture.length + 14), value]] : [],
    ),
  );

test("as usual: llama.cpp computes it; its factor on cos and sin is what is left of the model's", async () => {
  const usual = { type: "yarn", factor: 4, original_context_length: 32 };
  const plain = await exported({ model: withYarn("qwen2", "yarn", {}), type: "f16" });
  expect(scalingOf(plain.file, "qwen2")).toEqual(usual);
  const factor = await exported({ model: withYarn("qwen2", "yarn-factor", { attention_factor: 1.5 }), type: "f16" });
  expect(scalingOf(factor.file, "qwen2")).toEqual({ ...usual, attn_factor: Math.fround(1.5 / (1 + 0.1 * Math.log(4))) });
});

test("with other betas: frequencies of its own in a llama, and refused where llama.cpp reads none", async () => {
  const betas = { beta_fast: 2, beta_slow: 0.5 };
  const path = withYarn("smollm2", "yarn-betas", betas);
  const { file } = await exported({ model: path, type: "f16" });
  expect(scalingOf(file, "llama")).toEqual({ attn_factor: Math.fround(1 + 0.1 * Math.log(4)) });
  const factors = [...file.tensors.get("rope_freqs.weight")!.values()];
  const { rope, rotaryDim } = loadConfig(path);
  const { inverse } = inverseFrequencies({ rope, rotaryDim });
  factors.forEach((factor, i) => expect(10_000 ** ((-2 * i) / rotaryDim) / factor / inverse[i]!).toBeCloseTo(1, 6));
  expect(new Set(factors).size).toBeGreaterThan(2);
  expect(await rejection(exported({ model: withYarn("qwen2", "yarn-odd", betas) }))).toContain(
    "qwen2 models have YaRN with beta_fast 32",
  );
});
