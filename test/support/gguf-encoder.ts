import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./cli.ts";
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

const SIZES = {
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 128,
  torch_dtype: "float32",
} as const;

/** A random RoBERTa with the base model's byte-level vocabulary, whose first tokens are RoBERTa's own. */
function writeRoberta(path: string): string {
  const config = { architectures: ["RobertaForMaskedLM"], model_type: "roberta", vocab_size: 2050, max_position_embeddings: 98 };
  writeRandomEncoder(path, { ...config, ...SIZES, type_vocab_size: 1, pad_token_id: 1 }, "xlm-roberta");
  const json = JSON.parse(readFileSync(join(root, "recipes/base/model/tokenizer.json"), "utf8")) as Record<string, unknown> & {
    added_tokens: { content: string }[];
    model: { vocab: Record<string, number> };
  };
  const names = ["<s>", "<pad>", "</s>"];
  const old = json.added_tokens.map(({ content }) => content);
  const vocab = Object.entries(json.model.vocab).map(([token, id]) => [names[old.indexOf(token)] ?? token, id] as const);
  json.model.vocab = Object.fromEntries(vocab);
  json.added_tokens = json.added_tokens.map((token, i) => ({ ...token, content: names[i]! }));
  json["post_processor"] = {
    type: "RobertaProcessing",
    sep: ["</s>", 2],
    cls: ["<s>", 0],
    trim_offsets: true,
    add_prefix_space: false,
  };
  writeFileSync(join(path, "tokenizer.json"), JSON.stringify(json));
  const [cls, pad, sep] = names;
  const tokens = { bos_token: cls, eos_token: sep, cls_token: cls, sep_token: sep, pad_token: pad };
  writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify(tokens));
  return path;
}

const XLM = { model_type: "xlm-roberta", vocab_size: 350, max_position_embeddings: 98, type_vocab_size: 1, ...SIZES } as const;

/** Encoders of other kinds, of which the fixture has the same, by name. */
export const GGUF_ENCODERS = {
  "xlm-roberta": (path: string) => writeRandomEncoder(path, { architectures: ["XLMRobertaForMaskedLM"], ...XLM }, "xlm-roberta"),
  roberta: writeRoberta,
} as const;

const CLASSES = { 0: "bad", 1: "dull", 2: "good" } as const;

/** Encoders that judge texts, of which the fixture has the numbers of their heads. */
export const GGUF_JUDGES = {
  reranker: (path: string) =>
    writeRandomEncoder(
      path,
      { architectures: ["XLMRobertaForSequenceClassification"], num_labels: 1, id2label: { 0: "LABEL_0" }, ...XLM },
      "xlm-roberta",
    ),
  classifier: (path: string) =>
    writeGgufEncoder(path, { architectures: ["BertForSequenceClassification"], num_labels: 3, id2label: CLASSES }),
} as const;
