import { UserError } from "../../../base/errors.ts";
import { jsonKind, show } from "../../../base/json.ts";
import type { LabelKind } from "../../../hf/config/classifier.ts";
import type { Mapping } from "../columns.ts";
import type { Label, LabelledExample } from "../example.ts";
import { messageList } from "../messages.ts";
import { argsOf, type DataRecord, listText, optionalText, text, toolsOf } from "../values.ts";

/** `{"text", "text_pair"?, "label"}`. @throws {UserError} */
export function readLabelledText(record: DataRecord, where: string): LabelledExample {
  const content = { kind: "text", text: text(record, "text", where), where } as const;
  return { kind: "labelled", content, pair: optionalText(record, "text_pair", where), label: labelOf(record, where), where };
}

/** `{"messages", "label"}`: the whole conversation is judged. @throws {UserError} */
export function readLabelledChat(record: DataRecord, where: string, mapping: Mapping): LabelledExample {
  const messages = messageList(record, "messages", where, mapping);
  const content = { kind: "chat", messages, tools: toolsOf(record, where), args: argsOf(record, where), where } as const;
  return { kind: "labelled", content, pair: null, label: labelOf(record, where), where };
}

/** In tables a list is a text that holds JSON. */
function labelOf(record: DataRecord, where: string): Label {
  const value = listText(record["label"], "label", where);
  if (typeof value === "boolean") return String(value);
  if (isName(value)) return nameIn(value, where);
  if (Array.isArray(value) && value.every(isName)) return value.map((each) => nameIn(each, where));
  throw new UserError(`${where}: "label" must be a text, a number or a list of texts, got ${jsonKind(value)}`);
}

const isName = (value: unknown): value is string | number => typeof value === "string" || Number.isFinite(value);

function nameIn(value: string | number, where: string): string | number {
  if (typeof value === "number") return value;
  const name = value.trim().toWellFormed();
  if (name === "") throw new UserError(`${where}: "label" is empty`);
  return name;
}

/** Tells what a label that is written alone can be. */
export const isNumber = (label: Label): boolean =>
  typeof label === "number" || (typeof label === "string" && label !== "" && Number.isFinite(Number(label)));

/** What all labels of data are together. */
export interface FoundLabels {
  readonly kind: LabelKind;
  /** How many examples have each, in the order of the classes' ids; empty for numbers. */
  readonly counts: ReadonlyMap<string, number>;
}

/** Looks at the labels of data, one after the other. */
export interface LabelFinder {
  /** @throws {UserError} a label of another kind than those before it */
  add(label: Label, where: string): void;
  found(): FoundLabels;
}

/**
 * Finds what labels are: lists are several classes; numbers of which one has a fraction are numbers; everything else is one class. Classes
 * are in the order of their names, or of their numbers where all are whole numbers.
 * @param asked the kind that was asked for; null: whatever they are
 */
export function createLabelFinder(asked: LabelKind | null): LabelFinder {
  const counts = new Map<string, number>();
  let first: { readonly label: Label; readonly where: string } | null = null;
  /** Where a label with a fraction is, and one that is no number. */
  let [fraction, word]: (string | null)[] = [null, null];
  const refuse = (where: string, label: Label) => {
    throw new UserError(
      `${where}: "label" is ${show(label)}, and ${show(first!.label)} at ${first!.where}; expected labels of one kind: a text or whole number for one class, a list for several, numbers with fractions for a value`,
    );
  };
  const count = (name: string | number) => void counts.set(String(name), (counts.get(String(name)) ?? 0) + 1);
  return {
    add(label, where) {
      first ??= { label, where };
      if (Array.isArray(label) !== Array.isArray(first.label) || typeof label !== typeof first.label) refuse(where, label);
      if (Array.isArray(label)) {
        if (asked !== null && asked !== "several")
          throw new UserError(`${where}: "label" is a list; --label-kind ${asked} wants one label for each text`);
        new Set(label as readonly (string | number)[]).forEach(count);
        return;
      }
      const single = label as string | number;
      if (!isNumber(single)) word ??= where;
      else if (!Number.isInteger(Number(single))) fraction ??= where;
      if (word !== null && (asked === "number" || (fraction !== null && asked === null))) {
        throw new UserError(
          `${where}: "label" is ${show(label)}; ${asked === "number" ? "--label-kind number wants a number" : "some labels are numbers with fractions and some are none; give --label-kind single where all are names"}`,
        );
      }
      if (asked === "number" || (fraction !== null && asked === null)) counts.clear();
      else if (asked === "several") throw new UserError(`${where}: "label" is ${show(label)}; --label-kind several wants a list`);
      else count(single);
    },
    found() {
      if (first !== null && Array.isArray(first.label)) return { kind: "several", counts: ordered(counts) };
      const kind = asked ?? (fraction !== null ? "number" : "single");
      return { kind, counts: kind === "number" ? new Map() : ordered(counts) };
    },
  };
}

function ordered(counts: ReadonlyMap<string, number>): Map<string, number> {
  const isWhole = [...counts.keys()].every((name) => /^-?\d+$/.test(name));
  const order = isWhole ? (a: string, b: string) => Number(a) - Number(b) : (a: string, b: string) => (a < b ? -1 : 1);
  return new Map([...counts].sort(([a], [b]) => order(a, b)));
}
