import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readEntries } from "../../src/data/examples/dataset.ts";
import { parseExample } from "../../src/data/examples/formats.ts";
import { toldRecord } from "../../src/data/examples/told.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { vocabularyOf } from "../../src/data/tokens/vocabulary.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { UserError } from "../../src/base/errors.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { fuzz, INPUTS, mutateBytes, mutateJson } from "../support/fuzz.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tables = join(import.meta.dir, "../golden/tables");
/** A template with a place for everything that the lines have: what has none would be refused. */
const TEMPLATE =
  "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}" +
  "{% if m.content is string %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}" +
  "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const tokenizer = {
  ...loadTokenizer(join(import.meta.dir, "../../recipes/base/model")),
  chatTemplates: new Map([["default", TEMPLATE]]),
};
const maker = createSampleMaker(tokenizer, { maxLength: 128, vocabSize: tokenizer.size });

const turns = [
  { role: "system", content: "s" },
  { role: "user", content: [{ type: "text", text: "q" }] },
  { role: "assistant", content: "a", weight: 1 },
];
const call = { role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] };
const likeliest = [
  { id: 5, logprob: -0.5 },
  { id: 9, logprob: -1.5 },
];
const asked = { tokenizer: vocabularyOf(tokenizer), prompt: [3, 4] };
const told = toldRecord({ ...asked, chosen: [5, 2].map((id) => ({ id, top: likeliest })) });
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
  { prompt: turns.slice(0, 2), completion: turns.slice(2), label: true },
  { messages: turns, label: false },
  { text: "a", text_pair: "b", label: ["x", 2] },
  { text: "a", label: 0.5 },
  { query: "a", text: "b", label: 1 },
  { sentence1: "a", sentence2: "b", score: 0.5 },
  { query: "a", docs: ["b", "c"], labels: [1, 0.5] },
  { messages: turns, logprobs: told },
  { prompt: "p", completion: "c", logprobs: told },
].map((line) => JSON.stringify(line));
const whole = Buffer.from(`${LINES.join("\r\n\n")}\n`);

function attempt(action: () => unknown): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}

/** Reads every entry of a file and makes samples of it; an error must name the file, or the entry that it comes from. */
async function readAll(file: string): Promise<void> {
  let first: unknown = null;
  const check = (error: unknown, where: string): void => {
    // A template's refusal names the model.
    const names = error instanceof UserError && (error.message.startsWith(where) || error.message.includes("the chat template"));
    if (!names) throw new Error(`not a UserError that begins with ${where}`, { cause: error });
    first ??= error;
  };
  const entries = readEntries(file);
  for (;;) {
    // What is behind a bad entry is read all the same.
    const next = await entries.next().catch((error: unknown) => check(error, file));
    if (!next || next.done) break;
    try {
      maker.samples(next.value.parse());
    } catch (error) {
      check(error, next.value.where);
    }
  }
  if (first !== null) throw first;
}

test(`${INPUTS} mutated lines and files of every format: samples, or a UserError that names the place`, async () => {
  const counts = await fuzz(
    "formats",
    (random) => {
      const file = join(folder, random.below(4) === 0 ? "data.json" : "data.jsonl");
      if (random.below(4) === 0) return { file, content: mutateBytes(random, whole) };
      const line = mutateJson(random, LINES[random.below(LINES.length)]!);
      return { file, content: file.endsWith(".json") ? `[${line}]` : `${LINES[2]}\n${line}` };
    },
    ({ file, content }) => {
      writeFileSync(file, content);
      return readAll(file);
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.05 * INPUTS);
  expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
});

test(`${INPUTS} mutated arrays of several items, as bytes: samples, or a UserError that names the place`, async () => {
  const usable = LINES.filter((line) => attempt(() => maker.samples(parseExample(line, "a"))));
  expect(usable.length).toBeGreaterThan(5);
  const seed = Buffer.from(`[${usable.join(",\n")}]`);
  const counts = await fuzz(
    "arrays",
    (random) => mutateBytes(random, seed),
    (content) => {
      writeFileSync(join(folder, "array.json"), content);
      return readAll(join(folder, "array.json"));
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(SLOW ? 30 : 2);
});

test(`${INPUTS} mutated tables in CSV: samples, or a UserError that names the place`, async () => {
  const cell = (text: string) => `"${text.replaceAll('"', '""')}"`;
  const seeds = [
    ...["quotes.csv", "semicolon.csv", "mixed-ends.csv", "no-end.csv", "bom.csv"].map((name) => readFileSync(join(tables, name))),
    Buffer.from(`id,messages,score\n1,${cell(JSON.stringify(turns))},\r\n2,${cell(JSON.stringify(turns))},x\n`),
  ];
  const counts = await fuzz(
    "csv",
    (random) => mutateBytes(random, seeds[random.below(seeds.length)]!, seeds),
    (content) => {
      writeFileSync(join(folder, "table.csv"), content);
      return readAll(join(folder, "table.csv"));
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.05 * INPUTS);
});

test(`${INPUTS} mutated Parquet files of every compression: samples, or a UserError that names the place`, async () => {
  const names = ["none", "snappy", "gzip", "brotli", "zstd", "lz4", "pages-v2", "plain"];
  const seeds = names.map((name) => readFileSync(join(tables, `${name}.parquet`)));
  const counts = await fuzz(
    "parquet",
    (random) => {
      const seed = seeds[random.below(seeds.length)]!;
      // Half of the changes go to the metadata at the end, where the sizes and counts are.
      if (random.below(2) === 0) return mutateBytes(random, seed, seeds);
      const metadata = seed.length - 8 - seed.readUInt32LE(seed.length - 8);
      const changed = mutateBytes(random, seed.subarray(metadata, -8));
      const length = new Uint8Array(Uint32Array.of(changed.length).buffer);
      return Buffer.concat([seed.subarray(0, metadata), changed, length, Buffer.from("PAR1")]);
    },
    (content) => {
      writeFileSync(join(folder, "table.parquet"), content);
      return readAll(join(folder, "table.parquet"));
    },
  );
  expect(counts.refused).toBeGreaterThan(0.05 * INPUTS);
});
