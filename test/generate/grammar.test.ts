import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { z } from "zod";
import { UserError } from "../../src/base/errors.ts";
import { createRandom } from "../../src/base/random.ts";
import { tokenBytesOf } from "../../src/data/tokens/token-bytes.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { createAutomaton, type State } from "../../src/generate/grammar/automaton.ts";
import { createConstraint } from "../../src/generate/grammar/constraint.ts";
import { sequence } from "../../src/generate/grammar/expression.ts";
import { createGrammar } from "../../src/generate/grammar/grammar.ts";
import { integersBetween } from "../../src/generate/grammar/integers.ts";
import { ANY_VALUE, SPACE } from "../../src/generate/grammar/json-text.ts";
import { expressionOf } from "../../src/generate/grammar/schema.ts";
import { createVocabulary, hasToken } from "../../src/generate/grammar/vocabulary.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";
import { createTextStream } from "../../src/generate/text-stream.ts";
import { SLOW } from "../support/slow.ts";
import { tokenizer, special, vocabulary, stop, bytesOf, reads, write, grammarOf } from "../support/grammar.ts";

setDefaultTimeout(120_000);

describe("JSON", () => {
  test("documents are read as JSON.stringify writes them, and what is read is JSON", () => {
    const expression = sequence(SPACE, ANY_VALUE);
    const { start, step } = createAutomaton(expression);
    const isRead = (bytes: Uint8Array) => {
      let state: State | null = start;
      for (const byte of bytes) if ((state = step(state, byte)) === null) return false;
      return state.isEnd;
    };
    let damaged = 0;
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), fc.constantFrom(undefined, 1, 2, 4, "\t"), fc.nat(), (value, indent, place) => {
        // Numbers of more digits than are written are others.
        const short = JSON.parse(JSON.stringify(value), (_, part: unknown) =>
          typeof part === "number" ? Number(part.toPrecision(9)) : part,
        ) as unknown;
        const written = Buffer.from(JSON.stringify(short, null, indent));
        if (!/e[+-]?\d{3}|\d{16}/.test(written.toString())) expect(isRead(written)).toBe(true);
        const other = Buffer.from(written);
        other[place % other.length] = 0x20 + ((place * 31) % 0x5f);
        if (!isRead(other)) return;
        damaged++;
        expect(Buffer.from(other.toString())).toEqual(other);
        JSON.parse(other.toString());
      }),
      { seed: 5, numRuns: SLOW ? 5000 : 600 },
    );
    expect(damaged).toBeGreaterThan(50);
  });

  test("what is no JSON, or more than a number or an indentation may be, is not read", () => {
    const long = "1".repeat(16);
    const bad = [
      "",
      "01",
      "1.",
      ".5",
      "+1",
      "1e",
      "-",
      long,
      "1e100",
      '"\t"',
      '"\\x"',
      '"\\ud800"',
      '"\\ud800\\u0041"',
      '"\\udc00"',
      "[1,]",
      "[,1]",
      '{"a"}',
      "{a:1}",
      '{"a":1,}',
      "nul",
      "[1 2]",
      `[\n${" ".repeat(33)}1]`,
      "[  1]",
    ];
    for (const text of bad) expect([text, reads(ANY_VALUE, text)]).toEqual([text, false]);
    for (const text of ["-0", "1e99", '"\\ud83d\\ude00"', '"\\u00e9"', "[1, 2]", '{"a": {"b": []}}', `[\n${" ".repeat(32)}1\n]`])
      expect([text, reads(ANY_VALUE, text)]).toEqual([text, true]);
  });

  test("bytes that are no UTF-8 are never within a string", () => {
    const { start, step } = createAutomaton(ANY_VALUE);
    const decoder = new TextDecoder("utf-8", { fatal: true });
    const random = createRandom(7, "utf-8");
    let accepted = 0;
    for (let run = 0; run < 30_000; run++) {
      const inside = Buffer.from(
        [0xc0 + random.below(0x38), 0x80 + random.below(0x40), 0x78 + random.below(0x48), 0x78 + random.below(0x48)].slice(
          0,
          2 + random.below(3),
        ),
      );
      const bytes = Buffer.concat([Buffer.from('"'), inside, Buffer.from('"')]);
      let state: State | null = start;
      for (const byte of bytes) if (state) state = step(state, byte);
      let isValid = true;
      try {
        decoder.decode(inside);
      } catch {
        isValid = false;
      }
      expect(state?.isEnd ?? false).toBe(isValid);
      if (isValid) accepted++;
    }
    expect(accepted).toBeGreaterThan(500);
  });
});

