import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseExample, type UnpairedExample } from "../../src/data/examples/formats.ts";
import { unpairedOf } from "../../src/data/examples/judged/preferences.ts";
import { readEntries } from "../../src/data/examples/dataset.ts";
import { withMismatched } from "../../src/data/samples/mismatched.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { createSampleStore, type SampleSet } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createTokenCache, openTokenCache } from "../../src/data/samples/token-cache.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { makerFor } from "../../src/objectives/index.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { objectiveWith, unpairedBatches, unpairedSamples } from "../support/preferences.ts";

const golden = join(import.meta.dir, "../golden");
const folderOf = (name: string) =>
  name === "bundled" ? join(golden, "../../recipes/base/model") : join(golden, "tokenizers", name);
const parse = (record: object) => parseExample(JSON.stringify(record), "d.jsonl:7");
/** A conversation with a label is a text to be judged too, unless the objective wants answers. */
const unpaired = (record: object) => {
  const example = parse(record);
  return example.kind === "labelled" ? unpairedOf(example)! : (example as UnpairedExample);
};
const user = (content: string) => ({ role: "user", content });
const assistant = (content: string, more = {}) => ({ role: "assistant", content, ...more });

describe("formats of answers with a label", () => {
  test("texts; messages; a conversation, of which the last message counts", () => {
    const where = "d.jsonl:7";
    expect(unpaired({ prompt: "p", completion: "c", label: false })).toEqual({
      kind: "unpaired",
      answer: { kind: "completion", prompt: "p", completion: "c", where },
      desirable: false,
      where,
    });
    const turns = [user("a"), assistant("b"), user("c")];
    for (const record of [
      { prompt: turns, completion: [assistant("d")], label: true },
      { messages: [...turns, assistant("d")], label: true },
    ]) {
      const { answer, desirable } = unpaired(record);
      if (answer.kind !== "chat") throw new Error("expected a chat");
      expect(desirable).toBe(true);
      expect(answer.messages.map(({ role, weight }) => [role, weight])).toEqual([
        ["user", 0],
        ["assistant", 0],
        ["user", 0],
        ["assistant", 1],
      ]);
    }
  });

  test("labels as tables have them", async () => {
    for (const [label, desirable] of [
      [1, true],
      ["True", true],
      [0, false],
      ["false", false],
    ] as const)
      expect(unpaired({ prompt: "p", completion: "c", label }).desirable).toBe(desirable);
    const file = join(temporaryFolder(), "d.csv");
    writeFileSync(file, "prompt,completion,label\np,c,TRUE\np,d,0\n");
    const found: boolean[] = [];
    for await (const { parse: read } of readEntries(file)) found.push((read() as UnpairedExample).desirable);
    expect(found).toEqual([true, false]);
  });

  test.each([
    [
      { prompt: "p", completion: "c", label: "good" },
      '"label" must be true (a desirable answer) or false (an undesirable one), got "good"',
    ],
    [{ prompt: "p", completion: "c", label: 0.5 }, "got 0.5"],
    [{ prompt: "p", completion: [assistant("c")], label: true }, '"completion" must be a text, got an array'],
    [{ prompt: "p", completion: 3, label: true }, '"completion" must be a text, got a number'],
    [{ prompt: [user("p")], completion: [user("c")], label: true }, 'with a message of role "assistant", got one of role "user"'],
    [{ messages: [user("p")], label: true }, 'the last of "messages" must be the answer that "label" is about'],
    [{ messages: [user("p"), assistant("c", { weight: 0.5 })], label: true }, 'a "weight" in "messages" must be 0 or 1, got 0.5'],
    [{ prompt: "p", completion: "c", label: true, tools: [{}] }, '"tools" needs "prompt" and "completion" to be lists'],
    [{ prompt: "p", completion: "c", label: true, rating: 4, points: 3 }, 'unknown key "points"'],
  ])("%j is refused with its place", (record, message) => {
    expect(() => unpaired(record)).toThrow(message);
    expect(() => unpaired(record)).toThrow("d.jsonl:7");
  });

  test("other objectives say what it is for; kto says what it wants", () => {
    const maker = createSampleMaker(loadTokenizer(folderOf("qwen")), { maxLength: 64, vocabSize: 1e6 });
    expect(() =>
      makerFor(objectiveWith({ objective: "dpo" }), maker).samples(unpaired({ prompt: "p", completion: "c", label: true })),
    ).toThrow(/^d\.jsonl:7: the objective dpo learns from .*; that is for --objective kto$/);
    expect(() => makerFor(objectiveWith({ objective: "kto" }), maker).samples(parse({ prompt: "p", completion: "c" }))).toThrow(
      /^d\.jsonl:7: the objective kto learns from \{"prompt", "completion", "label"\}, got/,
    );
  });
});

