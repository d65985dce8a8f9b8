import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { type Example, parseExample, type PreferenceExample } from "../../src/data/examples/formats.ts";
import { createBatches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { groupSamples } from "../../src/data/samples/groups.ts";
import { splitHeldOut } from "../../src/data/samples/held-out.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { loadTokenizer, type Tokenizer } from "../../src/data/tokens/tokenizer.ts";
import { makerFor } from "../../src/objectives/index.ts";
import { objectiveWith, preferenceSamples } from "../support/preferences.ts";

const golden = join(import.meta.dir, "../golden");
const folderOf = (name: string) =>
  name === "bundled" ? join(golden, "../../recipes/base/model") : join(golden, "tokenizers", name);

const user = (content: string) => ({ role: "user", content });
const assistant = (content: string, more = {}) => ({ role: "assistant", content, ...more });
const parse = (record: object) => parseExample(JSON.stringify(record), "d.jsonl:7") as PreferenceExample;
/** Role, weight and words of every message of an answer. */
const messagesOf = (example: PreferenceExample, side: "chosen" | "rejected") => {
  const answer = example[side];
  if (answer.kind !== "chat") throw new Error("expected a chat");
  return answer.messages.map(({ role, weight, fields }) => `${role} ${weight} ${String(fields["content"])}`);
};

describe("formats of preferences", () => {
  test("texts", () => {
    const where = "d.jsonl:7";
    expect(parse({ prompt: "p", chosen: "c", rejected: "r" })).toEqual({
      kind: "preference",
      chosen: { kind: "completion", prompt: "p", completion: "c", where },
      rejected: { kind: "completion", prompt: "p", completion: "r", where },
      where,
    });
  });

  const prompt = [{ role: "system", content: "s" }, user("u")];
  const tools = [{ type: "function", function: { name: "f" } }];
  test.each([
    ["a prompt of messages", { prompt, chosen: [assistant("c")], rejected: [assistant("r")] }],
    ["whole conversations", { chosen: [...prompt, assistant("c")], rejected: [...prompt, assistant("r")] }],
    [
      "whole conversations and the prompt as text",
      { prompt: "u", chosen: [...prompt, assistant("c")], rejected: [...prompt, assistant("r")] },
    ],
    [
      "as in UltraFeedback, with columns that say nothing",
      {
        prompt: "u",
        chosen: [...prompt, assistant("c")],
        rejected: [...prompt, assistant("r")],
        messages: [],
        score_chosen: 9,
        prompt_id: "x",
      },
    ],
    [
      "OpenAI's",
      {
        input: { messages: prompt, parallel_tool_calls: true },
        preferred_output: [assistant("c")],
        non_preferred_output: [assistant("r")],
      },
    ],
  ])("%s", (_, record) => {
    const example = parse(record);
    expect(messagesOf(example, "chosen")).toEqual(["system 0 s", "user 0 u", "assistant 1 c"]);
    expect(messagesOf(example, "rejected")).toEqual(["system 0 s", "user 0 u", "assistant 1 r"]);
  });

  test("earlier answers are the prompt's; answers of several turns are learned whole; tools and template arguments reach both", () => {
    const shared = [user("u"), assistant("earlier"), user("v")];
    const record = {
      chosen: [...shared, assistant("c"), user("w"), assistant("c2")],
      rejected: [...shared, assistant("r")],
      tools,
      chat_template_kwargs: { enable_thinking: false },
    };
    const example = parse(record);
    expect(messagesOf(example, "chosen").slice(3)).toEqual(["assistant 1 c", "user 0 w", "assistant 1 c2"]);
    expect(messagesOf(example, "rejected")).toEqual(["user 0 u", "assistant 0 earlier", "user 0 v", "assistant 1 r"]);
    for (const side of [example.chosen, example.rejected])
      expect(side).toMatchObject({ tools, args: { enable_thinking: false } });
    const openAi = parse({
      input: { messages: [user("u")], tools },
      preferred_output: [assistant("c")],
      non_preferred_output: [assistant("r")],
    });
    for (const side of [openAi.chosen, openAi.rejected]) expect(side).toMatchObject({ tools });
  });

  test("the same answers are a pair still: the last message is each one's own", () => {
    const example = parse({ chosen: [user("u"), assistant("c")], rejected: [user("u"), assistant("c")] });
    expect(messagesOf(example, "rejected")).toEqual(["user 0 u", "assistant 1 c"]);
  });

  test.each([
    [{ chosen: "c", rejected: "r" }, '"chosen" and "rejected" are texts; expected a "prompt" beside them'],
    [{ prompt: "p", chosen: "c", rejected: [assistant("r")] }, '"chosen" must be a list'],
    [{ prompt: "p", chosen: "c", rejected: "r", tools }, '"tools" needs "chosen" and "rejected" to be lists'],
    [
      { prompt: "other", chosen: [user("u"), assistant("c")], rejected: [user("u"), assistant("r")] },
      '"prompt" must be one of the messages',
    ],
    [
      { chosen: [user("u"), assistant("c")], rejected: [user("v"), assistant("r")] },
      'got one of role "user"; both answers have the same prompt',
    ],
    [
      { chosen: [user("u"), assistant("c", { weight: 2 })], rejected: [user("u"), assistant("r")] },
      'a "weight" in "chosen" must be 0 or 1, got 2',
    ],
    [{ prompt: [user("u")], chosen: [], rejected: [assistant("r")] }, '"chosen" is empty'],
    [
      { input: [user("u")], preferred_output: [assistant("c")], non_preferred_output: [assistant("r")] },
      '"input" must be an object with "messages", got an array',
    ],
    [
      { input: { messages: [user("u")], n: 1 }, preferred_output: [assistant("c")], non_preferred_output: [assistant("r")] },
      '"n"',
    ],
    [
      { prompt: [user("u")], chosen: [user("c")], rejected: [assistant("r")] },
      'with a message of role "assistant", got one of role "user"',
    ],
  ])("%j is refused with its place", (record, message) => {
    expect(() => parse(record)).toThrow(UserError);
    expect(() => parse(record)).toThrow(message);
    expect(() => parse(record)).toThrow("d.jsonl:7");
  });
});

interface TokensFixture {
  readonly pairs: readonly { readonly prompt: string; readonly chosen: string; readonly rejected: string }[];
  readonly expected: readonly {
    readonly tokenizer: string;
    readonly length: number;
    readonly pairs: readonly Record<"chosen" | "rejected", { readonly ids: number[]; readonly labels: number[] }>[];
  }[];
}

const options = { maxLength: 512, vocabSize: 1e6 };

describe("tokens of preferences", () => {
  const fixture = JSON.parse(readFileSync(join(golden, "orpo/tokens.json"), "utf8")) as TokensFixture;
  test.each(fixture.expected.map((each) => [each.tokenizer, each.length, each] as const))(
    "%s, at most %d tokens: as TRL has them; cut ones have the same prompt",
    (name, maxLength, { pairs }) => {
      const maker = createSampleMaker(loadTokenizer(folderOf(name)), { ...options, maxLength, truncate: true });
      for (const [i, pair] of fixture.pairs.entries()) {
        const got = maker.samples(parse(pair)).map(({ ids, labels }) => ({ ids: [...ids], labels: [...labels] }));
        expect(got, pair.prompt).toEqual([pairs[i]!.chosen, pairs[i]!.rejected]);
      }
    },
  );

  test("chats: the answers alone are learned, behind the same prompt", () => {
    const maker = createSampleMaker(loadTokenizer(folderOf("qwen")), options);
    const example = parse({ prompt: [user("hi")], chosen: [assistant("yes")], rejected: [assistant("no, no")] });
    const [chosen, rejected] = maker.samples(example);
    const begin = chosen!.labels.findIndex((label) => label !== IGNORED);
    expect(rejected!.labels.findIndex((label) => label !== IGNORED)).toBe(begin);
    expect(chosen!.ids.subarray(0, begin)).toEqual(rejected!.ids.subarray(0, begin));
    const alone = maker.samples(parseExample(JSON.stringify({ messages: [user("hi"), assistant("yes")] }), "d"));
    expect([...chosen!.labels]).toEqual([...alone[0]!.labels]);
  });

  test("a template that renders the prompt otherwise for one answer is refused", () => {
    const tokenizer = loadTokenizer(folderOf("qwen"));
    const template =
      "{{ messages[-1].content | length }}{% for m in messages %}|{{ m.role }}|{{ m.content }}{{ eos_token }}{% endfor %}";
    const maker = createSampleMaker({ ...tokenizer, chatTemplates: new Map([["default", template]]) } as Tokenizer, options);
    const example = parse({ prompt: [user("hi")], chosen: [assistant("yes")], rejected: [assistant("no")] });
    expect(() => maker.samples(example)).toThrow(/d\.jsonl:7.*(differently|same)/);
  });

  test("a prompt that fills the sequence leaves nothing to learn: an error, cut or not", () => {
    for (const truncate of [false, true]) {
      const maker = createSampleMaker(loadTokenizer(folderOf("qwen")), { ...options, maxLength: 3, truncate });
      expect(() => maker.samples(parse(fixture.pairs[0]!))).toThrow("d.jsonl:7");
    }
  });
});

describe("objectives refuse what is not for them", () => {
  const tokenizer = loadTokenizer(folderOf("qwen"));
  const maker = createSampleMaker(tokenizer, options);
  const [nextToken, orpo] = (["next-token", "orpo"] as const).map((objective) =>
    makerFor(objectiveWith({ objective }), maker),
  ) as [typeof maker, typeof maker];

  test("by kind, with the place and the objective that it is for", () => {
    const pair = parse({ prompt: "p", chosen: " c", rejected: " r" });
    const others: Example[] = [{ text: "t" }, { prompt: "p", completion: " c" }, { messages: [user("u"), assistant("a")] }].map(
      (record) => parseExample(JSON.stringify(record), "d.jsonl:8"),
    );
    expect(() => nextToken.samples(pair)).toThrow(
      /^d\.jsonl:7: the objective next-token learns from .*"chosen".*--objective dpo or orpo or simpo or reward$/,
    );
    for (const other of others) {
      expect(() => orpo.samples(other)).toThrow(
        /^d\.jsonl:8: the objective orpo learns from .*; that is for --objective next-token( or mlm)? or distil$/,
      );
      expect(nextToken.samples(other).length).toBe(1);
    }
    expect(orpo.samples(pair).length).toBe(2);
  });

  test("the tokens of one are not taken for another's, and next-token's are kept under the names that they had", () => {
    expect(nextToken.key).toBe(maker.key);
    expect(orpo.key).not.toBe(maker.key);
  });
});

describe("pairs stay together", () => {
  const samples = preferenceSamples();
  /** The pairs of a micro-batch by their prompts and answers. */
  const textsOf = ({ ids, spans }: MicroBatch) =>
    spans.map((texts) => texts.map(({ from, to }) => ids.subarray(from, to).join()));
  const all = new Set(
    Array.from({ length: samples.count }, (_, i) => {
      const { ids, parts } = samples.sample(i);
      return `${ids.subarray(0, parts![0]).join()}|${ids.subarray(parts![0]).join()}`;
    }),
  );

  for (const packing of [true, false]) {
    test(`in batches, ${packing ? "packed" : "padded"}: each once an epoch, chosen first; texts see themselves alone and count their own positions`, () => {
      const batches = createBatches(samples, { rows: 2, rowLength: 48, packing, seed: 1, shuffle: true, padId: 0 });
      const seen: string[] = [];
      for (let index = 0; index < batches.count(0); index++) {
        const batch = batches.batch(0, index);
        seen.push(...textsOf(batch).map((texts) => texts.join("|")));
        expect(batch.examples).toBe(batch.spans.length);
        let labelled = 0;
        for (const { from, to } of batch.spans.flat()) {
          for (let t = from; t < to; t++) {
            expect(batch.starts[t]).toBe(from);
            expect(batch.positions[t]).toBe(t - from);
            if (batch.labels[t] === IGNORED) continue;
            labelled++;
            expect(batch.labels[t]).toBe(batch.ids[t + 1]!);
            expect(t).toBeLessThan(to - 1);
          }
        }
        expect(labelled).toBe(batch.labelled);
        expect(batch.labels.filter((label) => label !== IGNORED).length).toBe(labelled);
      }
      expect(seen.length).toBe(samples.count);
      expect(new Set(seen)).toEqual(all);
    });
  }

  test("in what is held out, with the labels of both", () => {
    const { train, valid } = splitHeldOut([samples], { count: 5 }, 3);
    expect([train[0]!.count, valid![0]!.count]).toEqual([11, 5]);
    expect(train[0]!.labelled + valid![0]!.labelled).toBe(samples.labelled);
    for (const set of [train[0]!, valid![0]!]) for (let i = 0; i < set.count; i++) expect(set.sample(i).parts!.length).toBe(2);
  });

  test("samples of different examples do not, and a first token of a second text is not counted as learned", () => {
    const store = createSampleStore((number) => `d:${number}`);
    const ids = Int32Array.of(5, 6, 7);
    for (const number of [1, 1, 2]) store.add({ ids, labels: ids, weights: null }, number);
    const grouped = groupSamples(store.finish());
    expect([grouped.count, grouped.labelled, ...grouped.lengths, ...grouped.numbers]).toEqual([2, 6, 6, 3, 1, 2]);
    const batch = createBatches(grouped, { rows: 1, rowLength: 9, packing: true, seed: 0, shuffle: false, padId: 0 }).batch(0, 0);
    expect([...batch.labels]).toEqual([6, 7, IGNORED, 6, 7, IGNORED, 6, 7, IGNORED]);
    expect(batch.labelled).toBe(6);
  });
});
