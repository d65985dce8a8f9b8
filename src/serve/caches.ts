import type { Decoder } from "../generate/open-decoder.ts";

/** Chooses the decoder for a prompt. */
export type Caches = (prompt: readonly number[]) => Decoder;

/**
 * Chooses, of several decoders, the one whose cache saves most, if it saves no less than it forgets: the prompt goes on with at least half
 * of the text in it, as the next turn of a conversation does. For any other prompt, the one that was used longest ago.
 */
export function createCaches(decoders: readonly Decoder[]): Caches {
  /** Longest ago first. */
  const order = [...decoders];
  return (prompt) => {
    let chosen = order[0]!;
    let most = 0;
    for (const decoder of order) {
      const shared = commonPrefix(decoder.ids, prompt);
      if (shared > most && 2 * shared >= decoder.ids.length) [chosen, most] = [decoder, shared];
    }
    order.splice(order.indexOf(chosen), 1);
    order.push(chosen);
    return chosen;
  };
}

/** The number of tokens that two texts begin with alike. */
export function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
