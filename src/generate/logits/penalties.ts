import type { LogitRule } from "../sampler.ts";

export interface Penalties {
  /** Taken from the logit of each token that the answer has already. */
  readonly presence: number;
  /** Taken from it once more for each time that the answer has the token. */
  readonly frequency: number;
  /** Added to the logits of tokens, by id. */
  readonly bias: ReadonlyMap<number, number>;
}

/**
 * OpenAI's rule: mu_j - c_j * frequency - (c_j > 0) * presence + bias_j, where c_j says how often token j was chosen before. The rule is for
 * one answer: what the first text has is the prompt, which does not count.
 * https://platform.openai.com/docs/api-reference/chat/create
 */
export function createPenalties({ presence, frequency, bias }: Penalties): LogitRule {
  const counts = new Map<number, number>();
  let read: number | null = null;
  return (logits, text) => {
    for (let at = (read ??= text.length); at < text.length; at++) counts.set(text[at]!, (counts.get(text[at]!) ?? 0) + 1);
    read = text.length;
    for (const [id, count] of counts) logits[id]! -= count * frequency + presence;
    for (const [id, value] of bias) logits[id]! += value;
  };
}
