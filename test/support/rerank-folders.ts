import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { merge } from "../../src/library/merge.ts";
import { train } from "../../src/library/train.ts";
import { writeCausalModel } from "./embed-folders.ts";
import { writeRandomEncoder } from "./encoders.ts";

/** A query and texts whose relevance the fixture has. */
export const RERANK_QUERY = "a king of the water?";
export const RERANK_TEXTS = [
  "the house of old",
  "the king of old",
  "bread",
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

/** Trains tiny cross-encoders and leaves what a run exports in a folder: `full`, `lora` on `roberta`, `merged`, `causal`. The same each time, on any machine. */
export async function makeRerankFolders(folder: string): Promise<void> {
  const bert = writeRandomEncoder(join(folder, "bert"), BERT, "bert-uncased");
  const roberta = { ...BERT, architectures: ["XLMRobertaForMaskedLM"], model_type: "xlm-roberta", vocab_size: 400 };
  writeRandomEncoder(join(folder, "roberta"), { ...roberta, max_position_embeddings: 130, type_vocab_size: 1 }, "xlm-roberta");
  writeCausalModel(join(folder, "tiny"));
  const data = join(folder, "queries.jsonl");
  const rows = words.map((word, i) => ({
    query: `a ${word}?`,
    pos: [`the ${word} of old`],
    neg: [1, 3].map((by) => `the ${words[(i + by) % words.length]} of old`),
  }));
  writeFileSync(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const common = {
    objective: "rerank",
    data,
    threads: 1,
    matmul: "wasm",
    device: "wasm",
    sample: false,
    saveMinutes: 0,
  } as const;
  const run = { ...common, batchSize: 8, packing: false, steps: 15, learningRate: 3e-2, sequenceLength: 64 } as const;
  await train({ ...run, model: bert, output: join(folder, "full"), method: "full", rerankLoss: "softmax" });
  await train({ ...run, model: join(folder, "roberta"), output: join(folder, "lora"), rank: 2 });
  await merge({ adapter: join(folder, "lora"), out: join(folder, "merged") });
  await train({ ...run, model: join(folder, "tiny"), output: join(folder, "causal"), method: "full" });
}
