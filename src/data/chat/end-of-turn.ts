import type { Tokenizer } from "../tokens/tokenizer.ts";
import { attempt } from "../../base/errors.ts";
import { chatTemplateOf } from "./chat-template.ts";

/** Takes the place of a content; no template writes it by itself. */
const CONTENT = "\u{10FFFD}";

/** A conversation whose answer is `CONTENT`. */
export const TALK = [
  { role: "user", content: "a" },
  { role: "assistant", content: CONTENT },
] as const;

/** A token that ends an answer. */
export interface TurnEnd {
  readonly token: string;
  readonly id: number;
}

/**
 * The token that the chat template puts behind an answer, marked as special or not; null: none. This is what ends a turn, whatever
 * the model's files declare as eos: training learns it, so it ends answers, and exports declare it.
 */
export function endOfTurn(tokenizer: Tokenizer): TurnEnd | null {
  const text = attempt(() => chatTemplateOf(tokenizer).render({ messages: TALK }));
  if (text === null || !text.includes(CONTENT)) return null;
  const behind = text.slice(text.lastIndexOf(CONTENT) + CONTENT.length).trimStart();
  const found = [...tokenizer.addedTokens].filter(([token]) => behind.startsWith(token));
  const [end] = found.sort(([a], [b]) => b.length - a.length);
  return end === undefined ? null : { token: end[0], id: end[1] };
}

/** The ids that end a text, where the model's files lack the one that ends a turn; null: they have it. */
export function undeclaredEnds(eosTokenIds: readonly number[], tokenizer: Tokenizer): number[] | null {
  const end = endOfTurn(tokenizer);
  return end === null || eosTokenIds.includes(end.id) ? null : [...eosTokenIds, end.id];
}

/** The texts of the tokens that may end a turn in a rendering. */
export function endTokens(tokenizer: Tokenizer): string[] {
  const { specialTokens, namedTokens } = tokenizer;
  const end = endOfTurn(tokenizer)?.token;
  const { eos_token: eos } = namedTokens;
  return [...new Set([...specialTokens.keys(), ...(end === undefined ? [] : [end]), ...(eos ? [eos] : [])])];
}
