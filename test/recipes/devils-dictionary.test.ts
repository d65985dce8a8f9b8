import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isHeldOut, MAX_LENGTH, parseEntry, readDictionary } from "../../recipes/devils-dictionary/make.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../../recipes/devils-dictionary");

interface Example {
  messages: { role: string; content: string }[];
}

function examplesOf(file: string): Example[] {
  const lines = readFileSync(join(folder, file), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as Example);
}

describe("entries of the dictionary", () => {
  test("the index's base-64 numbers select entries, each once, in the order of the text", () => {
    const text = "preface\nABLE, adj.  Fit.\nBABE or BABY, n.  Small.\n";
    // 8 = I, 17 = R, 25 = Z
    const index = "00databaseinfo\tA\tH\nable\tI\tR\nbabe\tZ\tZ\nbaby\tZ\tZ\n";
    expect(readDictionary(text, index)).toEqual(["ABLE, adj.  Fit.\n", "BABE or BABY, n.  Small.\n"]);
  });

  test.each([
    ["BORE, n.  A person who talks when\nyou wish him to listen.", "bore", "n. A person who talks when you wish him to listen."],
    ["BRUTE, n.  See {HUSBAND}.", "brute", "n. See husband."],
    ["TZETZE (or TSETSE) FLY, n.  An insect (_Glossina_).", "tzetze fly", "n. An insect (Glossina)."],
    ["CONFIDANT, CONFIDANTE, n.  One entrusted.", "confidant", "n. One entrusted."],
    ["BABE or BABY, n.  A misshapen creature.", "babe", "n. A misshapen creature."],
    ["LL.D.  Letters indicating a degree.", "LL.D.", "Letters indicating a degree."],
    ["CUI BONO?  [Latin]  What good?", "cui bono", "[Latin] What good?"],
    ["J is a consonant in English.", "J", "J is a consonant in English."],
    ["WALL STREET, n.  A symbol of sin.", "Wall Street", "n. A symbol of sin."],
    ["IMPOSTOR n.  A rival aspirant.", "impostor", "n. A rival aspirant."],
  ])("%j", (raw, headword, definition) => {
    expect(parseEntry(raw)).toEqual({ headword, definition });
  });

  test("verses keep their lines and their source, paragraphs are separated", () => {
    const raw = `AGE, n.  That period.
    A second paragraph
of prose.

    Old men may
        Be gay.
                                          G.J.`;
    expect(parseEntry(raw).definition).toBe("n. That period.\n\nA second paragraph of prose.\n\nOld men may\nBe gay.\n-- G.J.");
  });

  test("a long definition ends at a sentence within the limit", () => {
    const { definition } = parseEntry(`LONG, adj.  ${"Twenty characters ok. ".repeat(60)}`);
    expect(definition.length).toBeLessThanOrEqual(MAX_LENGTH);
    expect(definition.length).toBeGreaterThan(MAX_LENGTH - 22);
    expect(definition).toEndWith("ok.");
  });
});

describe("the data set", () => {
  const train = examplesOf("train.jsonl");
  const valid = examplesOf("valid.jsonl");

  test("has about a tenth held out, by headword", () => {
    expect(train.length + valid.length).toBe(999);
    expect(valid.length).toBeWithin(80, 125);
    const questions = new Set(train.map((example) => example.messages[0]!.content));
    expect(valid.filter((example) => questions.has(example.messages[0]!.content))).toEqual([]);
    for (const example of valid) {
      const headword = example.messages[0]!.content.replace("Define ", "");
      expect(isHeldOut(headword) || isHeldOut(headword.slice(0, -1))).toBeTrue();
    }
  });

  test("every example is a question and a complete answer in plain ASCII", () => {
    for (const { messages } of [...train, ...valid]) {
      expect(messages.map((message) => message.role)).toEqual(["user", "assistant"]);
      expect(messages[0]!.content).toMatch(/^Define [A-Za-z][A-Za-z.' -]*\.$/);
      expect(messages[1]!.content).toMatch(/^[\x20-\x7e\n]{8,850}$/);
      expect(messages[1]!.content).toMatch(/[.!?]["')\]]*(\n-- .*)?$/);
      expect(messages[1]!.content).not.toMatch(/[_{}]| {2}|\n /);
    }
  });
});
