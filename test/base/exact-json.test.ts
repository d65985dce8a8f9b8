import { expect, test } from "bun:test";
import fc from "fast-check";
import { JsonNumber, keysInOrder, mapValues, needsExact, readExactly } from "../../src/base/exact-json.ts";
import { jsonKind, parseJsonExactly, show } from "../../src/base/json.ts";

/** Spelling of each number of a value, and the keys of each object, in order. */
function spelled(value: unknown): unknown {
  if (value instanceof JsonNumber) return value.source;
  if (typeof value === "number") return String(value);
  if (Array.isArray(value)) return value.map(spelled);
  if (typeof value !== "object" || value === null) return value;
  const object = value as Readonly<Record<string, unknown>>;
  return keysInOrder(object).map((key) => [key, spelled(object[key])]);
}

test("numbers keep their spelling where JavaScript has another, keys their order", () => {
  const text = '{"order":12345678901234567890,"t":1.0,"big":1e22,"z":-0.0,"n":-0,"i":7,"m":{"b":1,"10":2,"2":3}}';
  const map = [
    ["b", "1"],
    ["10", "2"],
    ["2", "3"],
  ];
  expect(spelled(readExactly(text))).toEqual([
    ["order", "12345678901234567890"],
    ["t", "1.0"],
    ["big", "1e22"],
    ["z", "-0.0"],
    ["n", "0"],
    ["i", "7"],
    ["m", map],
  ]);
  expect(JSON.stringify(readExactly("[1.0, 1e5, 12345678901234567890]"))).toBe("[1.0,1e5,12345678901234567890]");
});

test("of a key that is there twice, the last value wins and the first place stays, as in Python", () => {
  expect(spelled(readExactly('{"2":1,"a":2,"2":3}'))).toEqual([
    ["2", "3"],
    ["a", "2"],
  ]);
});

test("what JSON.parse reads is read as the same value, whatever stands between", () => {
  fc.assert(
    fc.property(fc.json(), fc.constantFrom(undefined, 2, "\t"), (json, indent) => {
      const text = JSON.stringify(JSON.parse(json), null, indent);
      expect(JSON.parse(JSON.stringify(readExactly(text)))).toEqual(JSON.parse(text));
      expect(JSON.parse(JSON.stringify(readExactly(json)))).toEqual(JSON.parse(json));
    }),
    { numRuns: 2000, seed: 1 },
  );
});

test("keys like __proto__ are keys", () => {
  const value = readExactly('{"__proto__":{"x":1.0},"constructor":2}') as object;
  expect(Object.keys(value)).toEqual(["__proto__", "constructor"]);
  expect(({} as { x?: unknown }).x).toBeUndefined();
});

test("a value without numbers and digits at the beginning of keys is JSON.parse's", () => {
  expect(needsExact(JSON.parse('{"a":["1",true,null,{"b":"2"}]}'))).toBe(false);
  for (const text of ['{"a":[{"1":"x"}]}', "[[1]]", '{"a":{"b":0.5}}']) expect(needsExact(JSON.parse(text))).toBe(true);
});

test("the order of keys goes along with copies; new keys come last", () => {
  const object = readExactly('{"b":1,"1":2}') as Record<string, unknown>;
  expect(keysInOrder({ ...object, a: 3 })).toEqual(["b", "1", "a"]);
  expect(keysInOrder(mapValues(object, String))).toEqual(["b", "1"]);
});

test("messages show such numbers as numbers", () => {
  const value = parseJsonExactly("[1.0]", "x") as unknown[];
  expect(jsonKind(value[0])).toBe("a number");
  expect(show(value)).toBe("[1.0]");
});
