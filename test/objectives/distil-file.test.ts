import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { toldRecord } from "../../src/data/examples/told.ts";
import { vocabularyOf } from "../../src/data/tokens/vocabulary.ts";
import { generate } from "../../src/library/generate.ts";
import { train } from "../../src/library/train.ts";
import { openModel } from "../../src/load/open-model.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, writeTinyModel } from "../support/cli.ts";
import { readTensors } from "../support/golden.ts";
import { expectWithin } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tiny = { num_hidden_layers: 2, hidden_size: 16, head_dim: 4, intermediate_size: 24 };
const student = writeTinyModel(join(folder, "student"), tiny);
const larger = writeTinyModel(join(folder, "larger"), { ...tiny, hidden_size: 32, head_dim: 8 });
const teacher = join(folder, "teacher");
const data = join(folder, "texts.jsonl");
const told = join(folder, "told.jsonl");
const TOP = 4;
const words = ["king", "house", "water", "tree"];
const pairs = words.map((word) => ({ prompt: `A ${word}?`, completion: ` the ${word} of old` }));
const writeLines = (path: string, records: readonly object[]): void =>
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
writeLines(data, pairs);

const shared = { method: "full", threads: 1, sequenceLength: 32, warmup: 0, sample: false } as const;
const student3 = { ...shared, model: student, steps: 3, learningRate: 1e-3 } as const;
const distil = { ...student3, objective: "distil", teacherTop: TOP } as const;
const weights = (name: string): Buffer => readFileSync(join(folder, name, "model.safetensors"));
interface Line {
  readonly prompt: string;
  readonly completion: string;
  readonly logprobs: Readonly<Record<"prompt" | "tokens", number[]>> & Readonly<Record<"top_ids" | "top_logprobs", number[][]>>;
}
const lines = (): Line[] =>
  readFileSync(told, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

const cache = process.env["REMAT_CACHE"];
beforeAll(async () => {
  process.env["REMAT_CACHE"] = join(folder, "cache");
  // It has learned the texts by heart, so that its answers are these.
  await train({ ...shared, model: larger, data, output: teacher, steps: 200, learningRate: 1e-2 });
  await generate({ model: teacher, data, out: told, logprobs: TOP, maxNewTokens: 20, temperature: 0, threads: 1 });
  await train({ ...distil, teacher, data, output: join(folder, "asked") });
});
afterAll(() => {
  if (cache === undefined) delete process.env["REMAT_CACHE"];
  else process.env["REMAT_CACHE"] = cache;
});

test("generate writes the tokens of its answers with those that the model finds likeliest, the end of the answer too", async () => {
  const model = await openModel({ model: teacher });
  const { tokenizer } = model;
  model.close();
  for (const [i, { prompt, completion, logprobs }] of lines().entries()) {
    expect({ prompt, completion }).toEqual(pairs[i]!);
    expect(logprobs.prompt).toEqual([...tokenizer.prefix, ...tokenizer.encode(prompt)]);
    expect(tokenizer.decode(logprobs.tokens, { skipSpecial: true })).toBe(completion);
    expect(logprobs.tokens.at(-1)).toBe(tokenizer.eosId!);
    // Greedy answers are of the likeliest tokens.
    expect(logprobs.top_ids.map(([first]) => first!)).toEqual(logprobs.tokens);
    for (const row of logprobs.top_logprobs) {
      expect(row.length).toBe(TOP);
      expect(row).toEqual(row.toSorted((a, b) => b - a));
    }
  }
});

test("a run from what generate wrote is the run with the teacher", async () => {
  await train({ ...distil, data: told, output: join(folder, "read") });
  const [asked, read] = ["asked", "read"].map((name) => readTensors(join(folder, name, "model.safetensors")));
  for (const [name, values] of asked!) {
    const other = read!.get(name)!;
    values.forEach((value, i) => expectWithin(name, Math.abs(value - other[i]!), 1e-6));
  }
});

test("with the same probabilities it is the same to the bit, read anew or from the cache of tokens", async () => {
  const model = await openModel({ model: teacher });
  const { tokenizer } = model;
  model.close();
  // What the run with the teacher has kept of its answers: all ids, all log-probabilities, a checksum.
  const answers = join(folder, "cache/teachers");
  const kept = new Uint8Array(readFileSync(join(answers, readdirSync(answers)[0]!)));
  const places = (kept.length - 32) / 8 / TOP;
  const ids = new Int32Array(kept.buffer, 0, places * TOP);
  const values = new Float32Array(kept.buffer, 4 * places * TOP, places * TOP);
  let place = 0;
  const records = pairs.map(({ prompt, completion }) => {
    const own = [...tokenizer.prefix, ...tokenizer.encode(prompt)];
    const text = [...tokenizer.prefix, ...tokenizer.encode(prompt + completion), tokenizer.eosId!];
    expect(text.slice(0, own.length)).toEqual(own);
    const chosen = text.slice(own.length).map((id) => {
      const at = TOP * place++;
      return { id, top: Array.from({ length: TOP }, (_, k) => ({ id: ids[at + k]!, logprob: values[at + k]! })) };
    });
    return { prompt, completion, logprobs: toldRecord({ tokenizer: vocabularyOf(tokenizer), prompt: own, chosen }) };
  });
  expect(place).toBe(places);
  const exact = join(folder, "exact.jsonl");
  writeLines(exact, records);
  for (const name of ["exact", "cached"]) await train({ ...distil, data: exact, output: join(folder, name) });
  expect(weights("exact").equals(weights("asked"))).toBe(true);
  expect(weights("cached").equals(weights("asked"))).toBe(true);
});

test("other objectives learn the answers alone, and fewer tokens of each place are the likeliest of them", async () => {
  for (const [name, from] of [
    ["plain", data],
    ["alone", told],
  ] as const)
    await train({ ...student3, data: from, output: join(folder, name) });
  expect(weights("alone").equals(weights("plain"))).toBe(true);
  const fewer = lines().map(({ logprobs, ...line }) => ({
    ...line,
    logprobs: {
      ...logprobs,
      top_ids: logprobs.top_ids.map((row) => row.slice(0, 2)),
      top_logprobs: logprobs.top_logprobs.map((row) => row.slice(0, 2)),
    },
  }));
  const two = join(folder, "two.jsonl");
  writeLines(two, fewer);
  for (const [name, from] of [
    ["two-of-four", told],
    ["two", two],
  ] as const)
    await train({ ...distil, teacherTop: 2, data: from, valid: from, output: join(folder, name) });
  expect(weights("two").equals(weights("two-of-four"))).toBe(true);
});

test("what the student could not learn is refused at its line", async () => {
  const flags = ["train", "--model", student, "--objective", "distil", "--output", join(folder, "none"), "--data"];
  const path = join(folder, "wrong.jsonl");
  const wrong = (change: (logprobs: Line["logprobs"]) => object): string => {
    writeLines(
      path,
      lines().map((line, i) => (i === 1 ? { ...line, logprobs: change(line.logprobs) } : line)),
    );
    return path;
  };
  const refusal = (change: (logprobs: Line["logprobs"]) => object, ...more: string[]): Promise<string> =>
    refused(...flags, wrong(change), "--teacher-top", String(TOP), ...more);
  const where = `${path}:2: `;
  expect(await refusal((own) => ({ ...own, tokenizer: "0".repeat(64) }))).toContain(
    `${where}"logprobs" was written with another tokenizer`,
  );
  expect(await refusal((own) => ({ ...own, tokens: own.tokens.slice(1) }))).toContain(`${where}"logprobs" has `);
  expect(await refusal((own) => ({ ...own, top_ids: own.top_ids.map((row) => row.map(() => 7)) }))).toContain(
    `${where}token 1 of "logprobs" has 1 likeliest tokens`,
  );
  expect(await refusal((own) => ({ ...own, top_logprobs: own.top_logprobs.map((row) => row.map((x) => -x)) }))).toContain(
    "expected natural logarithms",
  );
  expect(await refusal((own) => ({ ...own, top_logprobs: own.top_logprobs.map((row) => row.map(() => -0.1)) }))).toContain(
    "together, more than 1",
  );
  expect(await refusal((own) => ({ ...own, top_ids: own.top_ids.map((row) => row.map((id) => id + 1e6)) }))).toContain(
    "outside the model's vocabulary",
  );
  expect(await refusal(() => [])).toContain('"logprobs" must be an object');
  expect(await refused(...flags, told)).toContain(`fewer than --teacher-top 8; give --teacher-top ${TOP}`);
  expect(await refused(...flags, told, "--distil-temperature", "2")).toContain("without --teacher the probabilities are those");
  expect(await refused(...flags, data)).toContain("that is for --teacher");
  expect(existsSync(join(folder, "none"))).toBe(false);
  expect(
    await ok(
      "data",
      "check",
      wrong((own) => own),
    ),
  ).toContain("4");
});
