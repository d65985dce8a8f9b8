/**
 * Makes the bundled base model, from the text in this repository to `recipes/base/model`:
 *
 *     bun recipes/base/make.ts prepare    # tokenizer, training text and random weights, in runs/base
 *     bun run train base                  # full fine-tuning, as train.yaml says
 *     bun recipes/base/make.ts finish     # 16-bit weights and the model card
 */
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { trainBpe } from "./bpe.ts";
import { CHATML_TEMPLATE, writeTokenizer } from "./tokenizer-files.ts";
import { makeFolder, writeTextAtomic } from "../../src/base/files/files.ts";
import { finish } from "./finish.ts";
import { writeRandomModel } from "./init.ts";
import { makeBaseText, readDictionary } from "./text.ts";

const SEED = 1611;
const root = join(import.meta.dir, "../..");
const work = join(root, "runs/base");
const model = join(import.meta.dir, "model");

const SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;
const PAD_ID = 0;
const END_ID = 2;

const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 7,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 32,
  hidden_act: "silu",
  max_position_embeddings: 1024,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: null,
  attention_bias: false,
  attention_dropout: 0,
  mlp_bias: false,
  initializer_range: 0.02,
  tie_word_embeddings: true,
  bos_token_id: null,
  eos_token_id: END_ID,
  pad_token_id: PAD_ID,
  torch_dtype: "float32",
  use_cache: true,
};

const GENERATION = { do_sample: true, temperature: 0.8, top_p: 0.95, eos_token_id: [END_ID, PAD_ID], pad_token_id: PAD_ID };

/** The dictionary is a twentieth of the text; counting it four times gives its words their share of the tokens. */
const DICTIONARY_WEIGHT = 4;

/** Writes the tokenizer to `folder`. It depends on the text alone. */
export function makeTokenizer(folder: string): void {
  const dictionary = readDictionary();
  const repeated = Array.from({ length: DICTIONARY_WEIGHT - 1 }, () => dictionary).flat();
  const bpe = trainBpe([...makeBaseText().train, ...repeated], { vocabSize: CONFIG.vocab_size, specialTokens: SPECIAL_TOKENS });
  writeTokenizer(folder, bpe, {
    eosToken: "<|im_end|>",
    padToken: "<|endoftext|>",
    chatTemplate: CHATML_TEMPLATE,
    maxLength: CONFIG.max_position_embeddings,
  });
}

function prepare(): void {
  const start = join(work, "start");
  writeRandomModel(start, CONFIG, GENERATION, SEED);
  makeTokenizer(start);
  makeFolder(model);
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(start, file), join(model, file));
  const data = join(work, "text");
  makeFolder(data);
  const { train, valid } = makeBaseText();
  const lines = (rows: readonly string[]) => rows.map((text) => `${JSON.stringify({ text })}\n`).join("");
  writeTextAtomic(join(data, "train.jsonl"), lines(train));
  writeTextAtomic(join(data, "valid.jsonl"), lines(valid));
  console.log(`${train.length} rows of text, ${valid.length} held out; random weights in ${start}`);
}

const stages: Record<string, () => void | Promise<void>> = { prepare, finish: () => finish(join(work, "run"), model) };

if (import.meta.main) {
  const stage = stages[process.argv[2] ?? ""];
  if (!stage) throw new Error(`usage: bun make.ts ${Object.keys(stages).join("|")}`);
  await stage();
}
