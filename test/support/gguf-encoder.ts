import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeRandomEncoder } from "./encoders.ts";

/** Texts whose tokens and embeddings the fixture has from llama.cpp. */
export const GGUF_TEXTS = [
  "The king near the house",
  "bread",
  "Ärger über déjà vu — 東京",
  "  A   stone,  a tree ",
  "the water and the stone and the night were there, and the sword was plain",
] as const;

/** Writes a random BERT with rows of whole blocks, whose vocabulary llama.cpp can tell apart. The same each time, on any machine. */
export function writeGgufEncoder(path: string, more: Readonly<Record<string, unknown>> = {}): string {
  const config = {
    architectures: ["BertForMaskedLM"],
    model_type: "bert",
    vocab_size: 800,
    hidden_size: 64,
    num_hidden_layers: 2,
  };
  const sizes = { num_attention_heads: 2, intermediate_size: 128, max_position_embeddings: 96, torch_dtype: "float32" };
  writeRandomEncoder(path, { ...config, ...sizes, ...more }, "bert-uncased");
  const file = join(path, "tokenizer.json");
  const json = JSON.parse(readFileSync(file, "utf8")) as { model: { vocab: Record<string, number> } };
  // What begins a word is marked so there: tokens of the fixture with this mark inside would be the same as others.
  const renamed = Object.entries(json.model.vocab).map(([token, id]) => [token.replace("\u2581", "\u2592"), id] as const);
  json.model.vocab = Object.fromEntries(renamed);
  writeFileSync(file, JSON.stringify(json));
  return path;
}
