import { expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { readEntries } from "../../src/data/examples/dataset.ts";
import { createSampleMaker } from "../../src/data/samples/sample.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { UserError } from "../../src/base/errors.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { fuzz, mutateBytes, mutateJson } from "../support/fuzz.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tokenizer = loadTokenizer(join(import.meta.dir, "../../recipes/base/model"));
const maker = createSampleMaker(tokenizer, { maxLength: 128, vocabSize: tokenizer.size });

const turns = [
  { role: "system", content: "s" },
  { role: "user", content: [{ type: "text", text: "q" }] },
  { role: "assistant", content: "a", weight: 1 },
];
const call = { role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] };
const LINES = [
  { messages: turns, tools: [{ type: "function", function: { name: "f", parameters: {} } }], parallel_tool_calls: true },
  { messages: [turns[1], call, { role: "tool", content: "r" }, turns[2]] },
  { prompt: "p", completion: "c" },
  { prompt: turns.slice(0, 2), completion: turns.slice(2) },
  { text: "Once 😀 upon\na time" },
  { instruction: "i", input: "x", output: "o", system: "s", history: [["a", "b"]] },
  {
    conversations: [
      { from: "human", value: "q" },
      { from: "gpt", value: "a", weight: 0 },
      { from: "gpt", value: "b" },
    ],
    tools: "[{}]",
  },
  { conversation: [{ system: "s", input: "q", output: "a", output_with_loss: true }] },
].map((line) => JSON.stringify(line));
const whole = Buffer.from(`${LINES.join("\r\n\n")}\n`);

test("10,000 mutated lines and files of every format: samples, or a UserError that names the place", () => {
  const counts = fuzz(
    "formats",
    (random) => {
      const file = join(folder, random.below(4) === 0 ? "data.json" : "data.jsonl");
      if (random.below(4) === 0) return { file, content: mutateBytes(random, whole) };
      const line = mutateJson(random, LINES[random.below(LINES.length)]!);
      return { file, content: file.endsWith(".json") ? `[${line}]` : `${LINES[2]}\n${line}` };
    },
    ({ file, content }) => {
      writeFileSync(file, content);
      let where = file;
      try {
        for (const entry of readEntries(file)) {
          ({ where } = entry);
          maker.samples(entry.parse());
          where = file;
        }
      } catch (error) {
        // A template's refusal names the model.
        const names =
          error instanceof UserError && (error.message.startsWith(where) || error.message.includes("the chat template"));
        throw names ? error : new Error(`not a UserError that begins with ${where}`, { cause: error });
      }
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(500);
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
});
