import { expect, setDefaultTimeout, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { sampleTexts } from "../../recipes/base/sample.ts";
import { makeBaseText } from "../../recipes/base/text.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const model = join(import.meta.dir, "../../recipes/base/model");
const FILES = [
  "README.md",
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
];

test("the bundled base model has at most 8 MB", () => {
  const bytes = FILES.reduce((sum, file) => sum + statSync(join(model, file)).size, 0);
  expect(bytes).toBeLessThan(8_000_000);
});

slowTest("95 of 100 words that the bundled base model writes at temperature 0.7 are words of its training text", async () => {
  const words = (text: string) => text.toLowerCase().match(/[a-z]+/g) ?? [];
  const known = new Set(makeBaseText().train.flatMap(words));
  const prompts = ["And it came to pass", "The LORD said unto", "Blessed are they", "Wisdom, n.", "In those days"];
  const written = (await sampleTexts(model, prompts, 0.7, 7)).flatMap(words);
  expect(written.length).toBeGreaterThan(100);
  expect(written.filter((word) => known.has(word)).length / written.length).toBeGreaterThan(0.95);
});
