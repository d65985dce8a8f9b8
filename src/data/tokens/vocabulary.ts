import type { Tokenizer } from "./tokenizer.ts";

/** The tokens of a tokenizer with their ids, as a hash: where it is the same, ids mean the same, whatever chat template is beside it. */
export function vocabularyOf({ json, addedTokens }: Pick<Tokenizer, "json" | "addedTokens">): string {
  return new Bun.CryptoHasher("sha256").update(JSON.stringify([json["model"], [...addedTokens]])).digest("hex");
}
