import { UserError } from "../../base/errors.ts";
import { mapValues, needsExact } from "../../base/exact-json.ts";
import { isRecord, jsonKind, parseJsonExactly, show } from "../../base/json.ts";

/** A record of a data file. */
export type DataRecord = Readonly<Record<string, unknown>>;

/**
 * A record of JSON. Numbers and keys of what chat templates print are Python's (see `exact-json.ts`).
 * @throws {UserError} no object
 */
export function parseRecord(json: string, where: string): DataRecord {
  const record = parseJsonExactly(json, where, needsExactRecord);
  if (!isRecord(record)) throw new UserError(`${where}: expected a JSON object, got ${jsonKind(record)}`);
  return record;
}

/** Templates get messages and tools, which are lists, and one object; a message's weight is a number for us alone. */
function needsExactRecord(record: unknown): boolean {
  if (!isRecord(record)) return false;
  for (const key in record) {
    const value = record[key];
    if (Array.isArray(value) ? value.some(needsExactEntry) : key === "chat_template_kwargs" && needsExact(value)) return true;
  }
  return false;
}

function needsExactEntry(entry: unknown): boolean {
  if (!isRecord(entry)) return needsExact(entry);
  for (const key in entry) if (key !== "weight" && needsExact(entry[key])) return true;
  return false;
}

/** A text value; lone surrogates, which no tokenizer can encode, become U+FFFD. @throws {UserError} no text */
export function text(record: DataRecord, key: string, where: string): string {
  const value = record[key];
  if (typeof value !== "string") throw new UserError(`${where}: "${key}" must be a text, got ${jsonKind(value)}`);
  return value.toWellFormed();
}

/** The same; null where the value is absent or null. @throws {UserError} */
export function optionalText(record: DataRecord, key: string, where: string): string | null {
  return record[key] === undefined || record[key] === null ? null : text(record, key, where);
}

/** A list that is not empty, as JSON or (in tables) as a text that holds JSON. @throws {UserError} */
export function list(record: DataRecord, key: string, where: string): readonly unknown[] {
  const value = listText(record[key], key, where);
  if (!Array.isArray(value)) throw new UserError(`${where}: "${key}" must be a list, got ${jsonKind(value)}`);
  if (value.length === 0) throw new UserError(`${where}: "${key}" is empty; an example needs at least one entry`);
  return value;
}

/** A text that begins with a bracket is parsed; everything else stays as it is. @throws {UserError} */
export function listText(value: unknown, key: string, where: string): unknown {
  if (typeof value !== "string" || !/^\s*\[/.test(value)) return value;
  if (PYTHON_LIST.test(value))
    throw new UserError(`${where}: "${key}", a text, is a list in Python's notation; write it with json.dumps, as JSON`);
  return parseJsonExactly(value, `${where}: "${key}", a text,`);
}

/** The begin of what `str` makes of a list of dictionaries, and pandas of such a column in CSV. */
const PYTHON_LIST = /^\s*\[\s*\{\s*'/;

/** A list of objects. @throws {UserError} */
export function records(record: DataRecord, key: string, where: string): DataRecord[] {
  return list(record, key, where).map((entry, i) => {
    if (!isRecord(entry)) throw new UserError(`${where}: "${key}" entry ${i + 1} must be an object, got ${jsonKind(entry)}`);
    return entry;
  });
}

/** Tool descriptions: a list, or (ShareGPT, tables) the same as JSON text. @throws {UserError} */
export function toolsOf(record: DataRecord, where: string): readonly unknown[] | null {
  let tools = record["tools"];
  if (tools === undefined || tools === null || tools === "") return null;
  if (typeof tools === "string") tools = parseJsonExactly(tools, `${where}: "tools", a text,`);
  if (!Array.isArray(tools)) throw new UserError(`${where}: "tools" must be a list, got ${jsonKind(tools)}`);
  return tools.length === 0 ? null : wellFormed(tools);
}

/** Variables that a row has for its chat template, by the name that TRL gives them. @throws {UserError} */
export function argsOf(record: DataRecord, where: string): DataRecord | null {
  const args = record["chat_template_kwargs"];
  if (args === undefined || args === null) return null;
  if (!isRecord(args)) throw new UserError(`${where}: "chat_template_kwargs" must be an object, got ${jsonKind(args)}`);
  return wellFormed(args);
}

/** The same value with U+FFFD for lone surrogates in all texts. */
export function wellFormed<T>(value: T): T {
  if (typeof value === "string") return value.toWellFormed() as T;
  if (Array.isArray(value)) return value.map(wellFormed) as T;
  if (isRecord(value)) return mapValues(value, wellFormed) as T;
  return value;
}

/** A name of the data as a part of a flag that a message proposes. */
export function argument(name: string): string {
  return name.length <= 40 ? name : "NAME";
}

/** Refuses keys that nobody reads. @throws {UserError} */
export function onlyKeys(record: DataRecord, known: readonly string[], where: string): void {
  const unknown = Object.keys(record).find((key) => !known.includes(key));
  if (unknown === undefined) return;
  const names = known.map((key) => `"${key}"`);
  throw new UserError(`${where}: unknown key ${show(unknown)}; expected ${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
}
