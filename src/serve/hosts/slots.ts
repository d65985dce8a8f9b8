import type { Decoder } from "../../generate/open-decoder.ts";
import { commonPrefix } from "../caches.ts";

/** Caches that several models share: each holds a text of one of them at a time. */
export interface Slots {
  /** Chooses the decoder for a prompt, of the decoders of the model, one for each cache. */
  choose(owner: object, each: readonly Decoder[], prompt: readonly number[]): Decoder;
  /** The texts of a model are no more. */
  forget(owner: object): void;
}

/**
 * As `createCaches`: of the model's own texts the one that saves most, if it saves no less than it forgets; else the cache that was used
 * longest ago, whosever it is.
 */
export function createSlots(count: number): Slots {
  /** Longest ago first. */
  const order: { readonly index: number; owner: object | null; decoder: Decoder | null }[] = Array.from(
    { length: count },
    (_, index) => ({ index, owner: null, decoder: null }),
  );
  return {
    choose(owner, each, prompt) {
      let chosen = order[0]!;
      let most = 0;
      for (const slot of order) {
        if (slot.owner !== owner) continue;
        const { ids } = each[slot.index]!;
        const shared = commonPrefix(ids, prompt);
        if (shared > most && 2 * shared >= ids.length) [chosen, most] = [slot, shared];
      }
      order.splice(order.indexOf(chosen), 1);
      order.push(chosen);
      const decoder = each[chosen.index]!;
      if (chosen.decoder !== decoder) {
        // What the other model has computed there is overwritten.
        chosen.decoder?.startAnew([]);
        decoder.startAnew([]);
      }
      [chosen.owner, chosen.decoder] = [owner, decoder];
      return decoder;
    },
    forget(owner) {
      for (const slot of order) if (slot.owner === owner) [slot.owner, slot.decoder] = [null, null];
    },
  };
}
