import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createUnusedCounter, type MappingFlags } from "../../src/data/examples/columns.ts";
import { type ChatExample, type Example, exampleOf, readMapping } from "../../src/data/examples/formats.ts";
import { loadSamples } from "../../src/data/samples/prepare.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { filesIn, temporaryFolder, userError } from "../hf/temp.ts";

const unusedOf = (record: Record<string, unknown>, flags: MappingFlags = {}) => {
  const unused: string[] = [];
  const example = exampleOf(record, "d.csv:7", { mapping: readMapping(flags), unused: (column) => unused.push(column) });
  return { example, unused };
};

/** `role: content`, a star where the message is trained on. */
function brief(example: Example): string[] {
  return (example as ChatExample).messages.map(
    ({ role, weight, fields }) => `${role}${weight > 0 ? "*" : ""}: ${fields["content"] as string}`,
  );
}

describe("--columns and --roles", () => {
  test("columns of other names, also swapped ones; columns that are left out", () => {
    const { example, unused } = unusedOf(
      { question: "q", reply: "r", notes: "n", id: 5 },
      { columns: ["prompt=question", "completion=reply", "ignore=notes"] },
    );
    expect(example).toEqual({ kind: "completion", prompt: "q", completion: "r", where: "d.csv:7" });
    expect(unused).toEqual(["notes", "id"]);
    expect(
      unusedOf({ prompt: "a", completion: "b" }, { columns: ["prompt=completion", "completion=prompt"] }).example,
    ).toMatchObject({
      prompt: "b",
      completion: "a",
    });
  });

  test("keys of messages and roles", () => {
    const flags = { columns: ["messages=dialogue", "role=speaker", "content=said"], roles: ["customer=user", "agent=assistant"] };
    const dialogue = [
      { speaker: "customer", said: "q" },
      { speaker: "agent", said: "a" },
    ];
    expect(brief(unusedOf({ dialogue }, flags).example)).toEqual(["user: q", "assistant*: a"]);
    const conversations = [
      { from: "customer", value: "q" },
      { from: "gpt", value: "a" },
    ];
    expect(brief(unusedOf({ conversations }, flags).example)).toEqual(["user: q", "assistant*: a"]);
    expect(userError(() => unusedOf({ conversations }))).toContain('"from" is "customer", expected one of system, human');
    expect(userError(() => unusedOf({ conversations }))).toEndWith("; --roles customer=user says whose it is");
  });

  test.each<[MappingFlags, string]>([
    [{ columns: ["question=prompt2"] }, ""],
    [{ columns: ["frage=prompt"] }, '--columns frage=prompt: "frage" is no name of a column here; did you mean prompt=frage?'],
    [
      { columns: ["frage=antwort"] },
      '--columns frage=antwort: "frage" is no name of a column here; expected ignore or one of chosen, rejected',
    ],
    [{ columns: ["prompt"] }, "--columns prompt: expected NAME=NAME, such as prompt=question"],
    [{ columns: ["prompt="] }, "--columns prompt=: expected NAME=NAME"],
    [{ columns: ["prompt=a", "prompt=b"] }, '--columns: prompt is given twice, as "a" and "b"'],
    [
      { roles: ["user=customer"] },
      '--roles user=customer: "customer" is no role here; expected one of system, user, assistant, tool; did you mean customer=user?',
    ],
    [{ roles: ["a=user", "a=tool"] }, "--roles: a is given twice"],
  ])("%j", (flags, message) => {
    if (message === "") expect(readMapping(flags).columns.get("question")).toBe("prompt2");
    else expect(userError(() => readMapping(flags))).toStartWith(message);
  });

  test("a name that is there already, and keys that no format has, name --columns", () => {
    expect(userError(() => unusedOf({ prompt: "p", question: "q", completion: "c" }, { columns: ["prompt=question"] }))).toBe(
      'd.csv:7: --columns makes "question" the column "prompt", which is there too; add ignore=prompt, or take the mapping away',
    );
    expect(userError(() => unusedOf({ text: "a", summary: "b" }))).toBe(
      'd.csv:7: unknown key "summary" beside "text"; remove it, or leave it out with --columns ignore=summary (known there: "text"; --columns NAME=summary makes it one of them)',
    );
    expect(userError(() => unusedOf({ frage: "a", antwort: "b" }))).toEndWith(
      'got the keys ["frage","antwort"]; --columns says what other names are, such as --columns prompt=question,completion=reply',
    );
    expect(userError(() => unusedOf({ messages: [{ speaker: "a", said: "b" }] }))).toEndWith(
      'message 1: "role" must be a text, got nothing; the keys are ["speaker","said"]: --columns role=KEY,content=KEY says which',
    );
  });
});