interface Fixture {
  readonly answers: readonly object[];
  readonly group: number;
  readonly expected: readonly {
    readonly tokenizer: string;
    readonly rows: readonly Record<"prompt" | "answer" | "mismatched", number[]>[];
  }[];
}

const fixture = JSON.parse(readFileSync(join(golden, "kto/tokens.json"), "utf8")) as Fixture;

function setOf(tokenizer: string, maxLength: number, count = fixture.answers.length): SampleSet {
  const maker = createSampleMaker(loadTokenizer(folderOf(tokenizer)), { maxLength, vocabSize: 1e6 });
  const store = createSampleStore((number) => `d.jsonl:${number}`);
  fixture.answers.slice(0, count).forEach((answer, i) => store.add(maker.samples(parse(answer))[0]!, i + 1));
  return store.finish();
}

describe("mismatched answers", () => {
  test.each(fixture.expected.map((each) => [each.tokenizer, each.rows] as const))(
    "%s: as TRL chooses and tokenizes them",
    (name, rows) => {
      const set = withMismatched(setOf(name, 512), { group: fixture.group, maxLength: 512 });
      expect(set.count).toBe(rows.length);
      for (const [i, { prompt, answer, mismatched }] of rows.entries()) {
        const { target } = set.sample(i);
        const masked = prompt.map(() => IGNORED);
        for (const [sample, end] of [
          [set.sample(i), answer],
          [set.mismatched!(i), mismatched],
        ] as const) {
          expect([...sample.ids]).toEqual([...prompt, ...end]);
          expect([...sample.labels]).toEqual([...masked, ...end]);
        }
        expect(set.lengths[i]).toBe(prompt.length + Math.max(answer.length, mismatched.length));
        expect([...target!]).toEqual([Number((fixture.answers[i] as { label: boolean }).label)]);
      }
      expect(set.tokens).toBe(rows.reduce((sum, { prompt, answer }) => sum + prompt.length + answer.length, 0));
    },
  );

  test("are cut at the sequence length, with some of the answer left; a last one alone gets the answer before it", () => {
    const whole = setOf("bundled", 512);
    const set = withMismatched(whole, { group: 7, maxLength: 12 });
    const after = (i: number) => {
      const { ids, labels } = set.mismatched!(i);
      expect(ids.length).toBeLessThanOrEqual(12);
      expect(set.lengths[i]).toBe(Math.max(ids.length, set.sample(i).ids.length));
      return [...labels].filter((label) => label !== IGNORED);
    };
    for (let i = 0; i < set.count; i++) expect(after(i).length).toBeGreaterThan(0);
    const { ids, labels } = whole.sample(6);
    expect(after(7)).toEqual([...ids.subarray(labels.findIndex((label) => label !== IGNORED))]);
  });

  test("a single example has none to get", () => {
    expect(() => withMismatched(setOf("bundled", 512, 1), { group: 2, maxLength: 512 })).toThrow(/^d\.jsonl:1: the only example/);
  });

  for (const packing of [true, false]) {
    test(`stay with their examples, ${packing ? "packed" : "padded"}: each once an epoch, with what is said of it`, () => {
      const samples = unpairedSamples();
      const batches = unpairedBatches(samples, packing);
      const seen: number[] = [];
      for (let index = 0; index < batches.count(0); index++) {
        const batch = batches.batch(0, index);
        const { mismatched, members, targets, tokens } = batch;
        expect([mismatched!.tokens, mismatched!.members]).toEqual([tokens, members]);
        seen.push(...members);
        for (const [i, member] of members.entries()) {
          expect(targets![i]).toBe(samples.sample(member).target![0]!);
          for (const [{ ids, spans, starts }, sample] of [
            [batch, samples.sample(member)],
            [mismatched!, samples.mismatched!(member)],
          ] as const) {
            const { from, to } = spans[i]![0]!;
            expect([...ids.subarray(from, to)]).toEqual([...sample.ids]);
            expect(starts[to - 1]).toBe(from);
          }
        }
      }
      expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: samples.count }, (_, i) => i));
    });
  }

  test("a cache of tokens keeps what is said of each, and one without is read as ever", () => {
    const file = join(temporaryFolder(), "a.tokens");
    const set = setOf("bundled", 512);
    for (const keeps of [true, false]) {
      const cache = createTokenCache(file, (number) => `d.jsonl:${number}`);
      for (let i = 0; i < set.count; i++) cache.add(keeps ? set.sample(i) : { ...set.sample(i), target: undefined }, i + 1);
      cache.finish();
      const read = openTokenCache(file, (number) => `d.jsonl:${number}`)!;
      const expected = Array.from({ length: set.count }, (_, i) => (keeps ? set.sample(i).target : undefined));
      expect(Array.from({ length: read.count }, (_, i) => read.sample(i).target)).toEqual(expected);
      expect([...read.sample(3).ids]).toEqual([...set.sample(3).ids]);
    }
  });
});
