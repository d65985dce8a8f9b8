import { isExtra, PLAIN_READING, type Reading, renameColumns } from "./columns.ts";
import { readCsv } from "./csv.ts";
import { COLUMNS, type Example, exampleOfColumns } from "./formats.ts";
import { readItems } from "./json-array.ts";
import { readLines, textOf } from "./lines.ts";
import type { ParquetOptions } from "./parquet.ts";
import type { RawRecord } from "./record.ts";
import { type DataRecord, parseRecord } from "./values.ts";
import { type DataKind, kindOf } from "./wrong-files.ts";

/** An example of a file that has not been parsed yet, so that a bad one need not end the reading. */
export interface Entry extends Pick<RawRecord, "number" | "where" | "end"> {
  /**
   * Reads the example.
   * @param complete changes the record before, such as one that waits for an answer
   * @throws {UserError}
   */
  parse(complete?: (record: DataRecord) => DataRecord): Example;
}

const PLACES: Readonly<Record<DataKind, (path: string, number: number) => string>> = {
  lines: (path, line) => `${path}:${line}`,
  csv: (path, line) => `${path}:${line}`,
  array: (path, item) => `${path}, item ${item}`,
  parquet: (path, row) => `${path}, row ${row}`,
};

/** Names a line of a text file, an item of an array or a row of a Parquet file. @throws {UserError} no file of examples */
export function placeIn(path: string): (number: number) => string {
  const place = PLACES[kindOf(path)];
  return (number) => place(path, number);
}

/**
 * The entries of a file: JSON objects a line, one JSON array, a table in CSV or Parquet, told apart by their first bytes and (CSV) their
 * names. All are read piece by piece: memory holds one entry and one piece, or (Parquet) one group of rows.
 * @throws {UserError} a file that cannot be read
 */
export async function* readEntries(path: string, reading: Reading = PLAIN_READING): AsyncGenerator<Entry> {
  const { mapping, unused } = reading;
  /** Columns that are not even decoded. */
  let skipped: readonly string[] = [];
  const records = openRecords(path, {
    isUnused: (column) => isExtra(column, mapping, COLUMNS),
    onUnused: (columns) => void (skipped = columns),
  });
  for await (const { number, where, end, json } of records) {
    yield {
      number,
      where,
      end,
      parse(complete) {
        const renamed = renameColumns(parseRecord(json(), where), mapping, where);
        skipped.forEach(unused);
        return exampleOfColumns(complete ? complete(renamed) : renamed, where, reading);
      },
    };
  }
}

function openRecords(path: string, options: ParquetOptions): Iterable<RawRecord> | AsyncIterable<RawRecord> {
  switch (kindOf(path)) {
    case "lines":
      return recordsOfLines(path);
    case "array":
      return readItems(path);
    case "csv":
      return readCsv(path);
    case "parquet":
      return recordsOfParquet(path, options);
  }
}

/** Its reader is loaded when there is such a file: it brings what unpacks columns. */
async function* recordsOfParquet(path: string, options: ParquetOptions): AsyncGenerator<RawRecord> {
  const { readParquet } = await import("./parquet.ts");
  yield* readParquet(path, options);
}

function* recordsOfLines(path: string): Generator<RawRecord> {
  for (const line of readLines(path)) {
    const { number, end } = line;
    const where = `${path}:${number}`;
    yield { number, where, end, json: () => textOf(line, where) };
  }
}

/** The examples of a file. @throws {UserError} at the first bad one, with its place */
export async function* readExamples(path: string, reading: Reading = PLAIN_READING): AsyncGenerator<Example> {
  for await (const entry of readEntries(path, reading)) yield entry.parse();
}
