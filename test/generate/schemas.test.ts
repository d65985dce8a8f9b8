import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { z } from "zod";
import { expressionOf, SchemaError } from "../../src/generate/grammar/schema.ts";
import { SLOW } from "../support/slow.ts";
import { reads, write, grammarOf } from "../support/grammar.ts";

setDefaultTimeout(120_000);

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
