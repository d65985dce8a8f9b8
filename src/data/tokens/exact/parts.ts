import type { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { isRecord } from "../../../base/json.ts";
import { type BertNormalizer, normaliseForBert, splitWhite, wordsForBert } from "./bert-text.ts";
import { createPrecompiled } from "./precompiled.ts";

/** A normalizer or pre-tokenizer of the library, or a sequence of them. */
interface Part {
  normalize?(text: string): string;
  pre_tokenize_text?(text: string): string[];
  readonly normalizers?: readonly Part[];
  readonly tokenizers?: readonly Part[];
}

/**
 * Replaces parts of the library that come to other tokens than Transformers' do for some texts: those of BERT's kind (characters beyond
 * U+FFFF, capital sigmas, younger Unicode) and SentencePiece's table of replacements, in whose place it has NFKC.
 */
export function useExactParts(
  { normalizer, pre_tokenizer: words }: HuggingFaceTokenizer,
  json: Readonly<Record<string, unknown>>,
): void {
  eachPart(normalizer, json.normalizer, (part, settings) => {
    if (settings["type"] === "BertNormalizer") part.normalize = (text) => normaliseForBert(text, settings as BertNormalizer);
    if (settings["type"] === "Precompiled" && typeof settings["precompiled_charsmap"] === "string")
      part.normalize = createPrecompiled(settings["precompiled_charsmap"]);
  });
  eachPart(words, json.pre_tokenizer, (part, settings) => {
    if (settings["type"] === "BertPreTokenizer") part.pre_tokenize_text = wordsForBert;
    if (settings["type"] === "WhitespaceSplit") part.pre_tokenize_text = splitWhite;
  });
}

/** Walks a part and its settings in tokenizer.json together. */
function eachPart(part: unknown, settings: unknown, use: (part: Part, settings: Record<string, unknown>) => void): void {
  if (!part || !isRecord(settings)) return;
  const { normalizers, tokenizers } = part as Part;
  const inner = [settings["normalizers"], settings["pretokenizers"]].find(Array.isArray) as readonly unknown[] | undefined;
  if (inner) (normalizers ?? tokenizers ?? []).forEach((one, i) => eachPart(one, inner[i], use));
  else use(part as Part, settings);
}
