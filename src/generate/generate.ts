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

/** Continues a prompt, token by token, until a stop token, the limit, or the end of the decoder's room. */
export function* generate(decoder: Decoder, prompt: readonly number[], options: GenerateOptions): Generator<number, void> {
  const ids = [...prompt];
  for (let count = 0; count < options.limit && (count === 0 || ids.length <= decoder.maxTokens); count++) {
    const id = options.sampler(decoder.feed(ids), ids);
    if (options.stop.has(id)) return;
    yield id;
    ids.push(id);
  }
}

/** The tokens that end an answer: the model's and the tokenizer's. */
export function stopTokens(config: ModelConfig, tokenizer: Tokenizer): Set<number> {
  return new Set([...config.eosTokenIds, ...(tokenizer.eosId === null ? [] : [tokenizer.eosId])]);
}
