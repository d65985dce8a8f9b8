import type { Tokenizer } from "../data/tokenizer.ts";
import type { ModelConfig } from "../hf/config.ts";
import type { Decoder } from "./cached.ts";
import type { Sampler } from "./sampler.ts";

export interface GenerateOptions {
  /** New tokens at most. */
  readonly limit: number;
  /** Tokens that end the text; they are not part of it. */
  readonly stop: ReadonlySet<number>;
  readonly sampler: Sampler;
}

/** What happens on the way of a generation: the cache holds so many tokens of the prompt and more are to come, or a new token. */
export type GenerateStep = { readonly held: number } | { readonly id: number };

/** Continues a prompt, token by token, until a stop token, the limit, or the end of the decoder's room. */
export function* generate(decoder: Decoder, prompt: readonly number[], options: GenerateOptions): Generator<number, void> {
  for (const step of generateInPieces(decoder, prompt, options)) if ("id" in step) yield step.id;
}

/**
 * As `generate`, with a pause between two chunks of the prompt too; the first is before anything is computed. Returns whether
 * a stop token ended the text.
 */
export function* generateInPieces(
  decoder: Decoder,
  prompt: readonly number[],
  { limit, stop, sampler }: GenerateOptions,
): Generator<GenerateStep, boolean> {
  const ids = [...prompt];
  for (let count = 0; count < limit && (count === 0 || ids.length <= decoder.maxTokens); count++) {
    const pieces = decoder.feedInPieces(ids);
    let piece = pieces.next();
    for (; !piece.done; piece = pieces.next()) if (count === 0) yield { held: piece.value };
    const id = sampler(piece.value, ids);
    if (stop.has(id)) return true;
    yield { id };
    ids.push(id);
  }
  return false;
}

/** The tokens that end an answer: the model's and the tokenizer's. */
export function stopTokens(config: ModelConfig, tokenizer: Tokenizer): Set<number> {
  return new Set([...config.eosTokenIds, ...(tokenizer.eosId === null ? [] : [tokenizer.eosId])]);
}
