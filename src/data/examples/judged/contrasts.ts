import { JsonNumber } from "../../../base/exact-json.ts";
import { UserError } from "../../../base/errors.ts";
import { jsonKind, show } from "../../../base/json.ts";
import type { ContrastExample, ScoredExample } from "../example.ts";
import { type DataRecord, listText, text, wellFormed } from "../values.ts";

/** `{"anchor", "positive", "negative"?}`, the negative a text or a list of them. @throws {UserError} */
export function readTriplet(record: DataRecord, where: string): ContrastExample {
  const negative = record["negative"] ?? [];
  return {
    kind: "contrast",
    anchor: spoken(text(record, "anchor", where), "anchor", where),
    positives: [spoken(text(record, "positive", where), "positive", where)],
    negatives:
      typeof negative === "string" ? [spoken(wellFormed(negative), "negative", where)] : texts(record, "negative", where),
    where,
  };
}

/** `{"query", "pos": [...], "neg"?: [...]}`. @throws {UserError} */
export function readQuery(record: DataRecord, where: string): ContrastExample {
  const positives = texts(record, "pos", where);
  if (positives.length === 0) throw new UserError(`${where}: "pos" has 0 texts; expected at least one that matches the query`);
  return {
    kind: "contrast",
    anchor: spoken(text(record, "query", where), "query", where),
    positives,
    negatives: texts(record, "neg", where),
    where,
  };
}

/** `{"sentence1", "sentence2", "score"}`, the score a number, in tables as a text. @throws {UserError} */
export function readScoredPair(record: DataRecord, where: string): ScoredExample {
  const given = record["score"];
  const plain = given instanceof JsonNumber ? given.valueOf() : given;
  const score = typeof plain === "string" && plain.trim() !== "" ? Number(plain) : plain;
  if (typeof score !== "number" || !Number.isFinite(score))
    throw new UserError(`${where}: "score" must say how near both texts are, a number; got ${show(given)}`);
  const [first, second] = ["sentence1", "sentence2"].map((key) => spoken(text(record, key, where), key, where)) as [
    string,
    string,
  ];
  return { kind: "scored", first, second, score, where };
}

/** A list of texts; in tables it is a text that holds JSON. @throws {UserError} */
export function texts(record: DataRecord, key: string, where: string): string[] {
  const values = listText(record[key] ?? [], key, where);
  if (!Array.isArray(values)) throw new UserError(`${where}: "${key}" must be a list of texts, got ${jsonKind(values)}`);
  return values.map((value: unknown, i) => {
    if (typeof value !== "string")
      throw new UserError(`${where}: "${key}" entry ${i + 1} must be a text, got ${jsonKind(value)}`);
    return spoken(wellFormed(value), `${key} entry ${i + 1}`, where);
  });
}

/** @throws {UserError} a text of nothing but white space */
export function spoken(value: string, key: string, where: string): string {
  if (value.trim() === "") throw new UserError(`${where}: "${key}" is empty; expected a text that says something`);
  return value;
}
