import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { plainText } from "../../recipes/base/extract.ts";
import { randomWeights } from "../../recipes/base/init.ts";
import { makeTokenizer } from "../../recipes/base/make.ts";
import { joinPieces, makeBaseText } from "../../recipes/base/text.ts";
import { parseTemplate, runTemplate } from "../../src/data/chat/jinja/template.ts";
import golden from "../golden/tokenizer/bundled.json" with { type: "json" };

setDefaultTimeout(120_000);

const model = join(import.meta.dir, "../../recipes/base/model");
const readModel = (file: string) => readFileSync(join(model, file), "utf8");

const config = JSON.parse(readModel("tokenizer_config.json")) as { chat_template: string };
const tokenizer = new Tokenizer(JSON.parse(readModel("tokenizer.json")) as object, config);

describe("tokenizer of the bundled base model", () => {
  test("is what the recipe makes", () => {
    const folder = mkdtempSync(join(tmpdir(), "base-"));
    try {
      makeTokenizer(folder);
      for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
        expect(readFileSync(join(folder, file), "utf8")).toBe(readModel(file));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  }, 60_000);

  test.each(golden.texts.map(({ text, ids }) => [text, ids] as const))(
    "encodes as Transformers and decodes to the same text: %j",
    (text, ids) => {
      expect(tokenizer.encode(text).ids).toEqual([...ids]);
      if (text !== "") expect(tokenizer.decode([...ids])).toBe(text);
    },
  );

  test("renders and encodes chats as Transformers", () => {
    const template = parseTemplate(config.chat_template);
    for (const { messages, addGenerationPrompt, text, ids } of golden.chats) {
      const rendered = runTemplate(template, { messages, add_generation_prompt: addGenerationPrompt }, new Date(0));
      expect(rendered).toBe(text);
      expect(tokenizer.encode(rendered).ids).toEqual(ids);
    }
  });

  test("needs at most 400 tokens for an example of The Devil's Dictionary", () => {
    const template = parseTemplate(config.chat_template);
    for (const file of ["train.jsonl", "valid.jsonl"]) {
      const path = join(import.meta.dir, "../../recipes/devils-dictionary", file);
      for (const line of readFileSync(path, "utf8").trimEnd().split("\n")) {
        const rendered = runTemplate(template, JSON.parse(line) as Record<string, unknown>, new Date(0));
        expect(tokenizer.encode(rendered).ids.length).toBeLessThanOrEqual(400);
      }
    }
  });
});

describe("text of the bundled base model", () => {
  const { train, valid } = makeBaseText();

  test("is the whole Bible once, some of it again as dialogue, and the dictionary's training part", () => {
    const text = train.join("\n");
    expect(text).toContain("In the beginning God created the heaven and the earth.");
    expect(text).toContain("Bore, n. A person who talks when you wish him to listen.");
    expect(train.filter((row) => row.startsWith("<|im_start|>user\n")).length).toBeWithin(300, 600);
    expect(text).not.toContain("Define ");
    expect(text.length).toBeWithin(4_600_000, 5_000_000);
  });

  test("holds out rows that are nowhere in the training part", () => {
    expect(valid.length).toBeWithin(60, 140);
    const rows = new Set(train);
    expect(valid.filter((row) => rows.has(row))).toEqual([]);
  });

  test("has no row that is longer than 512 tokens", () => {
    // Short rows need no encoding: few tokens have less than two characters.
    for (const row of [...train, ...valid].filter((text) => text.length > 1250)) {
      expect(tokenizer.encode(row).ids.length).toBeLessThan(512);
    }
  });

  test("rows are joined from whole pieces", () => {
    const [piece, long] = ["x".repeat(300), "y".repeat(1100)];
    expect(joinPieces([piece, piece, piece, piece, long, "z"], "|")).toEqual([`${piece}|${piece}|${piece}`, piece, long, "z"]);
  });

  test("verse numbers go, chapters are separated", () => {
    const raw = "Title of the file.\nGe1:1 In the  beginning.\nGe1:2 And.\nGe2:1 Thus.\n1Sm2:1 Now.\n";
    expect(plainText(raw)).toBe("In the beginning.\nAnd.\n\nThus.\n\nNow.\n");
  });
});

describe("random weights", () => {
  const shape = {
    vocab_size: 300,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
  };
  const deviation = (name: string, seed: number) => {
    const data = randomWeights(shape, seed).find((tensor) => tensor.name === name)!.data as Float32Array;
    return Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length);
  };

  test("have the names and shapes of a Llama checkpoint", () => {
    const shapes = Object.fromEntries(randomWeights(shape, 1).map((tensor) => [tensor.name, tensor.shape]));
    expect(Object.keys(shapes)).toHaveLength(2 * 9 + 2);
    expect(shapes["model.embed_tokens.weight"]).toEqual([300, 24]);
    expect(shapes["model.layers.1.self_attn.k_proj.weight"]).toEqual([12, 24]);
    expect(shapes["model.layers.1.mlp.down_proj.weight"]).toEqual([24, 40]);
    expect(shapes["model.norm.weight"]).toEqual([24]);
  });

  test("deviate by 0.02, and by 0.01 where they write to the residual stream of two layers, within 10 %", () => {
    expect(deviation("model.embed_tokens.weight", 1)).toBeWithin(0.018, 0.022);
    expect(deviation("model.layers.0.mlp.up_proj.weight", 1)).toBeWithin(0.018, 0.022);
    expect(deviation("model.layers.0.mlp.down_proj.weight", 1)).toBeWithin(0.009, 0.011);
    expect(deviation("model.layers.1.self_attn.o_proj.weight", 1)).toBeWithin(0.009, 0.011);
  });

  test("depend on the seed alone", () => {
    expect(randomWeights(shape, 7)).toEqual(randomWeights(shape, 7));
    expect(randomWeights(shape, 7)).not.toEqual(randomWeights(shape, 8));
  });
});
