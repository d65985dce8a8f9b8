import type { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";

/** Encodes a text in which added tokens' texts at some places (UTF-16 units, ascending) are text like any other. */
export type Escape = <Result>(text: string, places: readonly number[], encode: (text: string) => Result) => Result;

/** The library's pre-tokenizer, which is called with each part of a text between added tokens. */
type PreTokenizer = (text: string, options?: object) => string[];

/** Noncharacters of Unicode, a UTF-16 unit each: no text that is exchanged holds them. */
const MARKS = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

/**
 * Makes a tokenizer able to pass over added tokens, as Transformers' `split_special_tokens` does everywhere. A mark behind the first character
 * of such a text hides it from the search for added tokens, and is taken away before the text is cut into words.
 */
export function createEscape(inner: HuggingFaceTokenizer): Escape {
  const own = inner.pre_tokenizer as PreTokenizer | null;
  let mark: string | null = null;
  const preTokenize: PreTokenizer = (text, options) => {
    const plain = mark === null ? text : text.replaceAll(mark, "");
    return own === null ? [plain] : own(plain, options);
  };
  return (text, places, encode) => {
    const free = MARKS.find((character) => !text.includes(character));
    if (free === undefined) throw new Error("the text holds all noncharacters");
    let marked = "";
    let from = 0;
    for (const place of places) {
      marked += text.slice(from, place + 1) + free;
      from = place + 1;
    }
    mark = free;
    (inner as { pre_tokenizer: unknown }).pre_tokenizer = preTokenize;
    try {
      return encode(marked + text.slice(from));
    } finally {
      mark = null;
      (inner as { pre_tokenizer: unknown }).pre_tokenizer = own;
    }
  };
}
