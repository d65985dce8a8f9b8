import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { tokenBytesOf } from "../data/tokens/token-bytes.ts";
import type { ChosenToken, TokenLogprob } from "../generate/logits/logprobs.ts";
import type { LogprobView, PlacedToken, TokenView } from "./api/endpoint.ts";
import type { Part } from "./parts.ts";

/** Tells which tokens of an answer each of its parts is made of. */
export interface TokenPlaces {
  /** The next token of the answer, with which so many characters became certain. */
  add(characters: number, chosen: ChosenToken | null): void;
  /** The tokens of a part that have not been given out; none of what is no text, and none where log-probabilities are not known. */
  take(part: Part): PlacedToken[];
  /** The number of tokens before the first part that is no reasoning. */
  readonly reasoning: number;
}

/** A token whose character is not complete has no characters, and belongs to the token that completes it. */
export function createTokenPlaces(tokenizer: Tokenizer): TokenPlaces {
  /** Made when the first log-probability is to be told: the bytes of all tokens are no small thing. */
  let view: ((chosen: ChosenToken) => LogprobView) | null = null;
  const waiting: { readonly from: number; readonly to: number; readonly chosen: ChosenToken }[] = [];
  const ends: number[] = [];
  let at = 0;
  let reasoning: number | null = null;
  let hasReasoning = false;
  return {
    add(characters, chosen) {
      const from = at;
      at += characters;
      ends.push(at);
      if (chosen) waiting.push({ from, to: at, chosen });
    },
    take(part) {
      if ("reasoning" in part) hasReasoning = true;
      if (!("text" in part)) return [];
      const { from, text } = part;
      if (hasReasoning) reasoning ??= ends.filter((end) => end <= from).length;
      const tokens: PlacedToken[] = [];
      while (waiting[0] !== undefined && waiting[0].from < from + text.length) {
        const token = waiting.shift()!;
        if (token.to > from || token.from >= from)
          tokens.push({ view: (view ??= createView(tokenizer))(token.chosen), at: token.from });
      }
      return tokens;
    },
    get reasoning() {
      return reasoning ?? (hasReasoning ? ends.length : 0);
    },
  };
}

function createView(tokenizer: Tokenizer): (chosen: ChosenToken) => LogprobView {
  const bytes = tokenBytesOf(tokenizer);
  const viewOf = ({ id, logprob }: TokenLogprob): TokenView => {
    const own = bytes?.of(id) ?? null;
    const token = own === null ? tokenizer.decode([id]) : Buffer.from(own).toString();
    return { token, logprob, bytes: own === null ? null : [...own] };
  };
  return (chosen) => ({ ...viewOf(chosen), top_logprobs: chosen.top.map(viewOf) });
}
