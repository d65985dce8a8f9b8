import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { exportGguf } from "../../src/library/export-gguf.ts";
import { classify } from "../../src/library/texts/classify.ts";
import { rerank } from "../../src/library/texts/rerank.ts";
import { merge } from "../../src/library/merge.ts";
import { embed } from "../../src/library/texts/embed.ts";
import { train } from "../../src/library/train.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused } from "../support/cli.ts";
import { writeRandomEncoder } from "../support/encoders.ts";
import { readGguf } from "../support/gguf.ts";
import { GGUF_ENCODERS, GGUF_JUDGES, GGUF_TEXTS, writeGgufEncoder } from "../support/gguf-encoder.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);
const model = writeGgufEncoder(of("bert"));
const fixture = JSON.parse(readFileSync(join(import.meta.dir, "../golden/gguf/encoder.json"), "utf8")) as {
  readonly texts: readonly string[];
  readonly tokens: readonly (readonly number[])[];
  readonly embeddings: Readonly<Record<"f32" | "q8_0", readonly (readonly number[])[]>>;
  readonly others: Readonly<
    Record<keyof typeof GGUF_ENCODERS, Readonly<Record<"tokens" | "embeddings", readonly (readonly number[])[]>>> &
      Record<keyof typeof GGUF_JUDGES, { readonly texts: readonly (readonly number[])[]; readonly pairs: readonly number[] }>
  >;
};

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

describe("llama.cpp makes of a text encoder's file what the model is (test/golden/gguf/encoder.mjs does it again)", () => {
  test("the same tokens, but what stands around them, and the same embeddings", async () => {
    expect(fixture.texts).toEqual([...GGUF_TEXTS]);
    const tokenizer = loadTokenizer(model);
    expect(GGUF_TEXTS.map((text) => [...tokenizer.encode(text)])).toEqual(fixture.tokens.map((ids) => [...ids]));
    const { texts } = await embed({ model, texts: [...GGUF_TEXTS], threads: 1 });
    for (const [i, { embedding }] of texts.entries()) {
      // Its activation comes from a table in half precision.
      expect(1 - cosine(embedding, fixture.embeddings.f32[i]!)).toBeLessThan(1e-6);
      expect(1 - cosine(embedding, fixture.embeddings.q8_0[i]!)).toBeLessThan(1e-3);
    }
  });

  test.each(["xlm-roberta", "roberta"] as const)("%s: the same tokens and embeddings", async (name) => {
    const path = GGUF_ENCODERS[name](of(`same-${name}`));
    const { tokens, embeddings } = fixture.others[name];
    const tokenizer = loadTokenizer(path);
    expect(GGUF_TEXTS.map((text) => [...tokenizer.encode(text)])).toEqual(tokens.map((ids) => [...ids]));
    const { texts } = await embed({ model: path, texts: [...GGUF_TEXTS], threads: 1 });
    for (const [i, { embedding }] of texts.entries()) expect(1 - cosine(embedding, embeddings[i]!)).toBeLessThan(1e-6);
  });

  test("a reranker's scores of texts for a query, and the numbers of a classifier's head", async () => {
    const [reranker, classifier] = [GGUF_JUDGES.reranker(of("ranks")), GGUF_JUDGES.classifier(of("judges"))];
    const { queries } = await rerank({ model: reranker, query: GGUF_TEXTS[0], texts: [...GGUF_TEXTS], threads: 1 });
    // The table in half precision again.
    for (const { index, relevance_score: relevance } of queries[0]!.results)
      expect(Math.abs(relevance - fixture.others.reranker.pairs[index]!)).toBeLessThan(1e-3);
    const { texts } = await classify({ model: classifier, texts: [...GGUF_TEXTS], threads: 1 });
    for (const [i, { probabilities }] of texts.entries()) {
      const weights = fixture.others.classifier.texts[i]!.map((z) => Math.exp(z));
      const all = weights.reduce((sum, each) => sum + each, 0);
      for (const [c, label] of ["bad", "dull", "good"].entries())
        expect(Math.abs(probabilities![label]! - weights[c]! / all)).toBeLessThan(1e-3);
    }
  });
});

