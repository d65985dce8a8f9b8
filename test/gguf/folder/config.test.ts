import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { GGUF_ARCHITECTURES } from "../../../src/gguf/folder/config.ts";
import { ggufFolder } from "../../../src/gguf/folder/folder.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import type { ModelConfig } from "../../../src/models/config.ts";
import { contextLimit } from "../../../src/models/context.ts";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { temporaryCache, temporaryFolder } from "../../hf/temp.ts";
import { SLOW } from "../../support/slow.ts";
import { writeGgufDecoder } from "../../support/gguf-decoders.ts";
import { changeConfig, dropTensors, modelWithTokenizer } from "../../support/gguf-models.ts";
import type { GoldenFamily } from "../../support/golden.ts";

setDefaultTimeout(120_000);

const home = temporaryFolder();
temporaryCache();

/** Golden models, with the settings that llama.cpp has of each family, and without biases that a file has no place for. */
const MODELS: Partial<Record<GoldenFamily, { readonly config?: object; readonly drop?: string }>> = {
  llama: {},
  smollm2: {},
  smollm3: { config: { no_rope_layer_interval: 4, use_sliding_window: false } },
  "seed-oss": { config: { attention_out_bias: false }, drop: ".o_proj.bias" },
  granite: {},
  qwen2: {},
  qwen3: {},
  gemma: {},
  gemma2: { config: { query_pre_attn_scalar: 14 } },
  gemma3: { config: { query_pre_attn_scalar: 16, sliding_window_pattern: 6, rope_local_base_freq: 10_000 } },
  phi3: {},
  phi: {},
  lfm2: {},
  ministral3: {},
  // Turned and halved rows of one matrix.
  internlm2: { config: { bias: false }, drop: ".bias" },
  olmo3: { config: { rope_theta: 500_000 } },
  olmo2: { config: { attention_bias: false }, drop: ".bias" },
  exaone4: { config: { sliding_window: null } },
  hunyuan: { config: { attention_bias: false }, drop: ".bias" },
  ernie45: { config: { use_bias: false }, drop: ".bias" },
  glm4: {},
  cohere2: {},
  stablelm: {},
  starcoder2: {},
  nemotron: {},
};

/** Small models of the other families. */
const DECODERS = [
  "gemma4",
  "gemma4-keys",
  "gpt2",
  "gpt-neox-serial",
  "glm",
  "gpt-oss",
  "qwen3-moe",
  "olmoe",
  "lfm2-moe",
  "qwen3.5",
  "qwen3.5-moe",
  "qwen3-next",
];

/** What a file does not say, or says in other words. */
function comparable(config: ModelConfig): object {
  const { maxPositions: _, dtype: __, bosTokenId: ___, padTokenId: ____, eosTokenIds: _____, ...others } = config;
  return {
    ...others,
    // Files have an f32.
    rope: { ...others.rope, theta: Math.fround(others.rope.theta) },
    context: contextLimit(config),
  };
}

/** Writes a model, and a file of it. */
async function written(name: string): Promise<{ readonly original: string; readonly file: string }> {
  const own = MODELS[name as GoldenFamily];
  const original = join(home, name);
  if (own) {
    modelWithTokenizer(name as GoldenFamily, original);
    if (own.config) changeConfig(original, own.config);
    if (own.drop !== undefined) dropTensors(original, own.drop);
  } else writeGgufDecoder(original, name);
  const { out } = await exportGguf({ model: original, out: join(home, `${name}.gguf`), type: "f32" });
  return { original, file: out };
}

/** What a file does not say as the model does: windows that llama.cpp does not have, and how YaRN's dimensions are rounded. */
const UNSAID: Readonly<Record<string, (config: ModelConfig) => Partial<ModelConfig>>> = {
  // Texts within the context are not stretched.
  internlm2: ({ rope }) => ({ rope: { ...rope, scaling: { type: "default" } } }),
  starcoder2: () => ({ slidingWindow: null, windowLayers: [] }),
  // The two numbers that cancel each other are one factor in the file.
  ministral3({ rope, queryRope }) {
    const plain = <Rope extends ModelConfig["rope"]>(own: Rope): Rope => ({
      ...own,
      scaling: { ...own.scaling, attentionFactor: 1, mscale: null, mscaleAllDim: null },
    });
    return { rope: plain(rope), queryRope: queryRope && plain(queryRope) };
  },
  // Rows of ids that are no tokens are left out.
  gemma4: ({ layerInputs, vocabSize }) => ({ layerInputs: layerInputs && { ...layerInputs, rows: vocabSize } }),
  "gpt-oss": ({ rope }) => ({
    rope: { ...rope, scaling: { ...rope.scaling, truncate: false } as ModelConfig["rope"]["scaling"] },
  }),
};

test("the documentation lists the architectures that are read", () => {
  const page = readFileSync(join(import.meta.dir, "../../../docs/verbs.md"), "utf8");
  const [, listed = ""] = /^- Architectures: ([^:]*?)\. Another one/ms.exec(page.replaceAll(/\([^)]*\)/g, "")) ?? [];
  const names = listed.split(/,\s+|\s+and\s+/).map((name) => name.trim());
  expect(names.sort()).toEqual([...GGUF_ARCHITECTURES].sort());
});

/** The plain suite has one of each kind of them. */
const FEW: ReadonlySet<string> = new Set([
  "llama",
  "qwen2",
  "gemma3",
  "phi3",
  "olmo3",
  "gpt-oss",
  "gemma4",
  "lfm2-moe",
  "qwen3.5",
]);

describe.each([...Object.keys(MODELS), ...DECODERS].filter((name) => SLOW || FEW.has(name)))("a file made of %s", (name) => {
  test("has its configuration", async () => {
    const { original, file } = await written(name);
    const expected = loadConfig(original);
    expect(comparable(loadConfig(ggufFolder(file)))).toEqual(comparable({ ...expected, ...UNSAID[name]?.(expected) }));
  });
});
