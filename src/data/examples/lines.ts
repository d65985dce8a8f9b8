import { UserError } from "../../base/errors.ts";
import { filePieces } from "../../base/files/files.ts";

export interface Line {
  /** Null: the bytes are not UTF-8 (see `textOf`). */
  readonly text: string | null;
  /** Counts from 1. */
  readonly number: number;
  /** Byte offsets of the line in the file: its first byte, and the one behind its end. */
  readonly offset: number;
  readonly end: number;
}

/** A line longer than this is not a training example; stops before memory runs out on a file that is not JSONL. */
const MAX_LINE = 256 * 2 ** 20;
const NEWLINE = 0x0a;

/**
 * The lines of a UTF-8 file, blank ones left out, read piece by piece: memory holds one line and one piece.
 * A byte order mark is dropped and `\r\n` ends a line as `\n` does.
 * @throws {UserError} unreadable file, a line without an end
 */
export function* readLines(path: string, pieceBytes = 1 << 20): Generator<Line> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  let number = 1;
  let offset = 0;
  const finish = (last: Uint8Array): Line => {
    const bytes = pending.length === 0 ? last : Buffer.concat([...pending, last]);
    let text: string | null = null;
    try {
      text = decoder.decode(bytes);
    } catch {
      // Whoever needs the text is told; a check goes on with the next line.
    }
    const end = offset + bytes.length;
    const line = { text: text?.endsWith("\r") ? text.slice(0, -1) : text, number, offset, end };
    number++;
    offset = end + 1;
    pending = [];
    pendingBytes = 0;
    return line;
  };
  for (const piece of filePieces(path, pieceBytes)) {
    let from = 0;
    for (let at = piece.indexOf(NEWLINE); at >= 0; at = piece.indexOf(NEWLINE, from)) {
      const line = finish(piece.subarray(from, at));
      from = at + 1;
      if (line.text?.trim() !== "") yield line;
    }
    pending.push(piece.slice(from));
    pendingBytes += piece.length - from;
    if (pendingBytes > MAX_LINE)
      throw new UserError(`${path}:${number}: the line is longer than ${MAX_LINE} bytes; expected JSONL`);
  }
  if (pendingBytes > 0) {
    const line = finish(new Uint8Array(0));
    if (line.text?.trim() !== "") yield line;
  }
}

/** @throws {UserError} bytes that are not UTF-8 */
export function textOf({ text }: Line, where: string): string {
  if (text === null) throw new UserError(`${where}: the line is not UTF-8 text; save the file in UTF-8`);
  return text;
}
