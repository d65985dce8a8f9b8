import type { Tokenizer } from "../data/tokens/tokenizer.ts";

/** Turns tokens into pieces of text as they come. All pieces together are the text of all tokens. */
export interface TextStream {
  /** The text that is certain now: `""` while a character is incomplete. */
  push(id: number): string;
  /** Returns what was held back. */
  end(): string;
}

/** The character that an incomplete UTF-8 sequence decodes to. */
const REPLACEMENT = "\uFFFD";

/**
 * A token may hold a part of a character, and decoders treat the start of a text differently, so each piece is what a
 * token adds to the text of a few tokens in front of it.
 * @param kept special tokens whose texts are written; all others are left out
 */
export function createTextStream(tokenizer: Tokenizer, kept: ReadonlySet<number> = new Set()): TextStream {
  const ids: number[] = [];
  /** `ids[context..done)` have been given out; they are decoded again for what comes behind them. */
  let context = 0;
  let done = 0;
  const decode = (from: number, to?: number) => tokenizer.decode(ids.slice(from, to), { skipSpecial: true });
  const take = (isEnd: boolean): string => {
    const before = decode(context, done);
    const text = decode(context);
    if (!isEnd && (text.endsWith(REPLACEMENT) || text.length <= before.length)) return "";
    context = done;
    done = ids.length;
    return text.slice(before.length);
  };
  return {
    push(id) {
      if (kept.has(id)) {
        const rest = take(true);
        [ids.length, context, done] = [0, 0, 0];
        return rest + tokenizer.decode([id]);
      }
      ids.push(id);
      return take(false);
    },
    end: () => take(true),
  };
}