test("names, shapes and values are llama.cpp's, the pooling what the folder says, the vocabulary WordPiece's", async () => {
  const { modelfile } = await exportGguf({ model, out: of("f32.gguf"), type: "f32" });
  expect(readFileSync(modelfile, "utf8")).toBe("FROM ./f32.gguf\n");
  const { metadata, tensors } = readGguf(of("f32.gguf"));
  const has = (key: string) => metadata.get(key);
  expect(["general.architecture", "bert.block_count", "bert.context_length", "bert.pooling_type"].map(has)).toEqual([
    "bert",
    2,
    96,
    1,
  ]);
  expect([has("bert.attention.causal"), has("tokenizer.ggml.model"), has("tokenizer.ggml.token_type_count")]).toEqual([
    false,
    "bert",
    2,
  ]);
  const tokens = has("tokenizer.ggml.tokens") as string[];
  const types = has("tokenizer.ggml.token_type") as number[];
  const tokenizer = loadTokenizer(model);
  const idOf = (token: string) => tokenizer.idOf(token)!;
  expect([tokens[idOf("[CLS]")], tokens[idOf("the")], tokens[idOf("##der")], tokens.at(-1)]).toEqual([
    "[CLS]",
    "\u2581the",
    "der",
    "[unused-799]",
  ]);
  expect([types[idOf("[CLS]")], types[idOf("the")], types.at(-1)]).toEqual([3, 1, 5]);
  expect(has("tokenizer.ggml.seperator_token_id")).toBe(idOf("[SEP]"));
  const source = openModelWeights(model, loadConfig(model));
  for (const [name, stored, shape] of [
    ["token_embd.weight", "bert.embeddings.word_embeddings.weight", [800, 64]],
    ["token_types.weight", "bert.embeddings.token_type_embeddings.weight", [2, 64]],
    ["position_embd.weight", "bert.embeddings.position_embeddings.weight", [96, 64]],
    ["token_embd_norm.bias", "bert.embeddings.LayerNorm.bias", [64]],
    ["blk.1.attn_k.weight", "bert.encoder.layer.1.attention.self.key.weight", [64, 64]],
    ["blk.1.attn_output_norm.weight", "bert.encoder.layer.1.attention.output.LayerNorm.weight", [64]],
    ["blk.0.ffn_up.weight", "bert.encoder.layer.0.intermediate.dense.weight", [128, 64]],
    ["blk.0.ffn_down.bias", "bert.encoder.layer.0.output.dense.bias", [64]],
    ["blk.1.layer_output_norm.weight", "bert.encoder.layer.1.output.LayerNorm.weight", [64]],
  ] as const) {
    const tensor = tensors.get(name)!;
    expect([name, tensor.shape]).toEqual([name, [...shape]]);
    expect(tensor.values()).toEqual(readFloat32(source, stored, shape));
  }
  expect(tensors.size).toBe(5 + 2 * 16);
  // Rows of a single block stay f16, which llama.cpp multiplies rightly; tables that are added stay f32.
  const small = writeGgufEncoder(of("small"), { hidden_size: 32, intermediate_size: 64 });
  await exportGguf({ model: small, out: of("small.gguf"), type: "q8_0" });
  const typesOf = (path: string, names: readonly string[]) => names.map((name) => readGguf(path).tensors.get(name)!.type);
  const names = ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "position_embd.weight"];
  expect(typesOf(of("small.gguf"), names)).toEqual([1, 8, 0]);
  await exportGguf({ model, out: of("q8.gguf"), type: "q8_0" });
  expect(typesOf(of("q8.gguf"), names)).toEqual([8, 8, 0]);
  source.close();
});

