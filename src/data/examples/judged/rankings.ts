import { JsonNumber } from "../../../base/exact-json.ts";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import type { ContrastExample, RankedExample } from "../example.ts";
import { type DataRecord, list, text } from "../values.ts";
import { spoken, texts } from "./contrasts.ts";

/** `{"query", "text", "label"}`. @throws {UserError} */
export function readRankedText(record: DataRecord, where: string): RankedExample {
  return {
    kind: "ranked",
    query: queryOf(record, where),
    texts: [spoken(text(record, "text", where), "text", where)],
    labels: [relevanceOf(record["label"], '"label"', where)],
    where,
  };
}

/** `{"query", "docs", "labels"}`, the labels a list as long as that of the texts. @throws {UserError} */
export function readRankedList(record: DataRecord, where: string): RankedExample {
  const docs = texts(record, "docs", where);
  const labels = list(record, "labels", where).map((value, i) => relevanceOf(value, `"labels" entry ${i + 1}`, where));
  if (docs.length !== labels.length)
    throw new UserError(`${where}: "docs" has ${docs.length} texts and "labels" ${labels.length} numbers; expected one for each`);
  return { kind: "ranked", query: queryOf(record, where), texts: docs, labels, where };
}

/** A text with what matches it and what does not, as a query whose texts are to be ranked. */
export function rankedOf({ anchor, positives, negatives, where }: ContrastExample): RankedExample {
  const labels = [...positives.map(() => 1), ...negatives.map(() => 0)];
  return { kind: "ranked", query: anchor, texts: [...positives, ...negatives], labels, where };
}

const queryOf = (record: DataRecord, where: string): string => spoken(text(record, "query", where), "query", where);

/** Tables have nothing but texts. @throws {UserError} */
function relevanceOf(value: unknown, what: string, where: string): number {
  const plain = value instanceof JsonNumber ? value.valueOf() : typeof value === "string" ? value.trim().toLowerCase() : value;
  if (plain === true || plain === "true") return 1;
  if (plain === false || plain === "false") return 0;
  const relevance = typeof plain === "string" && plain !== "" ? Number(plain) : plain;
  if (typeof relevance === "number" && relevance >= 0 && relevance < Infinity) return relevance;
  throw new UserError(
    `${where}: ${what} must say how well the text answers the query, a number from 0 (not at all) on, or true or false; got ${show(value)}`,
  );
}