test("integers between bounds, and no others", () => {
  const random = createRandom(2, "integers");
  for (let run = 0; run < 60; run++) {
    const [a, b] = [random.below(2400) - 1200, random.below(2400) - 1200];
    const [least, most] = [Math.min(a, b), Math.max(a, b)];
    const { start, step } = createAutomaton(integersBetween(least, most));
    for (let value = -1250; value <= 1250; value++) {
      let state: State | null = start;
      for (const byte of Buffer.from(String(value))) if (state) state = step(state, byte);
      if ((state?.isEnd ?? false) !== (value >= least && value <= most)) throw new Error(`${value} of ${least}..${most}`);
    }
  }
});

test("decimal numbers between bounds, and no others", () => {
  const random = createRandom(8, "numbers");
  const draw = (places: number, most: number) => (random.below(2 * most + 1) - most) / 10 ** places;
  let inside = 0;
  for (let run = 0; run < 300; run++) {
    const bound = () => draw(random.below(4), [9, 40, 2500][random.below(3)]!);
    const [a, b] = [bound(), bound()];
    const schema: Record<string, unknown> = { type: "number" };
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    const [isAbove, isBelow] = [random.below(3) === 0, random.below(3) === 0];
    if (random.below(5) > 0) schema[isAbove ? "exclusiveMinimum" : "minimum"] = low;
    if (random.below(5) > 0) schema[isBelow ? "exclusiveMaximum" : "maximum"] = high;
    if (Object.keys(schema).length === 1 || (low === high && (isAbove || isBelow))) continue;
    const { start, step } = createAutomaton(expressionOf(schema, "schema"));
    for (let i = 0; i < 200; i++) {
      const value = random.below(4) === 0 ? [low, high][random.below(2)]! + draw(3, 2) : draw(random.below(4), 3000);
      const written = random.below(2) === 0 ? value.toFixed(3) : String(Number(value.toFixed(3)));
      if (/^-0(?:\.0+)?$/.test(written)) continue;
      let state: State | null = start;
      for (const byte of Buffer.from(written)) if (state) state = step(state, byte);
      const number = Number(written);
      const isFine =
        !("minimum" in schema && number < low) &&
        !("exclusiveMinimum" in schema && number <= low) &&
        !("maximum" in schema && number > high) &&
        !("exclusiveMaximum" in schema && number >= high);
      if ((state?.isEnd ?? false) !== isFine) throw new Error(`${written} by ${JSON.stringify(schema)}`);
      if (isFine) inside++;
    }
  }
  expect(inside).toBeGreaterThan(2000);
});