test("of a RoBERTa the table of positions begins where texts do; a head and its classes have llama.cpp's names; special tokens surround texts", async () => {
  const path = GGUF_JUDGES.reranker(of("named"));
  await exportGguf({ model: path, out: of("named.gguf"), type: "f32" });
  const { metadata, tensors } = readGguf(of("named.gguf"));
  const has = (key: string) => metadata.get(key);
  expect(["bert.context_length", "bert.pooling_type", "bert.classifier.output_labels"].map(has)).toEqual([96, 4, ["LABEL_0"]]);
  expect(
    ["model", "add_bos_token", "add_eos_token", "bos_token_id", "eos_token_id"].map((key) => has(`tokenizer.ggml.${key}`)),
  ).toEqual(["t5", true, true, 0, 2]);
  const { model: unigram } = loadTokenizer(path).json as { model: { vocab: [string, number][] } };
  const [texts, scores] = ["tokens", "scores"].map((key) => has(`tokenizer.ggml.${key}`) as (string | number)[]);
  for (const id of [5, 40, 300])
    expect([texts![id], Math.fround(unigram.vocab[id]![1])]).toEqual([unigram.vocab[id]![0], scores![id]!]);
  const source = openModelWeights(path, loadConfig(path));
  const positions = readFloat32(source, "roberta.embeddings.position_embeddings.weight", [98, 64]);
  expect(tensors.get("position_embd.weight")!.values()).toEqual(positions.slice(2 * 64));
  for (const [name, stored, shape] of [
    ["cls.weight", "classifier.dense.weight", [64, 64]],
    ["cls.bias", "classifier.dense.bias", [64]],
    ["cls.output.weight", "classifier.out_proj.weight", [1, 64]],
    ["cls.output.bias", "classifier.out_proj.bias", [1]],
  ] as const)
    expect(tensors.get(name)!.values()).toEqual(readFloat32(source, stored, shape));
  source.close();
  const said: string[] = [];
  const judge = GGUF_JUDGES.classifier(of("noted"));
  await exportGguf({ model: judge, out: of("noted.gguf") }, { sink: (event) => event.type === "note" && said.push(event.text) });
  expect(said.join()).toContain("judges texts as this model does, but not two texts that belong together");
  expect(readGguf(of("noted.gguf")).metadata.get("bert.classifier.output_labels")).toEqual(["bad", "dull", "good"]);
});

test("a run's folder has its own pooling, and an adapter is merged in", async () => {
  const data = of("pairs.jsonl");
  const words = ["king", "house", "water", "tree"];
  writeFileSync(
    data,
    words.map((word) => `${JSON.stringify({ anchor: `a ${word}`, positive: `the ${word} of old` })}\n`).join(""),
  );
  const common = {
    model,
    data,
    objective: "embed",
    pooling: "cls",
    threads: 1,
    sequenceLength: 32,
    batchSize: 4,
    packing: false,
  } as const;
  await train({ ...common, output: of("full"), method: "full", steps: 1 });
  await exportGguf({ model: of("full"), out: of("full.gguf") });
  expect(readGguf(of("full.gguf")).metadata.get("bert.pooling_type")).toBe(2);
  await train({ ...common, output: of("lora"), method: "lora", rank: 2, steps: 2, learningRate: 1e-2 });
  await merge({ adapter: of("lora"), out: of("merged") });
  for (const [out, named] of [
    ["adapter.gguf", { adapter: of("lora") }],
    ["merged.gguf", { model: of("merged") }],
  ] as const)
    await exportGguf({ ...named, out: of(out), type: "f32" });
  const [adapter, merged] = [readGguf(of("adapter.gguf")).tensors, readGguf(of("merged.gguf")).tensors];
  for (const [name, tensor] of merged) expect(adapter.get(name)!.values()).toEqual(tensor.values());
});

test("what llama.cpp does not know is refused", async () => {
  const out = of("none.gguf");
  const flags = ["export", "gguf", "--out", out, "--model"];
  const sizes = { vocab_size: 800, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64 };
  const more = { max_position_embeddings: 96, torch_dtype: "float32" };
  const distilbert = {
    architectures: ["DistilBertForMaskedLM"],
    model_type: "distilbert",
    vocab_size: 800,
    dim: 32,
    n_layers: 1,
  };
  writeRandomEncoder(of("distilbert"), { ...distilbert, n_heads: 2, hidden_dim: 64, ...more }, "bert-uncased");
  expect(await refused(...flags, of("distilbert"))).toContain("export onnx writes the others");
  const ranks = { architectures: ["BertForSequenceClassification"], num_labels: 1, id2label: { 0: "LABEL_0" } };
  const activation = { sentence_transformers: { activation_fn: "torch.nn.modules.activation.Sigmoid" } };
  expect(await refused(...flags, writeGgufEncoder(of("types"), { ...ranks, ...activation }))).toContain(
    "llama.cpp knows no types of tokens, by which this model tells a query from a text",
  );
  expect(await refused(...flags, writeGgufEncoder(of("tanh"), { hidden_act: "gelu_new" }))).toContain("have the activation gelu");
  const bert = { ...sizes, ...more, architectures: ["BertForMaskedLM"], model_type: "bert" };
  writeRandomEncoder(of("twice"), bert, "bert-uncased");
  expect(await refused(...flags, of("twice"))).toContain("could not tell the tokens");
  writeRandomEncoder(of("cased"), { ...bert, vocab_size: 920 }, "bert-cased");
  expect(await refused(...flags, of("cased"))).toContain("puts the texts of a BERT into small letters");
  expect(existsSync(out)).toBe(false);
});
