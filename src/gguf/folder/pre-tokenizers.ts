/** llama.cpp's names of ways of splitting a text into words (`tokenizer.ggml.pre`), and how `tokenizer.json` says the same. */

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const FIRST = "[^\\r\\n\\p{L}\\p{N}]?";

/** The name where a word becomes tokens by merges alone, and where a word that is a token is that token (`ignore_merges`). */
export interface PreTokenizer {
  readonly merged?: string;
  readonly whole?: string;
}

/** By the regular expression that a text is split by, each match being a word. */
export const SPLITS: ReadonlyMap<string, PreTokenizer> = new Map<string, PreTokenizer>([
  [`${CONTRACTIONS}|${FIRST}\\p{L}+|\\p{N}{1,3}${REST}`, { merged: "dbrx", whole: "llama-bpe" }],
  [`${CONTRACTIONS}|${FIRST}\\p{L}+|\\p{N}${REST}`, { merged: "qwen2" }],
  [`${CONTRACTIONS}|${FIRST}[\\p{L}\\p{M}]+|\\p{N}${REST.replace("[^\\s\\p{L}", "[^\\s\\p{L}\\p{M}")}`, { merged: "qwen35" }],
  [
    `${FIRST}${UPPER}*${LOWER}+${CONTRACTIONS}?|${FIRST}${UPPER}+${LOWER}*${CONTRACTIONS}?|\\p{N}{1,3}${REST.replace("]*", "/]*")}`,
    { merged: "gpt-4o" },
  ],
  [`${FIRST}${UPPER}*${LOWER}+|${FIRST}${UPPER}+${LOWER}*|\\p{N}${REST.replace("]*", "/]*")}`, { whole: "tekken" }],
]);

/** GPT-2's own splitting, and the same of text whose digits are words by themselves. */
export const GPT2 = "gpt-2";
export const DIGITS = "smollm";

/** Other names that llama.cpp has for the same. */
const ALIASES: Readonly<Record<string, string>> = {
  "llama-v3": "llama-bpe",
  llama3: "llama-bpe",
  falcon3: "llama-bpe",
  lfm2: "llama-bpe",
  pixtral: "llama-bpe",
  "smaug-bpe": "dbrx",
  stablelm2: "qwen2",
  "deepseek-r1-qwen": "qwen2",
  "phi-2": GPT2,
  mpt: GPT2,
  olmo: GPT2,
  starcoder: DIGITS,
  refact: DIGITS,
  "command-r": DIGITS,
  llama4: "gpt-4o",
};

/** The texts of these models are NFC before they are split, which their tokenizers make them, and llama.cpp does not. */
const NORMALISED: ReadonlySet<string> = new Set(["qwen2", "deepseek-r1-qwen", "qwen35", "olmo", "command-r"]);

/** Describes how a byte-level tokenizer splits texts. */
export interface ByteLevelSplit {
  /** `normalizer` and `pre_tokenizer` of `tokenizer.json`. */
  readonly normalizer: object | null;
  readonly preTokenizer: object;
  /** True if a word that is a token is that token, whatever the merges (`ignore_merges`). */
  readonly whole: boolean;
}

/** Returns what a name of llama.cpp's means; null: it is not known here. */
export function splitOf(name: string): ByteLevelSplit | null {
  const own = (Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined) ?? name;
  const normalizer = NORMALISED.has(name) ? { type: "NFC" } : null;
  const byteLevel = (words: boolean) => ({ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: words });
  const sequence = (first: object, second: object) => ({ type: "Sequence", pretokenizers: [first, second] });
  if (own === GPT2) return { normalizer, preTokenizer: byteLevel(true), whole: false };
  if (own === DIGITS)
    return { normalizer, preTokenizer: sequence({ type: "Digits", individual_digits: true }, byteLevel(true)), whole: false };
  for (const [regex, { merged, whole }] of SPLITS) {
    if (merged !== own && whole !== own) continue;
    const split = { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
    return { normalizer, preTokenizer: sequence(split, byteLevel(false)), whole: whole === own };
  }
  return null;
}

/** All names that are known here. */
export const PRE_TOKENIZERS: readonly string[] = [
  GPT2,
  DIGITS,
  ...[...SPLITS.values()].flatMap(({ merged, whole }) => [merged, whole].filter((name) => name !== undefined)),
  ...Object.keys(ALIASES),
].sort();
