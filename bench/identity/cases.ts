import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeRandomModel } from "../../recipes/base/init.ts";
import { elements } from "../../src/graph/types.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { createRandom } from "../../src/base/random.ts";

/** A run whose files are compared: commands of the command line, from a folder that holds `inputs`. */
export interface Case {
  readonly name: string;
  /** Arguments of `train`, its output folder excepted. */
  readonly train: readonly string[];
  /** True if the schedule depends on measured times: the run then gets those of the first checkout. */
  readonly measured: boolean;
  /** Commands after training. */
  readonly after: readonly (readonly string[])[];
}

const root = join(import.meta.dir, "../..");
const words = (line: string): string[] => line.trim().split(/\s+/);

/** `merge` and `export gguf` of a run with an adapter. */
const mergeAndExport = (name: string, flags = ""): readonly (readonly string[])[] => [
  words(`merge --adapter ${name}/run --out ${name}/merged`),
  words(`export gguf --adapter ${name}/run --out ${name}/gguf/model.gguf ${flags}`),
];

/** Checkpoints are made at steps: a slow machine would have more of them with those that are made after minutes. */
export const CASES: readonly Case[] = [
  {
    name: "example",
    train: words("inputs/recipe/train.yaml --save-minutes 0 --save-every 100"),
    measured: false,
    after: mergeAndExport("example"),
  },
  {
    name: "full",
    train: words(`
      --model inputs/llama --data inputs/data --method full --sequence-length 128 --batch-size 2 --gradient-accumulation 2
      --steps 8 --learning-rate 2e-3 --weight-decay 0.1 --strategy every --every 2 --eval-every 4 --load-best
      --save-minutes 0 --save-every 4`),
    measured: false,
    after: [words("export gguf --model full/run --type f32 --out full/gguf/model.gguf")],
  },
  {
    name: "quantised",
    train: words(`
      --model inputs/base/model --data inputs/data --quantize nf4 --quantize-embedding --rslora --dropout 0.1
      --sequence-length 256 --batch-size 2 --steps 6 --seed 7 --activation-memory 40% --offload store --no-sample
      --save-minutes 0 --save-every 3`),
    measured: true,
    after: mergeAndExport("quantised", "--type q8_0"),
  },
  {
    name: "dora",
    train: words(`
      --model inputs/base/model --data inputs/data --method dora --rank 4 --alpha 6 --dropout 0.1
      --rank-pattern q_proj=2,down_proj=6 --alpha-pattern v_proj=3 --modules-to-save norm --last-layers 2
      --sequence-length 256 --batch-size 2 --steps 6 --save-minutes 0 --save-every 3`),
    measured: false,
    after: mergeAndExport("dora"),
  },
  {
    name: "gemma",
    train: words(`
      --model inputs/gemma --data inputs/data --sequence-length 256 --truncate --batch-size 2
      --targets q_proj,v_proj,down_proj --dropout 0.05 --steps 8 --eval-every 4 --save-minutes 0 --save-every 4`),
    measured: false,
    after: [
      ...mergeAndExport("gemma"),
      words("export gguf --adapter gemma/run --adapter-only --out gemma/gguf-adapter/adapter.gguf"),
    ],
  },
];

const LLAMA = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  hidden_act: "silu",
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  eos_token_id: 2,
  bos_token_id: null,
  torch_dtype: "float32",
};

const GEMMA = {
  architectures: ["Gemma3ForCausalLM"],
  model_type: "gemma3_text",
  vocab_size: 704,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: 16,
  max_position_embeddings: 512,
  sliding_window: 32,
  sliding_window_pattern: 6,
  rms_norm_eps: 1e-6,
  rope_theta: 1_000_000,
  rope_local_base_freq: 10_000,
  tie_word_embeddings: true,
  eos_token_id: 1,
  bos_token_id: 2,
  torch_dtype: "bfloat16",
};

/** Writes the models and data of all cases. */
export function writeInputs(folder: string): void {
  const recipes = join(root, "recipes");
  mkdirSync(folder, { recursive: true });
  cpSync(join(recipes, "base/model"), join(folder, "base/model"), { recursive: true });
  cpSync(join(recipes, "devils-dictionary"), join(folder, "recipe"), { recursive: true });
  writeRandomModel(join(folder, "llama"), LLAMA, {}, 1);
  copyTokenizer(join(recipes, "base/model"), join(folder, "llama"));
  writeGemma(join(folder, "gemma"));
  copyTokenizer(join(root, "test/golden/tokenizers/gemma3"), join(folder, "gemma"));
  mkdirSync(join(folder, "data"));
  for (const [name, count] of [["train", 48] as const, ["valid", 8] as const]) {
    const lines = readFileSync(join(recipes, "devils-dictionary", `${name}.jsonl`), "utf8")
      .trim()
      .split("\n");
    const short = lines.filter((line) => line.length < 260).slice(0, count);
    writeFileSync(join(folder, "data", `${name}.jsonl`), `${short.join("\n")}\n`);
  }
}

function copyTokenizer(from: string, to: string): void {
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(from, file), join(to, file));
}

/** A Gemma 3 with random weights: norms count from 1, so theirs are small. */
function writeGemma(folder: string): void {
  const { hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, head_dim: dim } = GEMMA;
  const [queries, keys] = [GEMMA.num_attention_heads * dim, GEMMA.num_key_value_heads * dim];
  const block: Readonly<Record<string, readonly number[]>> = {
    input_layernorm: [hidden],
    "self_attn.q_proj": [queries, hidden],
    "self_attn.k_proj": [keys, hidden],
    "self_attn.v_proj": [keys, hidden],
    "self_attn.o_proj": [hidden, queries],
    "self_attn.q_norm": [dim],
    "self_attn.k_norm": [dim],
    post_attention_layernorm: [hidden],
    pre_feedforward_layernorm: [hidden],
    "mlp.gate_proj": [inner, hidden],
    "mlp.up_proj": [inner, hidden],
    "mlp.down_proj": [hidden, inner],
    post_feedforward_layernorm: [hidden],
  };
  const shapes = new Map<string, readonly number[]>([
    ["model.embed_tokens.weight", [GEMMA.vocab_size, hidden]],
    ["model.norm.weight", [hidden]],
  ]);
  for (let layer = 0; layer < layers; layer++)
    for (const [part, shape] of Object.entries(block)) shapes.set(`model.layers.${layer}.${part}.weight`, shape);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), `${JSON.stringify(GEMMA, null, 2)}\n`);
  const tensors = [...shapes].map(([name, shape]) => {
    const random = createRandom(2, name);
    // The upper half of an f32 is a bf16.
    const values = Float32Array.from({ length: elements(shape) }, () => 0.1 * random.normal());
    const data = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    return { name, dtype: "bf16" as const, shape, data };
  });
  writeSafetensors(join(folder, "model.safetensors"), tensors);
}
