import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { makeFolder } from "../../src/base/files/files.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { merge } from "../../src/library/merge.ts";
import { train } from "../../src/library/train.ts";
import { writeTinyModel } from "./cli.ts";
import { writeRandomEncoder } from "./encoders.ts";

/** Texts whose embeddings the fixture has; the last one is longer than what the folder `sentence` takes. */
export const EMBEDDED_TEXTS = [
  "The king near the house",
  "bread",
  "Ärger über déjà vu — 東京",
  "  A   stone,  a tree ",
  "the water and the stone and the night were there, and the sword was plain",
] as const;

const BERT = {
  architectures: ["BertForMaskedLM"],
  model_type: "bert",
  vocab_size: 800,
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 24,
  max_position_embeddings: 96,
  torch_dtype: "float32",
};

const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];

const writeJson = (path: string, value: unknown) => writeFileSync(path, JSON.stringify(value));

/** Makes folders of embedding models: plain ones, one of sentence-transformers, and what runs of embed leave. The same each time, on any machine. */
export async function makeEmbedFolders(folder: string): Promise<void> {
  writeRandomEncoder(join(folder, "bert"), BERT, "bert-uncased");
  const roberta = { ...BERT, architectures: ["XLMRobertaForMaskedLM"], model_type: "xlm-roberta", vocab_size: 400 };
  writeRandomEncoder(join(folder, "roberta"), { ...roberta, max_position_embeddings: 130, type_vocab_size: 1 }, "xlm-roberta");
  const modern = { ...BERT, architectures: ["ModernBertModel"], model_type: "modernbert", local_attention: 6, pad_token_id: 0 };
  writeRandomEncoder(join(folder, "modern"), modern, "bert-uncased");
  writeTinyModel(join(folder, "chatty"), SMALL);
  writeCausalModel(join(folder, "causal"));
  writeSentence(join(folder, "sentence"));
  writeDense(join(folder, "dense"));
  await trainRuns(folder);
}

const SMALL = { num_hidden_layers: 2, hidden_size: 16, head_dim: 4, intermediate_size: 24 };

/** A model that generates text, whose tokenizer has no chat template: sentence-transformers would put it around plain texts. */
export function writeCausalModel(path: string): void {
  writeTinyModel(path, SMALL);
  const file = join(path, "tokenizer_config.json");
  const { chat_template: _, ...config } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeJson(file, config);
}

/** A folder of sentence-transformers with everything that its files can say. */
function writeSentence(path: string): void {
  writeRandomEncoder(path, { ...BERT, vocab_size: 920 }, "bert-cased");
  // Without it Transformers reads every text of a BERT in lower case.
  const tokenizer = join(path, "tokenizer_config.json");
  writeJson(tokenizer, { ...(JSON.parse(readFileSync(tokenizer, "utf8")) as object), do_lower_case: false });
  const types = ["Transformer", "Pooling"].map((type) => `sentence_transformers.models.${type}`);
  writeJson(
    join(path, "modules.json"),
    types.map((type, idx) => ({ idx, name: `${idx}`, path: idx === 0 ? "" : "1_Pooling", type })),
  );
  makeFolder(join(path, "1_Pooling"));
  writeJson(join(path, "1_Pooling/config.json"), { word_embedding_dimension: 16, pooling_mode_cls_token: true });
  writeJson(join(path, "sentence_bert_config.json"), { max_seq_length: 9, do_lower_case: true });
  writeJson(join(path, "config_sentence_transformers.json"), {
    prompts: { query: "What is ", passage: "It is " },
    default_prompt_name: "passage",
    truncate_dim: 12,
  });
}

/** The same with layers behind the mean. */
function writeDense(path: string): void {
  writeRandomEncoder(path, BERT, "bert-uncased");
  const kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"];
  const places = kinds.map((type, idx) => ({
    idx,
    name: `${idx}`,
    path: idx === 0 ? "" : `${idx}_${type}`,
    type: `sentence_transformers.models.${type}`,
  }));
  writeJson(join(path, "modules.json"), places);
  for (const { path: place } of places.slice(1)) makeFolder(join(path, place));
  writeJson(join(path, "1_Pooling/config.json"), { word_embedding_dimension: 16, pooling_mode_mean_tokens: true });
  writeJson(join(path, "4_Normalize/config.json"), {});
  writeJson(join(path, "config_sentence_transformers.json"), { prompts: { query: "say " }, default_prompt_name: null });
  for (const [place, inputs, outputs, bias, activation] of [
    ["2_Dense", 16, 20, false, "linear.Identity"],
    ["3_Dense", 20, 12, true, "activation.Tanh"],
  ] as const) {
    const activation_function = `torch.nn.modules.${activation}`;
    writeJson(join(path, place, "config.json"), { in_features: inputs, out_features: outputs, bias, activation_function });
    const random = createRandom(3, place);
    const tensor = (name: string, shape: readonly number[]) => {
      const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 0.3 * random.normal());
      return { name, dtype: "f32" as const, shape, data };
    };
    const tensors = [tensor("linear.weight", [outputs, inputs]), ...(bias ? [tensor("linear.bias", [outputs])] : [])];
    writeSafetensors(join(path, place, "model.safetensors"), tensors);
  }
}

async function trainRuns(folder: string): Promise<void> {
  const data = join(folder, "pairs.jsonl");
  const rows = words.map((word) => ({ anchor: `What is a ${word}?`, positive: `the ${word} of old` }));
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const common = { objective: "embed", data, threads: 1, matmul: "wasm", device: "wasm", sample: false, saveMinutes: 0 } as const;
  const run = { batchSize: 8, packing: false, steps: 5, learningRate: 5e-3, sequenceLength: 32 } as const;
  await train({ ...common, ...run, model: join(folder, "bert"), output: join(folder, "full"), method: "full" });
  await train({ ...common, ...run, model: join(folder, "dense"), output: join(folder, "dense-full"), method: "full" });
  for (const [name, model] of [
    ["bert", "bert"],
    ["causal", "chatty"],
    ["dense", "dense"],
  ] as const) {
    const [output, learningRate] = [join(folder, `${name}-lora`), 5e-2];
    const own = name === "bert" ? { lastLayers: 1, modulesToSave: ["output.LayerNorm"] } : {};
    await train({ ...common, ...run, ...own, model: join(folder, model), output, learningRate, rank: 2 });
    await merge({ adapter: output, out: join(folder, `${name}-merged`) });
  }
}
