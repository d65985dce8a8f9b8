/**
 * SentencePiece's table of replacements ("precompiled charsmap"): a double array trie over UTF-8 bytes (Aoe 1989; darts-clone) whose values are places in a
 * list of texts, each ended by a zero byte. A text is taken grapheme by grapheme, as `tokenizers` does: short ones are looked up whole,
 * all others by characters, and what is found for the shortest beginning of a piece replaces all of it.
 */

/** The bytes of a grapheme that is looked up whole, at most. */
const WHOLE = 5;

/** @throws {Error} a table that is cut off */
export function createPrecompiled(charsmap: string): (text: string) => string {
  const bytes = Uint8Array.fromBase64(charsmap);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length >= 4 ? view.getUint32(0, true) : Infinity;
  if (size % 4 !== 0 || 4 + size > bytes.length) throw new Error("its precompiled_charsmap is cut off");
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
  const texts = bytes.subarray(4 + size);
  // The longest one that Unicode's compatibility forms have is of 33 bytes: a text grows by a little at most.
  for (let from = 0, end = 0; from < texts.length; from = end + 1) {
    end = texts.indexOf(0, from);
    if (end < 0 || end - from > LONGEST) throw new Error("its precompiled_charsmap has a replacement without an end");
  }

  /** Returns what replaces a piece; null: nothing does. */
  const look = (piece: Uint8Array): string | null => {
    let node = offset(units[0] ?? 0);
    for (const byte of piece) {
      if (byte === 0) return null;
      node ^= byte;
      const unit = units[node] ?? 0;
      if ((unit & 0x8000_00ff) >>> 0 !== byte) return null;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) {
        const from = (units[node] ?? 0) & 0x7fff_ffff;
        const end = texts.indexOf(0, from);
        return Buffer.from(texts.subarray(from, end < 0 ? texts.length : end)).toString("utf8");
      }
    }
    return null;
  };
  const known = new Map<string, string | null>();
  const replacement = (piece: string): string | null => {
    let found = known.get(piece);
    if (found === undefined) {
      if (known.size >= MOST_KNOWN) known.clear();
      known.set(piece, (found = look(Buffer.from(piece))));
    }
    return found;
  };
  const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
  return (text) => {
    let result = "";
    for (const { segment } of graphemes.segment(text)) {
      const whole = Buffer.byteLength(segment) <= WHOLE ? replacement(segment) : null;
      if (whole !== null) result += whole;
      else for (const character of segment) result += replacement(character) ?? character;
    }
    return result;
  };
}

/** Bytes of a replacement, at most. */
const LONGEST = 256;

/** Pieces whose replacements are remembered. */
const MOST_KNOWN = 1 << 14;

/** Where a unit's children are, seen from its own place. */
function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