describe("patterns", () => {
  test("what is written by one is matched by every engine's reading of it", () => {
    const patterns = [
      "^[a-z]{2,4}-\\d+$",
      "(?:ab|c)*d?",
      'a"b\\\\c',
      "^(\\w+)\\s(\\S+)$",
      "[^a-f,]{3}.{2}",
      "^x|y$",
      "[\\w.-]+@[\\w-]+\\.(?:com|org)",
      "\\x41\\u0042é[ßa]{2}",
      "[\\]\\\\^-]+?",
      "\\D\\W[^\\d\\s]",
      "\\/\\{2\\}{2}",
    ];
    for (const [at, pattern] of patterns.entries()) {
      const grammar = grammarOf({ type: "string", pattern });
      for (let seed = 0; seed < 6; seed++) {
        const { text, ended } = write(grammar, {
          seed: 10 * at + seed,
          limit: grammar.automaton.start.least + 20,
          temperature: 1,
        });
        expect(ended).toBe(true);
        const string = JSON.parse(text) as string;
        const whole = new RegExp(`^(?:${pattern})$`);
        if (!whole.test(string)) throw new Error(`${pattern}: ${text}`);
      }
    }
  });

  test("of what a pattern says exactly, nothing is missing", () => {
    const random = createRandom(3, "patterns");
    for (const pattern of ["^[ab]{1,3}(?:ba|c)?$", "(a|ab)(c|bcd)*", "[a-c]+b{2}|a?c*"]) {
      const expression = expressionOf({ type: "string", pattern }, "schema");
      const whole = new RegExp(`^(?:${pattern})$`);
      for (let run = 0; run < 2000; run++) {
        const text = Array.from({ length: random.below(7) }, () => "abcd"[random.below(4)]!).join("");
        if (reads(expression, JSON.stringify(text)) !== whole.test(text)) throw new Error(`${text} by ${pattern}`);
      }
    }
  });

  test("what cannot be followed is refused by its place in the pattern", () => {
    for (const [pattern, words] of [
      ["a(?=b)", '"(?=" at character 3'],
      ["(?<name>a)", '"(?<" at character 2'],
      ["(a)\\1", '"\\1" at character'],
      ["\\bword", '"\\b" at character'],
      ["\\p{L}", '"\\p" at character'],
      ["(a?)*", "a repetition of what may be empty"],
      ["a{3,2}", "from more to fewer"],
      ["(?:a{1,1000}){1,1000}", "a repetition of so many"],
      ["[b-a]", "a range"],
      ["[а-я]", "a range beyond ASCII"],
      ["(a", "a group without an end"],
      ["[a", "a class without an end"],
      ["a)", '")" at character 2'],
      ["*a", '"*" at character 1'],
      ["a^", '"^" at character 2'],
      ["\\u0000", "the character U+0000"],
      ["[]", "an empty class"],
    ] as const)
      expect(() => expressionOf({ type: "string", pattern }, "schema")).toThrow(words);
  });

  test("forms are written so that zod finds them right", () => {
    for (const format of ["date", "date-time", "duration", "email", "ipv4", "ipv6", "uri", "uuid", "time"]) {
      const grammar = grammarOf({ type: "string", format });
      for (let seed = 0; seed < 4; seed++) {
        const { text } = write(grammar, { seed, limit: grammar.automaton.start.least + 15, temperature: 1 });
        const string = JSON.parse(text) as string;
        if (format === "time") expect(Number.isNaN(Date.parse(`2026-01-01T${string}`))).toBe(false);
        else expect([string, z.fromJSONSchema({ type: "string", format }).safeParse(string).success]).toEqual([string, true]);
      }
    }
  });
});

test("the tokens that are allowed are those that the automaton reads, in every state on the way", () => {
  const schema = {
    type: "object",
    required: ["name", "tags", "at"],
    properties: {
      name: { type: "string", maxLength: 12 },
      text: { type: ["string", "null"] },
      tags: { type: "array", items: { enum: ["a", "ab", "ä", 5, null] }, maxItems: 3 },
      at: { anyOf: [{ type: "string", format: "date-time" }, { type: "number" }, {}] },
    },
  };
  const grammar = grammarOf(schema);
  let sets = 0;
  for (let seed = 0; seed < 4; seed++) {
    const { text } = write(grammar, { seed, limit: 80 });
    let state: State | null = grammar.automaton.start;
    for (const byte of Buffer.from(text)) {
      const set = grammar.allowed(state!);
      for (let id = 0; id < tokenizer.size; id++) {
        const expected = !special.has(id) && vocabulary.bytes.of(id).length > 0 && grammar.behind(state!, id) !== null;
        if (hasToken(set, id) !== expected) throw new Error(`token ${id} behind ${text}`);
      }
      state = grammar.automaton.step(state!, byte);
      sets++;
    }
  }
  expect(sets).toBeGreaterThan(200);
});

