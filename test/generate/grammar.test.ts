import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import fc from "fast-check";
import { z } from "zod";
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
        { type: "object", properties: { a: { type: "string", pattern: "^a$" } } },
        "schema.properties.a.pattern: it is not supported",
      ],
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
      [{ type: "number", maximum: 3 }, "schema.maximum: of numbers only minimum 0"],
      [{ type: "string", format: "email" }, "schema.format: only date, time, date-time, uuid"],
      [
        { type: "object", properties: Object.fromEntries(Array.from({ length: 1001 }, (_, i) => [`p${i}`, {}])) },
        "schema: the schema has more than 1000 properties",
      ],
      [{ enum: ["x".repeat(200_000)] }, "schema: the schema has more than 131072 bytes"],
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
