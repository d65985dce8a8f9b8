import { UserError } from "../../base/errors.ts";
import { filePieces } from "../../base/files/files.ts";
import { MAX_RECORD, type RawRecord } from "./record.ts";

const [QUOTE, COMMA, OPEN_LIST, BACKSLASH, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT, NEWLINE] = [
  0x22, 0x2c, 0x5b, 0x5c, 0x5d, 0x7b, 0x7d, 0x0a,
];
const WHITE = new Set([0x20, 0x09, 0x0d, NEWLINE]);
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf];

/** Describes what may come next, outside of an item. */
type Expected = "array" | "first" | "item" | "comma" | "nothing";

const SENTENCES: Readonly<Record<Expected, string>> = {
  array: "an array",
  first: "an item or the array's end",
  item: "an item",
  comma: "a comma or the array's end",
  nothing: "nothing after the array's end",
};

/**
 * The items of a UTF-8 file that holds one JSON array, read piece by piece: memory holds one item and one piece. Only strings
 * and brackets are looked at here, to find where an item ends; what is between is for the parser.
 * @throws {UserError} a file that cannot be read, text between items, an array without an end
 */
export function* readItems(path: string, pieceBytes = 1 << 20): Generator<RawRecord> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let expected: Expected = "array";
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  let [number, line, itemLine, offset] = [0, 1, 1, 0];
  // Within an item.
  let inItem = false;
  let depth = 0;
  let inString = false;
  let escaped = false;
  const fault = (what: string): UserError => new UserError(`${path}:${line}: ${what}`);
  const finish = (last: Uint8Array, end: number): RawRecord => {
    const bytes = pending.length === 0 ? last : Buffer.concat([...pending, last]);
    pending = [];
    pendingBytes = 0;
    const where = `${path}:${itemLine}, item ${++number}`;
    let text: string | null = null;
    try {
      text = decoder.decode(bytes);
    } catch {
      // Told when the item is asked for: a check goes on with the next one.
    }
    const json = () => {
      if (text === null) throw new UserError(`${where}: the item is not UTF-8 text; save the file in UTF-8`);
      return text;
    };
    return { number, where, end, json };
  };
  for (const piece of filePieces(path, pieceBytes)) {
    let from = 0;
    for (let at = 0; at < piece.length; at++) {
      const byte = piece[at]!;
      if (byte === NEWLINE) line++;
      if (inString) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) inString = false;
        continue;
      }
      if (inItem) {
        if (byte === QUOTE) inString = true;
        else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
        else if (depth > 0) {
          if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
        } else if (byte === COMMA || byte === CLOSE_LIST) {
          inItem = false;
          yield finish(piece.subarray(from, at), offset + at);
          expected = byte === COMMA ? "item" : "nothing";
        }
        continue;
      }
      if (WHITE.has(byte)) continue;
      if (expected === "array") {
        if (byte === BYTE_ORDER_MARK[offset + at]) continue;
        if (byte !== OPEN_LIST) throw fault(`expected ${SENTENCES.array} of examples`);
        expected = "first";
      } else if (byte === CLOSE_LIST && expected === "first") expected = "nothing";
      else if (expected === "nothing" || byte === COMMA || byte === CLOSE_LIST)
        throw fault(`expected ${SENTENCES[expected]}, got ${JSON.stringify(String.fromCharCode(byte))}`);
      else {
        inItem = true;
        depth = 0;
        from = at;
        itemLine = line;
        // Looked at again, as the item's first byte.
        at--;
      }
    }
    if (inItem) {
      pending.push(piece.slice(from));
      pendingBytes += piece.length - from;
      if (pendingBytes > MAX_RECORD)
        throw new UserError(`${path}:${itemLine}, item ${number + 1}: the item is longer than ${MAX_RECORD} bytes`);
    }
    offset += piece.length;
  }
  if (inItem) throw new UserError(`${path}:${itemLine}, item ${number + 1}: the file ends within the item; it is cut short`);
  if (expected !== "nothing") throw fault(`the file ends where ${SENTENCES[expected]} is expected; it is cut short`);
}
