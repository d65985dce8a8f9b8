import { isRecord } from "../../base/json.ts";
import { byteCharacters } from "./byte-characters.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The bytes that each token adds to a text. */
export interface TokenBytes {
  /** One more than the largest token id. */
  readonly size: number;
  /** Returns no bytes for an id that is no token. */
  of(id: number): Uint8Array;
}

type Part = Readonly<Record<string, unknown>>;

const known = new WeakMap<Part, TokenBytes | null>();

/**
 * The bytes of all tokens, where a text of tokens is their bytes in a row; null for a tokenizer that joins them in another way, with blanks between
 * words for example. White space that a decoder strips from the start of a text is among the bytes.
 */
export function tokenBytesOf(tokenizer: Pick<Tokenizer, "json" | "size" | "addedTokens">): TokenBytes | null {
  let bytes = known.get(tokenizer.json);
  if (bytes === undefined) known.set(tokenizer.json, (bytes = readBytes(tokenizer)));
  return bytes;
}

function readBytes({ json, size, addedTokens }: Pick<Tokenizer, "json" | "size" | "addedTokens">): TokenBytes | null {
  const decoder = partsOf(json["decoder"]);
  const bytesOf = tokenReader(decoder);
  if (bytesOf === null) return null;
  const all: Uint8Array[] = Array.from({ length: size }, () => new Uint8Array(0));
  for (const [token, id] of vocabularyOf(json["model"])) all[id] = bytesOf(token);
  for (const [token, id] of addedTokens) all[id] = isByteLevel(decoder) ? Buffer.from(token) : bytesOf(token);
  return { size, of: (id) => all[id] ?? new Uint8Array(0) };
}

function partsOf(decoder: unknown): Part[] {
  if (!isRecord(decoder)) return [];
  return Array.isArray(decoder["decoders"]) ? (decoder["decoders"] as readonly unknown[]).flatMap(partsOf) : [decoder];
}

function vocabularyOf(model: unknown): (readonly [token: string, id: number])[] {
  const vocab = isRecord(model) ? model["vocab"] : undefined;
  if (Array.isArray(vocab)) return (vocab as readonly (readonly [string, number])[]).map(([token], id) => [token, id]);
  return isRecord(vocab) ? Object.entries(vocab as Readonly<Record<string, number>>) : [];
}

/** Tokens are strings of the byte alphabet, but for those that stand beside the vocabulary. */
const isByteLevel = (parts: readonly Part[]): boolean => parts.length > 0 && parts.every(({ type }) => type === "ByteLevel");

/** Returns what the parts of a decoder make of one token; null if that depends on its neighbours. */
function tokenReader(parts: readonly Part[]): ((token: string) => Uint8Array) | null {
  if (parts.length === 0) return null;
  if (isByteLevel(parts)) {
    const byteOf = new Map(byteCharacters().map((character, byte) => [character, byte]));
    // A character without a byte stays what it is, as the decoder has it.
    return (token) => Uint8Array.from([...token].flatMap((character) => byteOf.get(character) ?? [...Buffer.from(character)]));
  }
  let isFused = false;
  let hasBytes = false;
  const changes: ((text: string) => string)[] = [];
  for (const part of parts) {
    if (part["type"] === "Fuse") isFused = true;
    else if (part["type"] === "ByteFallback") hasBytes = true;
    else if (part["type"] === "Metaspace") changes.push((text) => text.replaceAll(String(part["replacement"] ?? "▁"), " "));
    else if (part["type"] === "Replace") {
      const { pattern, content } = part;
      const from = isRecord(pattern) ? pattern["String"] : undefined;
      if (typeof from !== "string" || typeof content !== "string") return null;
      changes.push((text) => text.replaceAll(from, content));
    } else if (part["type"] !== "Strip" || !isFused) return null;
  }
  return (token) => {
    const [, byte] = (hasBytes && /^<0x([0-9A-F]{2})>$/.exec(token)) || [];
    if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
    return Buffer.from(changes.reduce((text, change) => change(text), token));
  };
}
