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
import { type Expression, sequence } from "../../src/generate/grammar/expression.ts";
import { createGrammar, type Grammar } from "../../src/generate/grammar/grammar.ts";
import { integersBetween } from "../../src/generate/grammar/integers.ts";
import { ANY_VALUE, SPACE } from "../../src/generate/grammar/json-text.ts";
import { expressionOf, SchemaError } from "../../src/generate/grammar/schema.ts";
import { createVocabulary, hasToken } from "../../src/generate/grammar/vocabulary.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";
import { createTextStream } from "../../src/generate/text-stream.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const tokenizer = loadTokenizer(join(import.meta.dir, "../../recipes/base/model"));
const special = new Set(tokenizer.specialTokens.values());
const vocabulary = createVocabulary(tokenBytesOf(tokenizer)!, special);
const stop = new Set([tokenizer.eosId!]);
const bytesOf = (ids: readonly number[]) => Buffer.concat(ids.map((id) => vocabulary.bytes.of(id)));

/** Tells whether a text is one of an expression's. */
function reads(expression: Expression, text: string): boolean {
  const { start, step } = createAutomaton(expression);
  let state: State | null = start;
  for (const byte of Buffer.from(text)) if ((state = step(state, byte)) === null) return false;
  return state.isEnd;
}

/** A text of a grammar by a model whose logits are drawn anew for each token. */
function write(grammar: Grammar, { seed = 1, limit = 300, temperature = 0.7, spread = 20 }): { text: string; ended: boolean } {
  const random = createRandom(seed, "model");
  const constraint = createConstraint({ grammar, stop, limit, reasoning: null });
  const sampler = createSampler({ ...GREEDY, temperature, seed }, [], constraint);
  const ids: number[] = [];
  for (let count = 0; count < limit; count++) {
    const logits = Float32Array.from({ length: tokenizer.size }, () => spread * random.uniform());
    const id = sampler(logits, ids);
    if (stop.has(id)) return { text: bytesOf(ids).toString(), ended: true };
    ids.push(id);
  }
  return { text: bytesOf(ids).toString(), ended: false };
}

const grammarOf = (schema: unknown) => createGrammar(expressionOf(schema, "schema"), vocabulary);

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

