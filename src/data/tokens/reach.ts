import { isRecord } from "../../base/json.ts";
import { byteCharacters } from "./byte-characters.ts";

/** How much of a text one token stands for at most. */
export interface Reach {
  /** Bytes of the text as UTF-8. */
  readonly bytes: number;
  /** White space is not counted: the tokenizer may leave out any amount of it. */
  readonly visibleOnly: boolean;
}

type Part = Readonly<Record<string, unknown>>;

/** Pre-tokenizers that lose nothing of a text, and those that lose white space alone. */
const KEEPING = new Set(["ByteLevel", "Digits", "FixedLength", "Metaspace", "Punctuation", "Split", "UnicodeScripts"]);
const SPACE_LOSING = new Set(["Whitespace", "WhitespaceSplit"]);

/**
 * NFC makes at most three bytes one: a singleton of three bytes becomes a character of one (U+1FEF), three Hangul letters of
 * three bytes each one of three; https://www.unicode.org/reports/tr15/.
 */
const NFC_SHRINKS = 3;

/**
 * The reach of the longest token, by the contents of `tokenizer.json`; null where a token may stand for a text of any length, as one
 * for unknown words does. A text whose bytes are more than n times the reach has more than n tokens.
 */
export function reachOf(json: Part): Reach | null {
  const normalizers = partsOf(json["normalizer"], "normalizers");
  const preTokenizers = partsOf(json["pre_tokenizer"], "pretokenizers");
  const model = json["model"];
  if (!isRecord(model) || model["type"] !== "BPE" || !isRecord(model["vocab"])) return null;
  const isByteLevel = preTokenizers.some(({ type }) => type === "ByteLevel");
  if (mayLoseUnknown(model, model["vocab"], isByteLevel)) return null;
  let visibleOnly = false;
  for (const part of preTokenizers) {
    if (SPACE_LOSING.has(String(part["type"]))) visibleOnly = true;
    else if (!KEEPING.has(String(part["type"])) || part["behavior"] === "Removed") return null;
  }
  let shrinks = 1;
  for (const part of normalizers) {
    const factor = shrinking(part);
    if (factor === null) return null;
    if (factor === "space") visibleOnly = true;
    else shrinks *= factor;
  }
  // A character of the byte alphabet is a byte; any other character that is unknown alone has at most four.
  let bytes = isByteLevel ? 1 : 4;
  for (const token of Object.keys(model["vocab"])) bytes = Math.max(bytes, isByteLevel ? token.length : Buffer.byteLength(token));
  for (const token of Array.isArray(json["added_tokens"]) ? (json["added_tokens"] as readonly unknown[]) : []) {
    if (!isRecord(token)) continue;
    bytes = Math.max(bytes, Buffer.byteLength(String(token["content"])));
    if (token["lstrip"] === true || token["rstrip"] === true) visibleOnly = true;
  }
  return { bytes: bytes * shrinks, visibleOnly };
}

/** The parts of a normalizer or pre-tokenizer, which may be a sequence of others. */
function partsOf(value: unknown, inner: string): Part[] {
  if (!isRecord(value)) return [];
  return value["type"] === "Sequence" && Array.isArray(value[inner])
    ? (value[inner] as readonly unknown[]).flatMap((part) => partsOf(part, inner))
    : [value];
}

/** How many bytes a normalizer makes one at most; "space": it takes any white space away; null: that is not known. */
function shrinking(part: Part): number | "space" | null {
  switch (part["type"]) {
    case "NFC":
      return NFC_SHRINKS;
    case "Prepend":
    case "ByteLevel":
      return 1;
    case "Strip":
      return "space";
    case "Replace": {
      const { pattern, content } = part;
      const from = isRecord(pattern) ? pattern["String"] : undefined;
      if (typeof from !== "string" || typeof content !== "string" || content === "") return null;
      return Math.max(1, Buffer.byteLength(from) / Buffer.byteLength(content));
    }
    default:
      return null;
  }
}

/** Whether any number of unknown characters in a row may have one token or none: not where each byte has a token. */
function mayLoseUnknown(model: Part, vocab: Part, isByteLevel: boolean): boolean {
  if (typeof model["unk_token"] === "string" && model["fuse_unk"] !== true) return false;
  if (!isByteLevel && model["byte_fallback"] !== true) return true;
  const byteToken = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
  const tokens = isByteLevel ? byteCharacters() : Array.from({ length: 256 }, (_, byte) => byteToken(byte));
  return tokens.some((token) => !Object.hasOwn(vocab, token));
}
