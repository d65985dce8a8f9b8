import type { ParseConfig, ParseStepResult } from "papaparse";
import { UserError } from "../../base/errors.ts";
import { filePieces } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import { MAX_RECORD, type RawRecord } from "./record.ts";

/** Rows that delimiter and line ends are guessed from. */
const GUESSED_ROWS = 20;
const GUESSED_BYTES = 1 << 16;

/**
 * The rows of a table in CSV (RFC 4180) or with another delimiter, under the names of its first row, read piece by piece:
 * memory holds one piece, or the longest row. An empty cell is null. `number` is the line that the row begins on.
 *
 * Bytes are taken as Latin-1 up to the cells, so that offsets are bytes and a cell that is not UTF-8 is an error of its row.
 * @throws {UserError} a file that cannot be read, a first row that names no columns
 */
export async function* readCsv(path: string, pieceBytes = 1 << 20): AsyncGenerator<RawRecord> {
  const { default: Papa } = await import("papaparse");
  let names: readonly string[] | null = null;
  let config: Pick<ParseConfig, "delimiter" | "newline"> | null = null;
  /** Read but not parsed yet, from byte `offset` on, which begins line `line`. */
  let rest = "";
  let [offset, line] = [0, 1];
  /** Characters worth parsing: a row that did not end within the last ones wants twice as many. */
  let wanted = GUESSED_BYTES;
  const parse = (isLast: boolean): RawRecord[] => {
    config ??= formatOf(path, Papa.parse(rest, { preview: GUESSED_ROWS, skipEmptyLines: true }).meta);
    const rows: RawRecord[] = [];
    let cursor = 0;
    const step = ({ data, errors, meta }: ParseStepResult<unknown>): void => {
      const cells = (data as readonly string[][])[0]!;
      const raw = rest.slice(cursor, meta.cursor);
      const [begin, end] = [line, offset + meta.cursor];
      line += countOf(raw, config!.newline === "\r" ? "\r" : "\n");
      cursor = meta.cursor;
      // Between a quoted cell and the line's end white space is dropped; an unquoted one keeps its carriage return.
      const final = cells.at(-1)!;
      if (final.endsWith("\r") && raw.endsWith("\r\n") && raw.at(-3) !== '"') cells[cells.length - 1] = final.slice(0, -1);
      if (cells.length === 1 && cells[0]!.trim() === "") return;
      if (names === null) names = columnsOf(cells, `${path}:${begin}`);
      else rows.push(rowOf(names, cells, { number: begin, end, where: `${path}:${begin}`, fault: errors[0]?.code ?? null }));
    };
    const parser = new Papa.Parser({ ...config, step } as ParseConfig);
    parser.parse(rest, 0, !isLast);
    wanted = cursor === 0 ? 2 * rest.length : 0;
    rest = rest.slice(cursor);
    offset += cursor;
    return rows;
  };
  let isFirst = true;
  for (const piece of filePieces(path, pieceBytes)) {
    const isLast = piece.length === 0;
    let text = Buffer.from(piece.buffer, piece.byteOffset, piece.length).toString("latin1");
    if (isFirst && text.startsWith("\xef\xbb\xbf")) {
      text = text.slice(3);
      offset = 3;
    }
    isFirst = false;
    rest += text;
    if (rest.length > MAX_RECORD)
      throw new UserError(`${path}:${line}: the row is longer than ${MAX_RECORD} bytes; is a quote not closed?`);
    if ((rest.length >= wanted && rest.length > 0) || isLast) yield* parse(isLast);
  }
  if (names === null) throw new UserError(`${path}: expected a table whose first row names its columns; the file is empty`);
}

/** How a table is written. */
function formatOf(path: string, guess: { readonly delimiter: string; readonly linebreak: string }) {
  const delimiter = path.toLowerCase().endsWith(".tsv") ? "\t" : guess.delimiter;
  // Lines that end with both characters are cut at the second one, so that a table may have ends of both kinds.
  return { delimiter, newline: guess.linebreak === "\r" ? "\r" : "\n" } as const;
}

function countOf(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0; at = text.indexOf(character, at + 1)) count++;
  return count;
}

/** @throws {UserError} names that are there twice, or are not UTF-8 */
function columnsOf(cells: readonly string[], where: string): readonly string[] {
  const names = cells.map((cell) => {
    const name = decode(cell);
    if (name === null) throw notUtf8(where);
    return name.trim();
  });
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new UserError(`${where}: the column ${show(twice)} is named twice in the first row; rename one`);
  return names;
}

interface RowPlace {
  readonly number: number;
  readonly end: number;
  readonly where: string;
  /** The parser's complaint about the row's quotes. */
  readonly fault: string | null;
}

function rowOf(names: readonly string[], cells: readonly string[], { number, end, where, fault }: RowPlace): RawRecord {
  const json = () => {
    if (fault === "MissingQuotes") throw new UserError(`${where}: a quoted cell that begins in this row never ends`);
    if (fault !== null) throw new UserError(`${where}: a quote within a quoted cell must be doubled ("")`);
    if (cells.length !== names.length) {
      throw new UserError(
        `${where}: the row has ${cells.length} cells, the first row names ${names.length} columns; a cell that holds the delimiter or a line break must be quoted`,
      );
    }
    const members = cells.map((cell, i) => {
      const value = decode(cell);
      if (value === null) throw notUtf8(where);
      return `${JSON.stringify(names[i])}:${value === "" ? "null" : JSON.stringify(value)}`;
    });
    return `{${members.join()}}`;
  };
  return { number, where, end, json };
}

function notUtf8(where: string): UserError {
  return new UserError(
    `${where}: the row is not UTF-8 text; save the file in UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, if a spreadsheet wrote it)`,
  );
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A cell whose bytes are its characters; null where they are not UTF-8. */
function decode(cell: string): string | null {
  if (!/[\x80-\xff]/.test(cell)) return cell;
  try {
    return decoder.decode(Buffer.from(cell, "latin1"));
  } catch {
    return null;
  }
}
