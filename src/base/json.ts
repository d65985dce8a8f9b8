import { messageOf, UserError } from "./errors.ts";
import { JsonNumber, needsExact, readExactly } from "./exact-json.ts";
import { readText } from "./files/files.ts";

/** A JSON file that holds an object. @throws {UserError} */
export function readJsonObject(path: string): Record<string, unknown> {
  return parseJsonObject(readText(path), path);
}

/** @throws {UserError} when `text` is not JSON or not an object; `where` names the source. */
export function parseJsonObject(text: string, where: string): Record<string, unknown> {
  const value = parseJson(text, where);
  if (!isRecord(value)) throw new UserError(`${where}: expected a JSON object, got ${jsonKind(value)}`);
  return value;
}

/** Levels of arrays and objects within each other; much deeper ones exhaust the stack of whatever walks through them. */
const MAX_DEPTH = 500;

/** First words of what git leaves in the place of a large file that it has not fetched. */
const POINTER = "version https://git-lfs.github.com/spec/";

/** @param begin of the file's text @throws {UserError} when the file is a pointer of Git LFS */
export function refusePointer(begin: string, where: string): void {
  if (begin.startsWith(POINTER)) {
    throw new UserError(
      `${where} is a pointer of Git LFS, not the file itself; fetch it with git lfs pull, or download the file`,
    );
  }
}

/** @throws {UserError} when `text` is not JSON, or is nested too deep */
export function parseJson(text: string, where: string): unknown {
  refusePointer(text, where);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where} is not valid JSON: ${messageOf(error)}`);
  }
  if (isDeeper(value, MAX_DEPTH)) throw new UserError(`${where}: JSON is nested deeper than ${MAX_DEPTH} levels`);
  return value;
}

/**
 * The same with numbers and keys as Python reads them (see `exact-json.ts`), in case they matter.
 * @param matters whether a value that `JSON.parse` gave may be printed where the difference shows
 */
export function parseJsonExactly(text: string, where: string, matters: (value: unknown) => boolean = needsExact): unknown {
  const value = parseJson(text, where);
  return matters(value) ? readExactly(text) : value;
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (levels === 0) return true;
  if (Array.isArray(value)) return value.some((entry) => isDeeper(entry, levels - 1));
  for (const key in value) if (isDeeper((value as Record<string, unknown>)[key], levels - 1)) return true;
  return false;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof JsonNumber);
}

/** A value as JSON for an error message, cut to a readable length. */
export function show(value: unknown): string {
  let text: string;
  try {
    text = JSON.stringify(value) ?? jsonKind(value);
  } catch {
    // Nested too deep to be written.
    return jsonKind(value);
  }
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}

/** Returns what a JSON value is, in words, for an error message. */
export function jsonKind(value: unknown): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  if (value instanceof JsonNumber) return "a number";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