describe("reasoning", () => {
  const [open, close] = [...vocabulary.others.tokens.subarray(0, 2)] as [number, number];
  const grammar = grammarOf({ type: "object", properties: { a: { type: "integer" } }, required: ["a"] });
  const write = (reasoning: { open: number | null; close: number }, limit: number, favourite: number, seed = 1) => {
    const constraint = createConstraint({ grammar, stop, limit, reasoning });
    const sampler = createSampler({ ...GREEDY, temperature: 1, seed }, [], constraint);
    const random = createRandom(seed, "reasoning");
    const ids: number[] = [];
    for (let count = 0; count < limit; count++) {
      const logits = Float32Array.from({ length: tokenizer.size }, () => 9 * random.uniform());
      logits[favourite]! += count === 0 ? 30 : 0;
      logits[tokenizer.eosId!]! += 9;
      const id = sampler(logits, ids);
      if (stop.has(id)) return ids;
      ids.push(id);
    }
    throw new Error("it does not end");
  };
  const documentOf = (ids: readonly number[]) => (JSON.parse(bytesOf(ids).toString()) as { a: number }).a;

  test("is free up to its end, which comes in time; what follows is of the grammar", () => {
    for (const limit of [12, 60]) {
      const thought = write({ open, close }, limit, open);
      expect(thought[0]).toBe(open);
      const end = thought.indexOf(close);
      expect(end).toBeGreaterThan(0);
      expect(documentOf(thought.slice(end + 1))).toBeInteger();
      const inside = write({ open: null, close }, limit, open);
      expect(documentOf(inside.slice(inside.indexOf(close) + 1))).toBeInteger();
    }
  });

  test("need not come, and does not where there is no room for it", () => {
    expect(documentOf(write({ open, close }, 60, tokenizer.encode("{")[0]!))).toBeInteger();
    const { least } = grammar.automaton.start;
    expect(documentOf(write({ open, close }, least + 2, open))).toBeInteger();
    expect(write({ open, close }, least + 3, open).slice(0, 2)).toEqual([open, close]);
  });
});

test("texts of tokens that are pieces of SentencePiece or of other bytes are of the grammar too, as they are streamed", () => {
  const schema = {
    type: "object",
    properties: { city: { type: "string" }, size: { type: "number" } },
    required: ["city", "size"],
  };
  for (const name of ["gemma3", "internlm3", "llama3"]) {
    const other = loadTokenizer(join(import.meta.dir, "../golden/tokenizers", name));
    const ends = new Set([other.eosId!]);
    const own = createVocabulary(tokenBytesOf(other)!, new Set(other.specialTokens.values()));
    expect(own.hasBytes).toBe(true);
    const grammar = createGrammar(sequence(SPACE, expressionOf(schema, "schema")), own);
    for (let seed = 0; seed < 3; seed++) {
      const constraint = createConstraint({ grammar, stop: ends, limit: 80, reasoning: null });
      const sampler = createSampler({ ...GREEDY, temperature: 1, seed }, [], constraint);
      const random = createRandom(seed, name);
      const stream = createTextStream(other);
      let text = "";
      for (const ids: number[] = []; ;) {
        const id = sampler(
          Float32Array.from({ length: other.size }, () => 9 * random.uniform()),
          ids,
        );
        if (ends.has(id)) break;
        ids.push(id);
        text += stream.push(id);
      }
      text += stream.end();
      expect(Object.keys(JSON.parse(text) as object)).toEqual(["city", "size"]);
    }
  }
});

test("without room for the shortest text what comes is the beginning of one; without a token that ends texts it ends with the last", () => {
  const grammar = grammarOf({ type: "object", properties: { long: { type: "integer" } }, required: ["long"] });
  const { text, ended } = write(grammar, { limit: 4 });
  expect(ended).toBe(false);
  let state: State | null = grammar.automaton.start;
  for (const byte of Buffer.from(text)) state = grammar.automaton.step(state!, byte);
  expect(state).not.toBeNull();
  const constraint = createConstraint({ grammar: grammarOf({ const: [1] }), stop: new Set(), limit: 20, reasoning: null });
  const sampler = createSampler(GREEDY, [], constraint);
  const ids: number[] = [];
  for (let id = 0; id >= 0;) if ((id = sampler(new Float32Array(tokenizer.size), ids)) >= 0) ids.push(id);
  expect(bytesOf(ids).toString()).toBe("[1]");
});

test("an automaton that has made many states is replaced under an answer that goes on", () => {
  const grammar = grammarOf({ type: "array", items: { type: "string", maxLength: 500 } });
  const first = grammar.automaton;
  for (let seed = 0; grammar.automaton === first; seed++) write(grammar, { seed, limit: 600, temperature: 1 });
  expect(first.states).toBeGreaterThan(4096);
});

test("what may be read in too many ways is refused as soon as it is", () => {
  const many = { anyOf: Array.from({ length: 90 }, () => ({ pattern: "(?:a{1,30}){1,30}" })) };
  const { start, step } = createAutomaton(expressionOf(many, "schema"));
  expect(() => [...Buffer.from(`"${"a".repeat(60)}`)].reduce((state: State, byte) => step(state, byte)!, start)).toThrow(
    UserError,
  );
});
