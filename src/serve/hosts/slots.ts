import type { Decoder } from "../../generate/open-decoder.ts";
import { commonPrefix } from "../caches.ts";

/** Caches that several models share: each holds a text of one of them at a time. */
export interface Slots {
  /**
   * Chooses a cache for a prompt that no answer is made in, of those of a model's decoders, one for each cache. It is the answer's until
   * `leave`.
   */
  enter(owner: object, each: readonly Decoder[], prompt: readonly number[]): Slot;
  /** The texts of a model are no more. */
  forget(owner: object): void;
  /** The tokens that a cache holds, whose ever they are. */
  endOf(index: number): number;
}

export interface Slot {
  readonly index: number;
  readonly decoder: Decoder;
  leave(): void;
}

interface State {
  readonly index: number;
  owner: object | null;
  decoder: Decoder | null;
  isBusy: boolean;
}

/**
 * As `createCaches`: of the model's own texts the one that saves most, if it saves no less than it forgets; else the cache that was used
 * longest ago, whose ever it is.
 */
export function createSlots(count: number): Slots {
  const all = Array.from({ length: count }, (_, index): State => ({ index, owner: null, decoder: null, isBusy: false }));
  /** Longest ago first. */
  const order = [...all];
  return {
    enter(owner, each, prompt) {
      const free = order.filter(({ isBusy }) => !isBusy);
      let chosen = free[0];
      if (!chosen) throw new Error("more answers are made than there are caches");
      let most = 0;
      for (const slot of free) {
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
      const slot = chosen;
      Object.assign(slot, { owner, decoder, isBusy: true });
      return { index: slot.index, decoder, leave: () => void (slot.isBusy = false) };
    },
    forget(owner) {
      for (const slot of order) if (slot.owner === owner) [slot.owner, slot.decoder] = [null, null];
    },
    endOf: (index) => all[index]!.decoder?.ids.length ?? 0,
  };
}