describe("formats of the field", () => {
  test("Alpaca's own four columns, question and answer, columns without a value", () => {
    const alpaca = { instruction: "do", input: "", output: "done", text: "### do done" };
    expect(unusedOf(alpaca).unused).toEqual(["text"]);
    expect(brief(unusedOf(alpaca).example)).toEqual(["user: do", "assistant*: done"]);
    expect(brief(unusedOf({ question: "q", answer: "a", system: null }).example)).toEqual(["user: q", "assistant*: a"]);
    expect(unusedOf({ messages: null, prompt: "p", completion: "c", summary: null }).example).toMatchObject({ prompt: "p" });
  });

  test("calls: ShareGPT's function_call, OpenAI's older function_call and role function", () => {
    const conversations = [
      { from: "human", value: "q" },
      { from: "function_call", value: '{"name": "f", "arguments": {"a": 1}}' },
      { from: "observation", value: "r" },
      { from: "gpt", value: "a" },
    ];
    const { messages } = unusedOf({ conversations }).example as ChatExample;
    const call = { type: "function", function: { name: "f", arguments: { a: 1 } } };
    expect(messages[1]).toEqual({ role: "assistant", weight: 1, fields: { role: "assistant", content: "", tool_calls: [call] } });
    expect(messages[2]).toMatchObject({ role: "tool", weight: 0 });
    const older = [
      { role: "user", content: "q" },
      { role: "assistant", content: null, function_call: { name: "f", arguments: "{}" } },
      { role: "function", name: "f", content: "r" },
    ];
    expect((unusedOf({ messages: older }).example as ChatExample).messages.slice(1)).toEqual([
      {
        role: "assistant",
        weight: 1,
        fields: { role: "assistant", tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] },
      },
      { role: "tool", weight: 0, fields: { role: "tool", name: "f", content: "r" } },
    ]);
    for (const value of ["no call", "[]", "[5]", '{"arguments": {}}']) {
      expect(userError(() => unusedOf({ conversations: [conversations[0], { from: "function_call", value }] }))).toStartWith(
        "d.csv:7, conversations entry 2",
      );
    }
    const both = { role: "assistant", function_call: { name: "f" }, tool_calls: [] };
    expect(userError(() => unusedOf({ messages: [both] }))).toContain('"function_call" and "tool_calls" say the same');
  });

  test("messages under conversations, and ShareGPT's turns under messages", () => {
    const messages = [
      { role: "user", content: "q" },
      { role: "assistant", content: "a" },
    ];
    const turns = [
      { from: "human", value: "q" },
      { from: "gpt", value: "a" },
    ];
    for (const record of [{ conversations: messages }, { messages: turns }, { messages: JSON.stringify(turns) }])
      expect(brief(unusedOf(record).example)).toEqual(["user: q", "assistant*: a"]);
  });
});

describe("columns that are not used", () => {
  test("one note about a file, with counts", () => {
    const counter = createUnusedCounter();
    expect(counter.note("a.csv")).toBeNull();
    for (const column of ["id", "source", "id"]) counter.count(column);
    expect(counter.note("a.csv")).toBe('a.csv: the columns "id", "source" (1) are not used (2 examples)');
  });

  test("are told once for a file; the cache knows how columns are mapped", async () => {
    const folder = temporaryFolder();
    const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
    const maker = createSampleMaker(tokenizer, { maxLength: 64, vocabSize: tokenizer.size });
    const path = join(folder, "a.csv");
    writeFileSync(path, "id,a,b\n1,x,yy\n2,x,zz\n");
    const cache = join(folder, "cache");
    const load = async (columns: string[]) => {
      const notes: string[] = [];
      const set = await loadSamples(path, maker, {
        cache,
        mapping: readMapping({ columns }),
        onNote: (note) => notes.push(note),
      });
      return { set, notes };
    };
    const cached = () => filesIn(cache).filter((name) => name.endsWith(".tokens"));
    const first = await load(["prompt=a", "completion=b"]);
    expect(first.notes).toEqual([`${path}: the column "id" is not used (2 examples)`]);
    expect(first.set.count).toBe(2);
    // From the cache, which knows the columns too.
    const again = await load(["completion=b", "prompt=a"]);
    expect([again.set.content, again.notes]).toEqual([first.set.content, first.notes]);
    expect(cached()).toHaveLength(1);
    const other = await load(["prompt=b", "completion=a"]);
    expect(other.set.content).not.toBe(first.set.content);
    expect(other.set.sample(0).ids).not.toEqual(first.set.sample(0).ids);
    expect(cached()).toHaveLength(2);
    // The same bytes with another ending are another table.
    const both = await Promise.all(
      ["b.csv", "b.tsv"].map((name) => {
        writeFileSync(join(folder, name), "text\nq,r\n");
        return loadSamples(join(folder, name), maker, { cache }).catch((error: unknown) => String(error));
      }),
    );
    expect(both[0]).toContain("b.csv:2: the row has 2 cells");
    expect(both[1]).toMatchObject({ count: 1 });
    expect(first.set.sample(0).where).toBe(`${path}:2`);
  });
});