/** Schemas of all sorts, some of which no document fits. */
const schemas = fc.letrec<{ schema: object; leaf: object; object: object; array: object }>((tie) => ({
  leaf: fc.oneof(
    fc.record(
      { type: fc.constant("string"), minLength: fc.nat(3), maxLength: fc.integer({ min: 3, max: 9 }) },
      { requiredKeys: ["type"] },
    ),
    fc.record(
      { type: fc.constant("integer"), minimum: fc.integer({ min: -2000, max: 10 }), maximum: fc.integer({ min: 11, max: 9000 }) },
      { requiredKeys: ["type"] },
    ),
    fc.record({
      enum: fc.array(fc.oneof(fc.string({ maxLength: 5 }), fc.integer(), fc.boolean(), fc.constant(null)), {
        minLength: 1,
        maxLength: 5,
      }),
    }),
    fc.record({
      const: fc.oneof(fc.string({ unit: "binary", maxLength: 5 }), fc.double({ noNaN: true, noDefaultInfinity: true })),
    }),
    fc.record({ type: fc.constantFrom("number", "boolean", "null", ["string", "null"], ["integer", "boolean"]) }),
    fc.record({ type: fc.constant("string"), format: fc.constantFrom("date", "date-time", "uuid") }),
    fc.record({ type: fc.constant("number"), minimum: fc.constant(0) }),
  ),
  object: fc
    .array(
      fc.tuple(fc.string({ unit: fc.constantFrom("a", "b", '"', "é"), minLength: 1, maxLength: 3 }), tie("schema"), fc.boolean()),
      { maxLength: 4 },
    )
    .map((members) => ({
      type: "object",
      properties: Object.fromEntries(members),
      required: [...new Set(members.filter(([, , isRequired]) => isRequired).map(([name]) => name))],
      additionalProperties: false,
    })),
  array: fc.record(
    { type: fc.constant("array"), items: tie("schema"), minItems: fc.nat(2), maxItems: fc.integer({ min: 2, max: 3 }) },
    { requiredKeys: ["type", "items"] },
  ),
  schema: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    tie("leaf"),
    tie("object"),
    tie("array"),
    fc.array(tie("schema"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
  ),
}));

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

describe("schemas", () => {
  test("whatever a random model writes by a random schema is valid and ends, greedy and sampled, however little room there is", () => {
    let seed = 0;
    fc.assert(
      fc.property(schemas.schema, fc.nat(120), (schema, room) => {
        const grammar = grammarOf(schema);
        const valid = z.fromJSONSchema(schema as never);
        for (const temperature of [0, 1]) {
          const limit = grammar.automaton.start.least + 1 + room;
          const { text, ended } = write(grammar, { seed: seed++, limit, temperature });
          expect(ended).toBe(true);
          const result = valid.safeParse(JSON.parse(text));
          if (!result.success) throw new Error(`${JSON.stringify(schema)}: ${text}: ${result.error.message}`);
        }
      }),
      { seed: 11, numRuns: SLOW ? 600 : 80 },
    );
  });

  test("schemas that contain themselves end", () => {
    const tree = {
      $ref: "#/$defs/node",
      $defs: {
        node: {
          type: "object",
          properties: { value: { type: "integer" }, children: { type: "array", items: { $ref: "#/$defs/node" } } },
          required: ["value", "children"],
          additionalProperties: false,
        },
      },
    };
    const list = {
      type: "object",
      properties: { next: { anyOf: [{ $ref: "#" }, { type: "null" }] } },
      required: ["next"],
      additionalProperties: false,
    };
    interface Node {
      value: number;
      children: Node[];
    }
    const isTree = (node: Node): boolean =>
      Number.isInteger(node.value) && Object.keys(node).length === 2 && node.children.every(isTree);
    for (let seed = 0; seed < 10; seed++) {
      for (const limit of [40, 300]) {
        const { text, ended } = write(grammarOf(tree), { seed, limit, temperature: seed % 2 });
        expect(ended).toBe(true);
        expect(isTree(JSON.parse(text) as Node)).toBe(true);
        expect(write(grammarOf(list), { seed, limit }).ended).toBe(true);
      }
    }
  });

  test("properties come in the schema's order; those that are not required may be missing; none are added", () => {
    const schema = {
      type: "object",
      properties: { a: { type: "null" }, b: { type: "null" }, c: { type: "null" } },
      required: ["b"],
    };
    const expression = expressionOf(schema, "schema");
    for (const text of ['{"b":null}', '{"a":null,"b":null}', '{"b": null, "c": null}', '{"a":null,"b":null,"c":null}'])
      expect(reads(expression, text)).toBe(true);
    for (const text of ["{}", '{"a":null}', '{"b":null,"a":null}', '{"b":null,"b":null}', '{"b":null,"d":null}', '{,"b":null}'])
      expect(reads(expression, text)).toBe(false);
    expect(reads(expressionOf({ type: "object" }, "schema"), '{"x": [1, {"y": null}]}')).toBe(true);
    expect(reads(expressionOf({ type: "object", additionalProperties: false }, "schema"), '{"x": 1}')).toBe(false);
  });

  test("what cannot be followed is refused by its place", () => {
    const cases: [unknown, string][] = [
      [3, "schema: expected a schema, got 3"],
      [
        { type: "object", properties: { a: { type: "string", pattern: "^a(?!b)$" } } },
        'schema.properties.a.pattern: "(?!" at character 4 cannot be followed',
      ],
      [{ type: "string", pattern: "a", maxLength: 3 }, "schema.maxLength: it is not supported beside pattern"],
      [{ type: "string", format: "date", minLength: 3 }, "schema.minLength: it is not supported beside format"],
      [{ type: "array", items: { type: "number", multipleOf: 2 } }, "schema.items.multipleOf: it is not supported"],
      [{ anyOf: [{ type: "string" }, { type: "float" }] }, "schema.anyOf[1].type: expected one of object"],
      [{ oneOf: [{ type: "string" }] }, "schema.oneOf: it is not supported"],
      [{ allOf: [] }, "schema.allOf: it is not supported"],
      [{ anyOf: [] }, "schema.anyOf: expected a list"],
      [{ anyOf: [{}], minLength: 3 }, "schema.minLength: it is not supported beside anyOf"],
      [{ type: "object", additionalProperties: { type: "string" } }, "schema.additionalProperties: only false"],
      [{ type: "object", properties: {}, required: ["a"] }, 'schema.required: "a" is none'],
      [{ type: "object", patternProperties: {} }, "schema.patternProperties: it is not supported"],
      [{ $ref: "#/$defs/x" }, "schema.$ref: there is no #/$defs/x"],
      [{ $ref: "https://example.org/x" }, "schema.$ref: expected a place"],
      [{ $ref: "#" }, "schema.$ref: it refers to itself"],
      [
        { $ref: "#/$defs/a", $defs: { a: { anyOf: [{ $ref: "#/$defs/b" }] }, b: { $ref: "#/$defs/a" } } },
        "schema.$defs.b.$ref: it refers to itself",
      ],
      [{ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }, "schema: no document fits"],
      [{ type: "string", enum: [1] }, "schema.enum: no value is of the type"],
      [{ type: "string", minLength: 3, maxLength: 2 }, "schema.minLength: it is greater than maxLength"],
      [{ type: "array", minItems: 1.5 }, "schema.minItems: expected a whole number"],
      [{ type: "integer", minimum: 3.2, maximum: 3.9 }, "schema: no integer"],
      [{ type: "number", maximum: 3, minimum: 4 }, "schema: no number"],
      [{ type: "number", minimum: 0.1234567 }, "schema.minimum: bounds of more than 6 decimal places"],
      [{ type: "string", format: "color" }, "schema.format: only date, time, date-time"],
      [
        { type: "object", properties: Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`p${i}`, {}])) },
        "schema: the schema has more than 1000 properties",
      ],
      [{ enum: ["x".repeat(200_000)] }, "schema: the schema has more than 131072 bytes"],
      [{ anyOf: Array.from({ length: 5001 }, () => ({})) }, "schema.anyOf[4999]: the schema has more than 5000 schemas"],
      [
        { anyOf: Array.from({ length: 101 }, () => ({ pattern: "a" })) },
        "schema.anyOf[100]: the schema has more than 100 patterns",
      ],
    ];
    for (const [schema, message] of cases) {
      let error: unknown = null;
      try {
        expressionOf(schema, "schema");
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(SchemaError);
      expect((error as SchemaError).message).toStartWith(message);
    }
  });
});
