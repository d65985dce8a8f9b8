import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { messageOf, UserError } from "../../base/errors.ts";
import { fileError, readText } from "../../base/files.ts";
import { isRecord, jsonKind, parseJson } from "../../base/json.ts";
import { exampleOf, parseExample, type Example } from "./formats.ts";
import { foreignFolder, hubDataset, refuseForeign } from "./wrong-files.ts";
import { readLines, textOf } from "./lines.ts";

/** The files of a data source; a split that is not there is null. */
export interface Splits {
  readonly train: string;
  readonly valid: string | null;
  readonly test: string | null;
}

/** Names of the held-out split: MLX-LM's, Hugging Face's, and what else is usual. */
const VALID = ["valid.jsonl", "validation.jsonl", "val.jsonl"];

/**
 * A folder holds `train.jsonl` and maybe `valid.jsonl` and `test.jsonl`; beside a file, the latter two are looked for too.
 * @throws {UserError} nothing there
 */
export function findSplits(path: string): Splits {
  let isFolder: boolean;
  if (path === "-") refuseForeign(path);
  try {
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw new UserError(`${messageOf(fileError("read the data at", path, error))}${explain(hubDataset(path))}`);
  }
  const folder = isFolder ? path : dirname(path);
  const train = isFolder ? join(path, "train.jsonl") : path;
  if (!existsSync(train))
    throw new UserError(
      `${path}: a data folder must hold train.jsonl (and may hold valid.jsonl and test.jsonl)${explain(foreignFolder(path))}`,
    );
  const split = (names: readonly string[]) =>
    names.map((name) => join(folder, name)).find((file) => file !== train && existsSync(file)) ?? null;
  return { train, valid: split(VALID), test: split(["test.jsonl"]) };
}

/** The file to evaluate on: itself, or of a folder `test.jsonl`, else `valid.jsonl`. @throws {UserError} a folder without them */
export function evaluationFile(path: string): string {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path;
  const found = ["test.jsonl", ...VALID].map((name) => join(path, name)).find((file) => existsSync(file));
  if (found !== undefined) return found;
  throw new UserError(`${path}: a folder to evaluate on must hold test.jsonl or valid.jsonl; or name a file`);
}

function explain(reason: string | null): string {
  return reason === null ? "" : `; ${reason}`;
}

/** A data source and how often an epoch goes through it (see `mixSamples`). */
export interface Source {
  readonly path: string;
  readonly weight: number;
}

/**
 * Reads `a.jsonl`, or several sources with weights: `a.jsonl=2,b.jsonl=0.5,c.jsonl`. A path that exists is taken as it stands.
 * @throws {UserError} a weight that is no number above 0
 */
export function parseSources(text: string): Source[] {
  if (existsSync(text)) return [{ path: text, weight: 1 }];
  return text.split(",").map((part) => {
    const [, path, number] = /^(.+)=([^=/]*)$/.exec(part.trim()) ?? [];
    if (path === undefined || existsSync(part.trim())) return { path: part.trim(), weight: 1 };
    const weight = Number(number);
    if (number === "" || !(weight > 0 && Number.isFinite(weight))) {
      throw new UserError(`--data: the weight of ${path} must be a number above 0, got ${JSON.stringify(number)}`);
    }
    return { path, weight };
  });
}

/** An example of a file that has not been parsed yet, so that a bad one need not end the reading. */
export interface Entry {
  /** Line of a JSONL file or item of an array, from 1. */
  readonly number: number;
  readonly where: string;
  /** Bytes of the file up to its end; of an array's items, in equal parts. */
  readonly end: number;
  /** @throws {UserError} */
  parse(): Example;
}

/** Names a line of a JSONL file, or an item of a `.json` file that holds an array. */
export function placeIn(path: string): (number: number) => string {
  return path.endsWith(".json") ? (number) => `${path}, item ${number}` : (number) => `${path}:${number}`;
}

/**
 * The entries of a JSONL file, or of a `.json` file that holds one array.
 * @throws {UserError} a file that cannot be read
 */
export function* readEntries(path: string): Generator<Entry> {
  refuseForeign(path);
  const placeOf = placeIn(path);
  if (path.endsWith(".json")) {
    const items = parseArray(path);
    const { size } = statSync(path);
    for (const [i, item] of items.entries()) {
      const where = placeOf(i + 1);
      const parse = () => {
        if (!isRecord(item)) throw new UserError(`${where}: expected an object, got ${jsonKind(item)}`);
        return exampleOf(item, where);
      };
      yield { number: i + 1, where, end: ((i + 1) / items.length) * size, parse };
    }
    return;
  }
  for (const line of readLines(path)) {
    const { number, end } = line;
    const where = placeOf(number);
    yield { number, where, end, parse: () => parseExample(textOf(line, where), where) };
  }
}

/** The examples of a file. @throws {UserError} at the first bad one, with file and line */
export function* readExamples(path: string): Generator<Example> {
  for (const entry of readEntries(path)) yield entry.parse();
}

/** An array is parsed as a whole, which takes several times its size. */
const MAX_ARRAY = 512 * 2 ** 20;

function parseArray(path: string): readonly unknown[] {
  let size: number;
  try {
    ({ size } = statSync(path));
  } catch (error) {
    throw fileError("read", path, error);
  }
  if (size > MAX_ARRAY)
    throw new UserError(
      `${path} has ${size} bytes, too many for one array; expected at most ${MAX_ARRAY}: write one object per line into a .jsonl file (jq -c '.[]')`,
    );
  const text = readText(path);
  let value: unknown;
  try {
    value = parseJson(text, path);
  } catch (error) {
    throw new UserError(`${messageOf(error)}; a file with one object per line is named .jsonl`);
  }
  if (!Array.isArray(value)) throw new UserError(`${path}: expected an array of examples, got ${jsonKind(value)}`);
  return value;
}
