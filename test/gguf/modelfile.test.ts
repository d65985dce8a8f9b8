import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chatTemplateOf } from "../../src/data/chat/chat-template.ts";
import { endOfTurn } from "../../src/data/chat/end-of-turn.ts";
import { modelfile } from "../../src/gguf/modelfile.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { TALKS, templateIn, tokenizers } from "../golden/gguf/modelfile-cases.ts";

/** Go's rendering of each template for each conversation: see modelfile.ts there. */
const golden: Readonly<Record<string, readonly string[]>> = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/gguf/modelfile.json"), "utf8"),
);
const cases = tokenizers();

describe("the Modelfile's template, run by Go, renders what the model's own does", () => {
  test.each([...cases.keys()])("%s", (name) => {
    const tokenizer = cases.get(name)!;
    const file = modelfile("./m.gguf", null, tokenizer, []);
    const texts = golden[templateIn(file)]!;
    const template = chatTemplateOf(tokenizer);
    const bos = tokenizer.namedTokens["bos_token"] ?? "";
    const system = /^SYSTEM """([^]*?)"""$/m.exec(file)?.[1];
    let compared = 0;
    TALKS.forEach((messages, i) => {
      // Ollama has the Modelfile's system prompt rendered where a conversation has none.
      const isPlain = messages[0].role !== "system";
      if (isPlain && system !== undefined) return;
      // Gemma 2 knows no system prompt; the Modelfile gives it one as Gemma 3 has it.
      if (name === "gemma2" && !isPlain) return;
      const text = template.render({ messages, addGenerationPrompt: true });
      expect(texts[i]).toBe(text.startsWith(bos) ? text.slice(bos.length) : text);
      compared++;
    });
    expect(compared).toBeGreaterThan(0);
  });

  test("a default system prompt is the Modelfile's", () => {
    expect(modelfile("./m.gguf", null, cases.get("default system")!, [])).toContain('\nSYSTEM """Be kind."""\n');
    expect(modelfile("./m.gguf", null, cases.get("qwen")!, [])).not.toContain("SYSTEM");
  });

  test("another format is left to Ollama, which has the template in the GGUF file", () => {
    const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/llama3"));
    expect(modelfile("./m.gguf", "./a.gguf", tokenizer, ["<|eot_id|>"])).toBe(
      'FROM ./m.gguf\nADAPTER ./a.gguf\nPARAMETER stop "<|eot_id|>"\n',
    );
  });
});

test("the token that ends an answer is that which the template puts there", () => {
  const ends = [...cases].map(([name, tokenizer]) => {
    const end = endOfTurn(tokenizer);
    if (end) expect(tokenizer.idOf(end.token)).toBe(end.id);
    return [name, end?.token];
  });
  expect(Object.fromEntries(ends)).toEqual({
    mistral: "</s>",
    qwen: "<|im_end|>",
    gemma2: "<end_of_turn>",
    gemma3: "<end_of_turn>",
    phi3: "<|end|>",
    phi4: "<|end|>",
    internlm2: "<|im_end|>",
    internlm3: "<|im_end|>",
    "no template": "</s>",
    // Not among Mistral's special tokens: a text like any other.
    "default system": undefined,
    "llama 3": undefined,
    "instructions, first": "</s>",
    "instructions, tight": "</s>",
  });
});
