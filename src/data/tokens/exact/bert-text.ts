import { isMark, isPunctuation } from "./bert-characters.ts";

/** Settings of a `BertNormalizer` in tokenizer.json. */
export interface BertNormalizer {
  readonly clean_text?: boolean;
  readonly handle_chinese_chars?: boolean;
  /** null: where letters become small. */
  readonly strip_accents?: boolean | null;
  readonly lowercase?: boolean;
}

/**
 * Characters that are no text: controls, formats, private use, U+FFFD. Some formats are younger than the tables that BERT's words were
 * cut by, and stay.
 */
const NO_TEXT = /(?![\t\n\r\u0890\u0891\u08E2\u{110CD}\u{13430}-\u{1343F}])[\p{Cc}\p{Cf}\p{Co}\uFFFD]/gu;
const WHITE = /[\t\n\r\p{Zs}\p{Zl}\p{Zp}]/gu;
/** Chinese characters, which are words by themselves. */
const CHINESE =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;
/** Runs of what those tables know how to take apart: letters of the scripts that came later stay whole. */
const OLD = /[^\u{105C0}-\u{105FF}\u{11380}-\u{113CF}\u{11900}-\u{1195F}\u{16100}-\u{1613F}\u{16D40}-\u{16D7F}]+/gu;

/** A text as BERT's model of words sees it, as in `tokenizers`' BertNormalizer. */
export function normaliseForBert(text: string, settings: BertNormalizer): string {
  const { clean_text: cleans = true, handle_chinese_chars: splits = true, lowercase = true } = settings;
  const strips = settings.strip_accents ?? lowercase;
  let result = text;
  if (cleans) result = result.replace(NO_TEXT, "").replace(WHITE, " ");
  if (splits) result = result.replace(CHINESE, " $& ");
  if (strips) {
    const apart = result.replace(OLD, (part) => part.normalize("NFD"));
    result = "";
    for (const character of apart) if (!isMark(character.codePointAt(0)!)) result += character;
  }
  // One by one: at the end of a word a capital sigma would become another letter.
  return lowercase ? result.replace(/\P{ASCII}|[A-Z]/gu, (character) => character.toLowerCase()) : result;
}

/** The words of a normalised text: between white space, each mark of punctuation by itself. */
export function wordsForBert(text: string): string[] {
  const words: string[] = [];
  for (const run of splitWhite(text)) {
    let from = 0;
    let at = 0;
    for (const character of run) {
      const next = at + character.length;
      if (isPunctuation(character.codePointAt(0)!)) {
        if (at > from) words.push(run.slice(from, at));
        words.push(character);
        from = next;
      }
      at = next;
    }
    if (from < run.length) words.push(run.slice(from));
  }
  return words;
}

/** The parts between white space as Unicode has it, to which a byte order mark does not belong. */
export function splitWhite(text: string): string[] {
  return text.match(/\P{White_Space}+/gu) ?? [];
}
