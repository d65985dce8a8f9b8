import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../../src/base/files/files.ts";
import { openSafetensors, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { ok, refused, remat } from "../support/cli.ts";
import { writeRandomEncoder, writeTinyBert } from "../support/encoders.ts";
import { temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

const writeEncoder = (name: string, config: Record<string, unknown>, tokenizer: string): string =>
  writeRandomEncoder(join(folder, name), config, tokenizer);

const bert = writeTinyBert(join(folder, "bert"));
const distilbert = writeEncoder(
  "distilbert",
  {
    architectures: ["DistilBertForMaskedLM"],
    model_type: "distilbert",
    vocab_size: 800,
    dim: 16,
    n_layers: 2,
    n_heads: 2,
    hidden_dim: 24,
    max_position_embeddings: 96,
    torch_dtype: "float32",
  },
  "bert-uncased",
);
const roberta = writeEncoder(
  "roberta",
  {
    architectures: ["XLMRobertaForMaskedLM"],
    model_type: "xlm-roberta",
    vocab_size: 400,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 24,
    max_position_embeddings: 130,
    type_vocab_size: 1,
    torch_dtype: "float32",
  },
  "xlm-roberta",
);

/** Saved without a head. */
const modern = writeEncoder(
  "modern",
  {
    architectures: ["ModernBertModel"],
    model_type: "modernbert",
    vocab_size: 800,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 24,
    max_position_embeddings: 96,
    local_attention: 6,
    pad_token_id: 0,
    torch_dtype: "float32",
  },
  "bert-uncased",
);

const write = (name: string, lines: readonly unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return path;
};
const words = ["river", "lamp", "mill", "window", "night", "keeper", "flour", "morning"];
const marks = { good: "singing", bad: "waiting" } as const;
const rows = (count: number, pairs: boolean) =>
  Array.from({ length: count }, (_, i) => {
    const label = (["good", "bad"] as const)[i % 2]!;
    const text = `the ${words[i % 8]} near the ${words[(i * 5) % 8]}`;
    return pairs ? { text, text_pair: `it was ${marks[label]}`, label } : { text: `${text} was ${marks[label]}`, label };
  });

const fast = ["--objective", "classify", "--threads", "1", "--schedule", "constant", "--warmup", "0", "--steps", "40"];
const train = async (name: string, model: string, data: string, ...flags: string[]): Promise<string> => {
  const output = join(folder, name);
  const { code, stderr } = await remat(["train", "--model", model, "--data", data, "--output", output, ...fast, ...flags]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return output;
};
const accuracy = async (model: string, data: string): Promise<number> => {
  const args = ["--objective", "classify", "--data", data, "--json", "--threads", "1", "--model", model];
  return (JSON.parse(await ok("eval", ...args)) as { readonly class_accuracy: number }).class_accuracy;
};
const names = (path: string, file = "model.safetensors"): string[] => {
  const source = openSafetensors(join(path, file));
  source.close();
  return [...source.tensors.keys()];
};
const config = (path: string) => JSON.parse(readFileSync(join(path, "config.json"), "utf8")) as Record<string, unknown>;

describe("an encoder learns classes", () => {
  const single = write("single.jsonl", rows(24, false));
  const pairs = write("pairs.jsonl", rows(24, true));

  test("of two texts, all its weights: a folder of Transformers' class, without the head for masked tokens", async () => {
    const path = await train("full", bert, pairs, "--method", "full", "--learning-rate", "1e-2");
    expect(await accuracy(path, pairs)).toBe(1);
    expect(config(path)).toMatchObject({
      architectures: ["BertForSequenceClassification"],
      id2label: { 0: "bad", 1: "good" },
      problem_type: "single_label_classification",
    });
    const tensors = names(path);
    for (const name of ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"])
      expect(tensors).toContain(name);
    expect(tensors.filter((name) => name.startsWith("cls."))).toEqual([]);
    // It is trained further with the head that it has.
    const again = await train("again", path, pairs, "--method", "full", "--learning-rate", "1e-4");
    expect(await accuracy(again, pairs)).toBe(1);
  });

  test("saved without a head and a prefix: the folder has its names, and is read again", async () => {
    const bare = join(folder, "bare");
    makeFolder(bare);
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(bert, file), join(bare, file));
    writeFileSync(join(bare, "config.json"), JSON.stringify({ ...config(bert), architectures: ["BertModel"] }));
    const source = openSafetensors(bert);
    const tensors = [...source.tensors.values()].flatMap(({ name, shape }) =>
      name.startsWith("bert.")
        ? [{ name: name.slice("bert.".length), dtype: "f32" as const, shape, data: readFloat32(source, name, shape) }]
        : [],
    );
    source.close();
    writeSafetensors(join(bare, "model.safetensors"), tensors);
    const path = await train("bare-full", bare, single, "--method", "full", "--learning-rate", "1e-2");
    expect(await accuracy(path, single)).toBe(1);
    expect(names(path)).toEqual(expect.arrayContaining(["embeddings.word_embeddings.weight", "classifier.weight"]));
  });

  test("with an adapter that holds the head, merged too", async () => {
    const path = await train("lora", roberta, single, "--method", "lora", "--learning-rate", "2e-2");
    expect(await accuracy(path, single)).toBe(1);
    const head = ["dense", "out_proj"].flatMap((module) =>
      ["weight", "bias"].map((part) => `base_model.model.classifier.${module}.${part}`),
    );
    expect(names(path, "adapter_model.safetensors")).toEqual(expect.arrayContaining(head));
    expect(JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8"))).toMatchObject({ task_type: "SEQ_CLS" });
    const merged = join(folder, "merged");
    await ok("merge", "--adapter", path, "--out", merged);
    expect(await accuracy(merged, single)).toBe(1);
    expect(config(merged)["architectures"]).toEqual(["XLMRobertaForSequenceClassification"]);
    expect(names(merged).filter((name) => name.startsWith("lm_head."))).toEqual([]);
  });

  test("with an adapter of a BERT or DistilBERT, whose layer in front of the last one is new too", async () => {
    const path = await train("distil", distilbert, single, "--method", "lora", "--learning-rate", "2e-2");
    expect(await accuracy(path, single)).toBe(1);
    expect(names(path, "adapter_model.safetensors")).toContain("base_model.model.pre_classifier.weight");
    const other = await train("bert-lora", bert, single, "--method", "lora", "--learning-rate", "2e-2", "--packing");
    expect(await accuracy(other, single)).toBe(1);
    expect(names(other, "adapter_model.safetensors")).toContain("base_model.model.bert.pooler.dense.weight");
  });

  test("without a head: a ModernBERT gets all of it, and is merged", async () => {
    const path = await train("modern-lora", modern, single, "--method", "lora", "--learning-rate", "2e-2");
    expect(await accuracy(path, single)).toBe(1);
    expect(JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8"))).toMatchObject({
      modules_to_save: ["classifier", "head"],
    });
    const merged = join(folder, "modern-merged");
    await ok("merge", "--adapter", path, "--out", merged);
    expect(await accuracy(merged, single)).toBe(1);
    expect(names(merged)).toEqual(expect.arrayContaining(["head.dense.weight", "head.norm.weight", "classifier.bias"]));
  });

  test("all its weights unasked, which the run says, and an adapter where one is spoken of", async () => {
    const output = join(folder, "unasked");
    const args = ["train", "--model", bert, "--data", single, "--output", output, ...fast, "--steps", "1"];
    const { code, stdout, stderr } = await remat(args);
    expect(code).toBe(0);
    expect(`${stdout}${stderr}`).toContain(
      "all weights are trained, as is usual of text encoders of fewer than 200 million parameters",
    );
    expect(`${stdout}${stderr}`).toMatch(/trained +full, /);
    expect(config(output)["architectures"]).toEqual(["BertForSequenceClassification"]);
    // The run says what it was, and goes on so.
    expect(JSON.parse(readFileSync(join(output, "train-config.json"), "utf8"))).toMatchObject({ method: "full" });
    const spoken = await remat([...args, "--dry-run", "--overwrite", "--rank", "2"]);
    expect(`${spoken.stdout}${spoken.stderr}`).toMatch(/trained +lora, /);
    expect(await ok("plan", "--model", bert, "--objective", "classify", "--sequence-length", "16", "--threads", "1")).toContain(
      "segments",
    );
  });

  test("and still predicts no next tokens", async () => {
    const texts = write("texts.jsonl", [{ text: "the river" }]);
    expect(await refused("train", "--model", bert, "--data", texts, "--output", join(folder, "never"))).toContain(
      "which sees each text from both sides and predicts no next tokens",
    );
  });
});
