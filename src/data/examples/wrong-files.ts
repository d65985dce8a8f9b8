import * as fs from "node:fs";
import { UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";

/** Describes what a user may take for training data, and how it becomes JSONL. */
interface Foreign {
  readonly what: string;
  readonly remedy: (path: string) => string;
}

const datasets = (kind: string) => (path: string) =>
  `in Python: datasets.load_dataset("${kind}", data_files=${JSON.stringify(path)}, split="train").to_json("train.jsonl")`;
const unpack = (command: string) => (path: string) => `unpack it first: ${command} ${path}`;

const ARROW: Foreign = { what: "an Arrow file", remedy: datasets("arrow") };
const UTF16: Foreign = {
  what: "UTF-16 text",
  remedy: (path) => `convert it to UTF-8: iconv -f UTF-16 -t UTF-8 ${path} > train.jsonl`,
};

/** First bytes of files (Latin-1), as file(1) knows them. */
const MAGIC: readonly (readonly [string, Foreign])[] = [
  ["\x1f\x8b", { what: "compressed with gzip", remedy: unpack("gunzip") }],
  ["\x28\xb5\x2f\xfd", { what: "compressed with zstd", remedy: unpack("unzstd") }],
  ["\xfd7zXZ\0", { what: "compressed with xz", remedy: unpack("unxz") }],
  ["BZh", { what: "compressed with bzip2", remedy: unpack("bunzip2") }],
  ["PK\x03\x04", { what: "a ZIP archive (or a spreadsheet)", remedy: unpack("unzip") }],
  ["PARE", { what: "an encrypted Parquet file", remedy: datasets("parquet") }],
  ["ARROW1", ARROW],
  // Arrow's stream, which `save_to_disk` writes.
  ["\xff\xff\xff\xff", ARROW],
  ["\xff\xfe", UTF16],
  ["\xfe\xff", UTF16],
];

const PLAIN: Foreign = {
  what: "plain text",
  remedy: (path) =>
    `{"text": "..."} for each passage, such as each line: jq -cR 'select(. != "") | {text: .}' ${path} > train.jsonl`,
};

/** Endings of texts, which may have JSON lines in them all the same. */
const TEXTS = ["txt", "md"];

/** How the examples of a file are written: JSON objects a line, one JSON array, a table. */
export type DataKind = "lines" | "array" | "csv" | "parquet";

/** Bytes that tell what a file is; white space before the first word is seldom longer. */
const BEGIN_BYTES = 4096;

/**
 * Looks at a data file before it is read, and reads none of it but its first bytes.
 * @throws {UserError} one that holds no examples, by its first bytes or its name; one that can be read only once, as a pipe is;
 *   one that does not exist
 */
export function kindOf(path: string): DataKind {
  if (path === "-") throw onlyOnce("standard input", path);
  const bytes = new Uint8Array(BEGIN_BYTES);
  let count: number;
  try {
    const stat = fs.statSync(path);
    if (stat.isDirectory()) throw Object.assign(new Error("it is a folder"), { code: "EISDIR" });
    if (stat.isFIFO() || stat.isSocket() || stat.isCharacterDevice()) throw onlyOnce(path, path);
    const fd = fs.openSync(path, "r");
    try {
      count = fs.readSync(fd, bytes, 0, bytes.length, 0);
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    throw fileError("read", path, error);
  }
  const begin = Buffer.from(bytes.subarray(0, count)).toString("latin1");
  if (begin.startsWith("PAR1")) return "parquet";
  const foreign = MAGIC.find(([magic]) => begin.startsWith(magic))?.[1];
  if (foreign) throw notExamples(path, foreign);
  const ending = /\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? "";
  const text = begin.replace(/^\xef\xbb\xbf/, "").trimStart();
  if (ending === "csv" || ending === "tsv") return "csv";
  if (ending === "parquet" && count > 0) throw notExamples(path, BROKEN_PARQUET);
  if (TEXTS.includes(ending) && !/^[{[]/.test(text) && text !== "") throw notExamples(path, PLAIN);
  if (ending === "json" && /^\{(?:[^\n]*[^\s}])?[^\S\n]*\n/.test(text)) throw notExamples(path, ONE_OBJECT);
  return text.startsWith("[") ? "array" : "lines";
}

const ONE_OBJECT: Foreign = {
  what: "one JSON object over several lines",
  remedy: (path) => `if its examples are under a key: jq -c '.data[]' ${path} > train.jsonl`,
};

const BROKEN_PARQUET: Foreign = {
  what: "named .parquet but does not begin as a Parquet file does",
  remedy: () => "copy or download it again, or give it the ending of what it is (.jsonl, .json, .csv)",
};

/** Refuses input that can be read only once. */
export function onlyOnce(name: string, path: string): UserError {
  return new UserError(
    `${name} can be read only once, and data are read several times; write them to a file: cat ${path} > train.jsonl`,
  );
}

function notExamples(path: string, { what, remedy }: Foreign): UserError {
  return new UserError(
    `${path} is ${what}; expected JSON objects (one a line, or an array of them), CSV or Parquet: ${remedy(path)}`,
  );
}

/** How data of the hub become JSONL, for a path that may be the name of one: `org/name`. */
export function hubDataset(path: string): string | null {
  if (!/^[\w-]+\/[\w.-]+$/.test(path) || /\.(?:jsonl?|txt|csv|parquet|gz)$/.test(path) || fs.existsSync(path)) return null;
  return `data of the hub are not fetched; in Python: datasets.load_dataset(${JSON.stringify(path)}, split="train").to_json("train.jsonl")`;
}

/** Returns what a folder holds instead of JSONL: a sentence about it, or null. */
export function foreignFolder(folder: string): string | null {
  const names = fs.readdirSync(folder);
  if (names.includes("dataset_dict.json") || names.includes("state.json")) {
    const train = names.includes("dataset_dict.json") ? '["train"]' : "";
    return `it is a dataset saved to disk; in Python: datasets.load_from_disk(${JSON.stringify(folder)})${train}.to_json("train.jsonl")`;
  }
  return null;
}
